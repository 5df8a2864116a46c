"""Run by Alembic for each step, in the transaction that storage/migrate.py has open."""

from __future__ import annotations

from alembic import context

from storage import schema

context.configure(
    connection=context.config.attributes["connection"], target_metadata=schema.metadata
)
context.run_migrations()
