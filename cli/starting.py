"""Why a part cannot start, in words that help."""

from __future__ import annotations

import errno


class StartError(Exception):
    """The process cannot start; the message says why and what to do."""


def in_use(what: str, host: str, port: int, option: str, error: OSError) -> StartError:
    """What to say of an address that cannot be had."""
    if error.errno == errno.EADDRINUSE:
        return StartError(
            f"{what} {host}:{port} is in use, perhaps by another wattbus: "
            f"choose another port with {option}"
        )
    return StartError(f"cannot listen on {what} {host}:{port} ({option}): {error.strerror}")
