"""How a part starts quickly, and why it cannot start, in words that help."""

from __future__ import annotations

import errno
import gc
from collections.abc import Iterator
from contextlib import contextmanager


class StartError(Exception):
    """The process cannot start; the message says why and what to do."""


@contextmanager
def importing(*, stays: bool = False) -> Iterator[None]:
    """Import much in here: nothing of it is garbage, and to look for some is a tenth of a start.

    ``stays``: whatever is there afterwards is not looked at again, not even at the program's end.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if stays:
            gc.freeze()
        if before:
            gc.enable()


def in_use(what: str, host: str, port: int, option: str, error: OSError) -> StartError:
    """What to say of an address that cannot be had."""
    if error.errno == errno.EADDRINUSE:
        return StartError(
            f"{what} {host}:{port} is in use, perhaps by another wattbus: "
            f"choose another port with {option}"
        )
    return StartError(f"cannot listen on {what} {host}:{port} ({option}): {error.strerror}")
