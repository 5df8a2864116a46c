"""The configuration: one TOML file, overridden by flags; wrong keys and values named by line."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import tempfile
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import msgspec
import tzlocal
from platformdirs import user_data_path

from cli.config_addresses import LOOPBACK, Address, BusAddress
from cli.config_lines import line_of
from cli.config_listeners import Line, Listener
from cli.config_retention import Retention, RetentionGroup

if TYPE_CHECKING:  # what serves starts without SQL and NumPy, which are slow to import
    from storage.database import Database
    from storage.defaults import Defaults

_LONGEST_IPC_PATH = 100  # the kernel's limit is 107


class ConfigError(Exception):
    """The configuration cannot be used; the message says where and what to do."""


class Config(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Everything that can be configured; the keys of the TOML file."""

    data: str | None = None
    database_url: str | None = msgspec.field(default=None, name="database")
    time_zone: str | None = None
    alert_limit_kwh: Decimal = Decimal(500)
    price: Decimal = Decimal("0.50")
    currency: str = "R$"
    billing_day: int = 1
    listeners: tuple[Listener, ...] = (Listener(),)
    query: BusAddress = BusAddress()
    live: BusAddress = BusAddress()
    http: Address = Address()
    retention: Retention = Retention()

    @property
    def directory(self) -> Path:
        """The one directory that holds all data."""
        return Path(self.data).expanduser() if self.data else user_data_path("wattbus")

    @property
    def database(self) -> Database:
        """The database: on a server, or in the directory of all data."""
        from storage.database import Database

        return Database(self.directory, self.database_url)

    @property
    def writer_endpoint(self) -> str:
        """The local socket of the writer, which belongs to the data directory.

        Raises ConfigError where its directory cannot be made.
        """
        path = self.directory.absolute() / "run" / "writer"
        elsewhere = len(str(path)) > _LONGEST_IPC_PATH
        if elsewhere:
            name = hashlib.sha256(str(path).encode()).hexdigest()[:16]
            path = Path(tempfile.gettempdir()) / f"wattbus-{name}" / "writer"
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            foreign = elsewhere and path.parent.stat().st_uid != os.getuid()
        except OSError as error:
            raise ConfigError(f"cannot write to {path.parent} (--data): {error.strerror}") from None
        if foreign:  # anybody may make a directory there
            raise ConfigError(f"{path.parent} belongs to another user: choose another --data")
        return f"ipc://{path}"

    @property
    def defaults(self) -> Defaults:
        """What rules where a meter has no setting."""
        from storage.defaults import Defaults

        return Defaults(
            time_zone=self.time_zone or tzlocal.get_localzone_name() or "UTC",
            limit_wh=int(self.alert_limit_kwh * 1000),
            price=self.price,
            currency=self.currency,
            billing_day=self.billing_day,
        )

    def endpoint(self, service: str, *, to_connect: bool = False) -> str:
        """``tcp://host:port`` of ``query``, ``live`` or ``http``, to bind or to connect to."""
        host, port = self.where(service)
        if to_connect:
            host = reachable(host)
        return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"

    def where(self, service: str) -> tuple[str, int]:
        """Address and port of ``query``, ``live`` or ``http``."""
        address: Address = getattr(self, service)
        return address.address, PORTS[service] if address.port is None else address.port


def reachable(address: str) -> str:
    """Where to reach, on this machine, what listens on the address."""
    return LOOPBACK if address in ("0.0.0.0", "::") else address


PORTS = {"query": 5002, "live": 5003, "http": 5000}

