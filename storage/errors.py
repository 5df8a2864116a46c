"""Why the data cannot be used; apart from SQL, which is slow to import."""

from __future__ import annotations


class StorageError(Exception):
    """The database cannot be used; the message says why and what to do."""


class UnavailableError(StorageError):
    """The database's server is away, or does not let us in now: later it may."""


class AnotherWriterError(UnavailableError):
    """Another process writes to the database."""


class HeldUpError(UnavailableError):
    """Nothing is to be written now, though the database could be; later it may."""
