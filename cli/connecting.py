"""The way to the query service: its options, a client made of them, and what is said of errors."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from cli import values
from cli.parsing import Argument
from query.client import DEFAULT_ENDPOINT, Client
from query.transport import BusError

_TRIES = 3
_WRONG_INPUT = frozenset(  # codes of the bus
    {
        *("bad_request", "bad_endpoint", "unknown_meter"),
        *("bad_key_file", "refused", "forbidden", "unknown_service"),
    }
)


def key_argument() -> Argument:
    """The option that says who we are."""
    return Argument(
        ("--key-file",),
        "who you are, for a service that wants a key (default: $WATTBUS_KEY)",
        metavar="FILE",
        default=os.environ.get("WATTBUS_KEY") or None,
    )


def connection_arguments() -> tuple[Argument, ...]:
    """The options that say where the service is and how long to wait for it."""
    return (
        Argument(
            ("--query",),
            f"where the service listens (default: $WATTBUS_QUERY, else {DEFAULT_ENDPOINT})",
            metavar="tcp://HOST:PORT",
            default=os.environ.get("WATTBUS_QUERY") or DEFAULT_ENDPOINT,
        ),
        Argument(
            ("--timeout",),
            "how long to wait for an answer, in all (default: 6)",
            values.seconds,
            "SECONDS",
            6.0,
        ),
        key_argument(),
    )


def connect(arguments: argparse.Namespace) -> Client:
    """A client as the connection's options say. Raises BusError for no address, no key file."""
    return Client(
        arguments.query,
        timeout=arguments.timeout / _TRIES,
        tries=_TRIES,
        key_file=arguments.key_file,
    )


def guarded(action: Callable[[], None]) -> int:
    """Do something that a person asked for; the exit code, after a message if it went wrong.

    0: done, or the reader of the output has gone. 1: the service failed or is away. 2: wrong
    input. 130: interrupted.
    """
    try:
        action()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The interpreter's last flush must not fail on it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except values.InputError as error:
        return complain(str(error), 2)
    except BusError as error:
        return complain(str(error), 2 if error.code in _WRONG_INPUT else 1)
    except OSError as error:
        return complain(f"cannot write the answer: {error.strerror or error}", 1)
    return 0


def complain(text: str, code: int) -> int:
    """Say on stderr what went wrong; answers the exit code."""
    print(f"wattbus: {text}", file=sys.stderr, flush=True)
    return code
