"""Readings into SQL and back: the journal, the meters, the one process that writes."""
