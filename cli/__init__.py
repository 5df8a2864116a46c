"""Composes the parts and talks to people: commands, the REPL, serve, the meter."""

import os

# NumPy starts a thread for each processor when it is imported, for linear algebra, of which there
# is none here: a seventh of what the processor does for a start.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
