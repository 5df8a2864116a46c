"""Commands of the shell in this process: of one in its own nearly all would be Python's imports.

That a program of its own does the same is shown where it matters: where a pipe is left, a signal
comes, or a terminal is there.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from subprocess import CompletedProcess

from cli.main import main

_COLUMNS = "COLUMNS"


def wattbus(*arguments: str, stdin: str = "", columns: str | None = None) -> CompletedProcess[str]:
    """Run ``wattbus`` as the shell would, its standard streams in files; what came of it."""
    before = sys.stdin, sys.stdout, sys.stderr, os.environ.get(_COLUMNS)
    with tempfile.TemporaryDirectory() as path, ExitStack() as files:
        given, said, complained = (Path(path) / name for name in ("in", "out", "err"))
        given.write_text(stdin)
        own = os.dup(0)
        try:
            sys.stdin = files.enter_context(given.open())
            os.dup2(sys.stdin.fileno(), 0)  # some read the descriptor itself
            sys.stdout = files.enter_context(said.open("w"))
            sys.stderr = files.enter_context(complained.open("w"))
            _set(columns)
            code = main(list(arguments))
        except SystemExit as ended:  # of wrong arguments, and of --help
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        finally:
            sys.stdin, sys.stdout, sys.stderr, width = before
            os.dup2(own, 0)
            os.close(own)
            _set(width)
        files.close()
        return CompletedProcess(arguments, code, said.read_text(), complained.read_text())


def _set(columns: str | None) -> None:
    """How wide output is that goes to no terminal; None: as wide as it is anyway."""
    os.environ.pop(_COLUMNS, None)
    if columns is not None:
        os.environ[_COLUMNS] = columns