EXAMPLE = """\
data = "/var/lib/wattbus"
time_zone = "America/Sao_Paulo"   # of meters that have none of their own
alert_limit_kwh = 500             # a billing period
price = "0.50"                    # a kWh
currency = "R$"
billing_day = 1

[[listeners]]                     # as many as you like
address = "127.0.0.1"             # "0.0.0.0" to take in meters from other machines
port = 5001
format = "auto"                   # auto, or one of docs/formats.md
networks = ["127.0.0.0/8", "::1/128"] # whose unsigned datagrams are taken
meters = ["*"]                    # and of which meters
interval_s = 0                    # 60: one reading a minute of senders that send each second

[query]
port = 5002
[live]
port = 5003
[http]
port = 5000

[retention]                       # docs/retention.md
ladder = "raw 90 d, 15 min 5 y, day"
[[retention.groups]]
meters = "lab-*"
ladder = "raw"
"""


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that say where the data are: of what only works on them."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="a TOML file, see docs/config.md"
    )
    parser.add_argument("--data", metavar="DIR", help="the directory for all data")
    parser.add_argument("--database", metavar="URL", help="a PostgreSQL database, see docs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that every part of the collector takes."""
    add_data_arguments(parser)
    parser.add_argument("--address", metavar="HOST", help="listen there with everything")
    for flag, default in (("udp", 5001), *PORTS.items()):
        parser.add_argument(f"--{flag}-port", type=_port, metavar="N", help=f"default {default}")
    parser.add_argument("--time-zone", metavar="ZONE", help="of meters that have none of their own")


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 0 to 65535")
    return int(text)


def flags_of(arguments: argparse.Namespace) -> list[str]:
    """The same flags again, for a child process."""
    ports = (f"{name}_port" for name in ("udp", *PORTS))
    names = ("config", "data", "database", "address", *ports, "time_zone")
    given = ((name, getattr(arguments, name)) for name in names)
    return [
        part
        for name, value in given
        if value is not None
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]


def load(arguments: argparse.Namespace) -> Config:
    """The configuration of the file and of what flags there are; raises ConfigError."""
    given = vars(arguments)
    config = Config()
    if given["config"]:
        config = _parse(given["config"])
        _check(config, given["config"])
    plain = {"data": "data", "database": "database_url", "time_zone": "time_zone"}
    changes: dict[str, Any] = {
        field: value for flag, field in plain.items() if (value := given.get(flag)) is not None
    }
    host = given.get("address")
    for service in PORTS:
        changes[service] = _override(getattr(config, service), host, given.get(f"{service}_port"))
    first, *others = config.listeners
    others = [_override(other, host, None) for other in others]
    changes["listeners"] = (_override(first, host, given.get("udp_port")), *others)
    config = msgspec.structs.replace(config, **changes)
    _check(config, None)
    return config


def _override(listener: Any, address: str | None, port: int | None) -> Any:
    given = {"address": address, "port": port}
    return msgspec.structs.replace(
        listener, **{name: value for name, value in given.items() if value is not None}
    )


def _parse(path: Path) -> Config:
    try:
        text = path.read_text("utf-8")
        return msgspec.convert(tomllib.loads(text), Config, strict=False)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise ConfigError(_with_line(path, text, str(error))) from None


def _with_line(path: Path, text: str, message: str) -> str:
    """The complaint with the line of the key that it is about."""
    where = re.search(r" - at `\$\.?(.*)`$", message)
    unknown = re.search(r"unknown field `(.*?)`", message)
    keys = re.findall(r"\w+", where.group(1)) if where else []
    if unknown:
        keys.append(unknown.group(1))
        known = ", ".join(_known(keys[:-1]))
        message = f"unknown key {unknown.group(1)!r}: known there are {known}"
    else:
        said = message.split(" - at")[0].lower()
        said = said.replace(" | null", "").replace("`object`", "`table`")
        message = f"{'.'.join(keys)}: {said}"
    return f"{path}:{line_of(text, keys)}: {message}"


def _known(keys: list[str]) -> tuple[str, ...]:
    tables = {"": Config, "listeners": Listener, "retention": Retention}
    tables |= {"query": BusAddress, "live": BusAddress, "retention.groups": RetentionGroup}
    tables["listeners.line"] = Line
    path = ".".join(key for key in keys if not key.isdigit())
    return tables.get(path, Address).__struct_encode_fields__


def _check(config: Config, path: Path | None) -> None:
    """Raise ConfigError for values of the right type that make no sense."""
    complaints = [
        ("time_zone", _is_zone(zone := config.time_zone), f"{zone!r} is no IANA time zone"),
        ("billing_day", 1 <= config.billing_day <= 31, "a day of the month is 1 to 31"),
        ("price", config.price.is_finite() and config.price >= 0, "a price is not negative"),
        (
            "alert_limit_kwh",
            config.alert_limit_kwh.is_finite() and 0 <= config.alert_limit_kwh <= 10**12,
            "a limit is 0 to 10^12 kWh",
        ),
        ("listeners", bool(config.listeners), "there must be one at least"),
        ("data", config.data != "", "must not be empty"),
        ("database", not (wrong := _wrong_url(config.database_url)), wrong),
    ]
    for number, listener in enumerate(config.listeners):
        complaints += listener.complaints(f"listeners.{number}")
    for service in PORTS:
        address, port = config.where(service)
        complaints += [
            (f"{service}.port", 0 <= port <= 65535, "a port is 0 to 65535"),
            (f"{service}.address", address != "", "must not be empty"),
        ]
    complaints += config.retention.complaints()
    for key, good, complaint in complaints:
        if not good:
            text = path.read_text("utf-8") if path else ""
            keys = key.split(".")
            place = f"{path}:{line_of(text, keys)}: " if path and keys[-1] in text else ""
            raise ConfigError(f"{place}{key}: {complaint}")


def _wrong_url(url: str | None) -> str:
    """What is wrong with the URL of a database, or nothing."""
    if url is None:
        return ""
    from storage.engine import Database, StorageError, place

    try:
        place(Database(Path(), url or "empty"))
    except StorageError as error:
        return str(error)
    return ""


def _is_zone(name: str | None) -> bool:
    try:
        ZoneInfo("UTC" if name is None else name)
    except (ValueError, OSError, KeyError):
        return False
    return True
