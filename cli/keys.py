"""``wattbus keys``: who is let in to the query bus and the live channel, and as what."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from cli import config, render
from cli.config import Config, ConfigError
from cli.connecting import complain
from cli.render import Answer, Column, Style
from query.credentials import SUFFIX, Credentials
from storage import bus_keys, key_file
from storage.bus_keys import ROLES
from storage.database import StorageError

_WRONG_INPUT = 2
_EPILOG = """\
Beyond loopback the query service and the live channel let in only clients with a key. A key counts,
and a removed one does not, within a second; the collector need not run. The roles:
  reader     asks questions and watches
  operator   also changes names, zones, limits and prices, registers and replaces meters
  admin      also deletes meters, and everything else

examples:
  wattbus keys                               who has a key
  wattbus keys add alice --role reader       makes one, and the file alice.wattbus-key
  wattbus keys remove alice                  alice is out
  wattbus status --query tcp://collector:5002 --key-file alice.wattbus-key
"""
_COLUMNS = (
    Column("name", "name"),
    Column("role", "role"),
    Column("public", "public key"),
    Column("created", "made"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags and the verbs of ``keys``."""
    parser.description = "List the keys of the query bus, make and remove them."
    parser.epilog = _EPILOG
    config.add_data_arguments(parser)
    parser.add_argument("--json", action="store_true", help="list in JSON, for scripts")
    parser.set_defaults(work=_list)
    # A flag that is not given after the verb leaves what was given before it.
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    config.add_data_arguments(common)
    verbs = parser.add_subparsers(metavar="VERB")
    adding = verbs.add_parser("add", parents=[common], help="make a key for a client")
    adding.add_argument("name", metavar="NAME", help="what the client is called")
    adding.add_argument("--role", choices=tuple(ROLES), required=True, help="what it may do")
    adding.add_argument(
        "--output", metavar="FILE", help=f"the key file (default: NAME{SUFFIX}); - prints it"
    )
    adding.set_defaults(work=_add)
    removing = verbs.add_parser("remove", parents=[common], help="let a client in no more")
    removing.add_argument("name", metavar="NAME", help="the client")
    removing.set_defaults(work=_remove)


def run(arguments: argparse.Namespace) -> int:
    """List, make or remove keys; the exit code."""
    work: Callable[[argparse.Namespace, Config], None] = arguments.work
    try:
        work(arguments, config.load(arguments))
        sys.stdout.flush()
    except (ConfigError, StorageError) as error:
        return complain(str(error), _WRONG_INPUT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _list(arguments: argparse.Namespace, settings: Config) -> None:
    data = settings.directory
    server = bus_keys.server(data).public if key_file.exists(data) else None
    records: list[render.Record] = [
        {
            "name": user.name,
            "role": user.role.text,
            "public": user.public,
            "created": datetime.fromtimestamp(user.created_ms // 1000, UTC).isoformat(),
        }
        for user in bus_keys.clients(data)
    ]
    document = {"server": server, "keys": records}
    none = "no keys: `wattbus keys add NAME --role admin` makes one"
    answer = Answer(_COLUMNS, records, document=document, empty=none)
    render.write(answer, Style.JSON if arguments.json else Style.PEOPLE, sys.stdout)
    if server is not None and not arguments.json:
        print(f"\nthe collector's own public key: {server}")


def _add(arguments: argparse.Namespace, settings: Config) -> None:
    data, name = settings.directory, arguments.name
    bus_keys.check_name(name)
    path = None if arguments.output == "-" else Path(arguments.output or name + SUFFIX)
    # First the file, which may not be there yet: a key whose secret is lost is of no use.
    fd = sys.stdout.fileno() if path is None else _create(path)
    try:
        pair = bus_keys.add(data, name, ROLES[arguments.role])
        server = bus_keys.server(data).public
        text = Credentials(
            name=name, role=arguments.role, server=server, public=pair.public, secret=pair.secret
        ).to_text()
        with open(fd, "w", encoding="utf-8", closefd=path is not None) as file:
            file.write(text)
    except (StorageError, OSError) as error:
        if path is not None:
            with suppress(OSError):
                path.unlink()
        raise StorageError(str(error)) from None
    if path is not None:
        print(
            f"{path}: the key of {name}, {arguments.role}. Whoever has the file is {name}; its "
            f"secret is kept nowhere else.\nUse it: wattbus status --query tcp://HOST:5002 "
            f"--key-file {path}"
        )


def _create(path: Path) -> int:
    """A new file that only its owner may read, open for writing."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise StorageError(f"{path} is there already: name another with --output") from None
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror} (--output)") from None


def _remove(arguments: argparse.Namespace, settings: Config) -> None:
    bus_keys.remove(settings.directory, arguments.name)
    print(f"{arguments.name} is let in no more, within a second; its connections are at an end")
