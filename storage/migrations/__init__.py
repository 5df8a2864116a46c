"""Alembic's environment: the steps from each released schema to the next."""
