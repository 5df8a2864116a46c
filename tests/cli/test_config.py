"""The configuration: every key and flag, what is said of wrong ones, and docs/config.md."""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cli import config
from cli.config import Config, ConfigError
from cli.config_addresses import Address, BusAddress
from cli.config_listeners import Line, Listener
from cli.config_retention import Retention, RetentionGroup
from cli.main import main
from storage.engine import Database
from storage.ladder import parse as parse_ladder
from telemetry.formats.line_fields import PRECISIONS
from telemetry.formats.options import LineOptions, Options
from telemetry.formats.table import FORMATS

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = (ROOT / "docs/config.md").read_text("utf-8")
EXAMPLE = Config(
    data="/var/lib/wattbus",
    time_zone="America/Sao_Paulo",
    query=BusAddress(port=5002),
    live=BusAddress(port=5003),
    http=Address(port=5000),
    retention=Retention("raw 90 d, 15 min 5 y, day", (RetentionGroup("lab-*", "raw"),)),
)


URL = "postgresql+psycopg://u:p@h/d"


def parse(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    config.add_arguments(parser)
    return parser.parse_args(flags)


def load(text: str, directory: Path, *flags: str) -> Config:
    path = directory / "wattbus.toml"
    path.write_text(text, "utf-8")
    return config.load(parse("--config", str(path), *flags))


def refused(text: str, directory: Path, *flags: str) -> str:
    with pytest.raises(ConfigError) as error:
        load(text, directory, *flags)
    return str(error.value).replace(str(directory / "wattbus.toml"), "FILE")


def test_defaults() -> None:
    settings = config.load(parse())
    assert settings == Config()
    assert settings.listeners == (Listener("127.0.0.1", 5001, "auto"),)
    services = ("query", "live", "http")
    assert [settings.where(service) for service in services] == [
        ("127.0.0.1", 5002),
        ("127.0.0.1", 5003),
        ("127.0.0.1", 5000),
    ]
    assert settings.directory.name == "wattbus"
    defaults = settings.defaults
    assert (defaults.limit_wh, defaults.price, defaults.currency) == (500_000, Decimal("0.5"), "R$")
    assert defaults.billing_day == 1
    assert defaults.time_zone


def test_the_example_means_what_it_says(tmp_path: Path) -> None:
    assert load(config.EXAMPLE, tmp_path) == EXAMPLE


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ('data = "/d"', "data", "/d"),
        ('database = "postgresql+psycopg://u:p@h/d"', "database_url", URL),
        ('time_zone = "Asia/Kathmandu"', "time_zone", "Asia/Kathmandu"),
        ("alert_limit_kwh = 0.1", "alert_limit_kwh", Decimal("0.1")),
        ('alert_limit_kwh = "0"', "alert_limit_kwh", Decimal(0)),
        ('price = "0.12345678"', "price", Decimal("0.12345678")),
        ("price = 0.1", "price", Decimal("0.1")),
        ('currency = "€"', "currency", "€"),
        ("billing_day = 31", "billing_day", 31),
        ("[[listeners]]\n[[listeners]]\nport=7", "listeners", (Listener(), Listener(port=7))),
        (
            '[[listeners]]\nnetworks=["10.0.0.0/8", "fe80::/10"]\nmeters=["lab-*"]',
            "listeners",
            (Listener(networks=("10.0.0.0/8", "fe80::/10"), meters=("lab-*",)),),
        ),
        ("[[listeners]]\nnetworks=[]", "listeners", (Listener(networks=()),)),
        (
            '[[listeners]]\naddress="::"\nport=0\nformat="json"',
            "listeners",
            (Listener("::", 0, "json"),),
        ),
        (
            '[[listeners]]\naddress="::"\nformat="speedwire"\ninterfaces=["eth0", "10.0.0.1"]',
            "listeners",
            (Listener("::", format="speedwire", interfaces=("eth0", "10.0.0.1")),),
        ),
        ("[[listeners]]\ninterval_s=3600", "listeners", (Listener(interval_s=3600),)),
        (
            '[[listeners]]\nformat = "line"\n[listeners.line]\nprecision = "s"\nmeter = ["m"]\n'
            '[listeners.line.registers]\n"a.b" = "1.8.0 kWh"',
            "listeners",
            (Listener(format="line", line=Line("s", ("m",), {"a.b": "1.8.0 kWh"})),),
        ),
        (
            '[[listeners]]\nline.registers = {w = "power"}',
            "listeners",
            (Listener(line=Line(registers={"w": "power"})),),
        ),
        ('[query]\naddress = "::1"', "query", BusAddress("::1")),
        ("[live]\nport = 65535", "live", BusAddress(port=65535)),
        ("query = {curve = true}", "query", BusAddress(curve=True)),
        ("http = {port = 80}", "http", Address(port=80)),
        ('[retention]\nladder = "raw 1 d, none"', "retention", Retention("raw 1 d, none")),
        (
            '[[retention.groups]]\nmeters = "a*"\nladder = "raw"',
            "retention",
            Retention(groups=(RetentionGroup("a*", "raw"),)),
        ),
    ],
)
def test_every_key(text: str, key: str, value: Any, tmp_path: Path) -> None:
    assert load(text, tmp_path) == msgspec.structs.replace(Config(), **{key: value})


def test_what_a_decoder_is_told() -> None:
    assert Listener().options("UTC") == Options()
    line = Line("ms", ("m", "n"), {"w": "power kW"})
    told = LineOptions("ms", ("m", "n"), {"w": "power kW"})
    assert Listener(line=line).options("Asia/Tokyo") == Options(told, "Asia/Tokyo")


def test_flags_override_the_file(tmp_path: Path) -> None:
    two = config.EXAMPLE.replace("[query]", '[[listeners]]\nport=6001\nformat="json"\n\n[query]')
    flags = ["--data", "/elsewhere", "--database", URL, "--address", "::1", "--time-zone", "UTC"]
    for number, service in enumerate(("udp", "query", "live", "http")):
        flags += [f"--{service}-port", str(7000 + number)]
    expected = msgspec.structs.replace(
        EXAMPLE,
        data="/elsewhere",
        database_url=URL,
        time_zone="UTC",
        listeners=(Listener("::1", 7000), Listener("::1", 6001, "json")),
        query=BusAddress("::1", 7001),
        live=BusAddress("::1", 7002),
        http=Address("::1", 7003),
    )
    assert load(two, tmp_path, *flags) == expected
    # A child process that is given the same flags again means the same.
    again = config.flags_of(parse("--config", str(tmp_path / "wattbus.toml"), *flags))
    assert config.load(parse(*again)) == expected
    assert config.flags_of(parse()) == []


def test_whose_ladder_is_whose() -> None:
    policy = EXAMPLE.retention.policy
    assert policy.ladder("lab-1") == ()
    assert policy.ladder("home-1") == parse_ladder("raw 90 d, 15 min 5 y, day")
    assert Config().retention.policy.keeps_all


def test_the_database() -> None:
    assert Config(data="/d").database == Database(Path("/d"))
    assert Config(data="/d", database_url=URL).database == Database(Path("/d"), URL)


def test_endpoints() -> None:
    query, live = BusAddress("0.0.0.0", 1), BusAddress("::1", 2)
    settings = Config(query=query, live=live, http=Address("::", 3))
    assert settings.endpoint("query") == "tcp://0.0.0.0:1"
    assert settings.endpoint("query", to_connect=True) == "tcp://127.0.0.1:1"
    assert settings.endpoint("live") == "tcp://[::1]:2"
    assert settings.endpoint("live", to_connect=True) == "tcp://[::1]:2"
    assert settings.endpoint("http", to_connect=True) == "tcp://127.0.0.1:3"


@pytest.mark.parametrize(
    ("address", "guarded"),
    [
        ("127.0.0.1", False),
        ("127.8.9.10", False),
        ("::1", False),
        ("localhost", False),
        ("0.0.0.0", True),
        ("::", True),
        ("192.168.1.7", True),
        ("10.0.0.1", True),
        ("fe80::1", True),
        ("eth0", True),
        ("*", True),
        ("localhost.example", True),
    ],
)
def test_keys_are_wanted_beyond_loopback(address: str, guarded: bool) -> None:
    assert BusAddress(address).guarded == guarded
    assert BusAddress(address, curve=True).guarded


KEYS = ", ".join(Config.__struct_encode_fields__)
WRONG = [
    # unknown keys
    ("bogus = 1", f"FILE:1: unknown key 'bogus': known there are {KEYS}"),
    ("# one\n\n'an odd one' = 1", f"FILE:3: unknown key 'an odd one': known there are {KEYS}"),
    ('data = "/d"\n[http]\nport = 1\n[bogus]\nx = 1', f"FILE:4: unknown key 'bogus': .* {KEYS}"),
    ("[query]\n\nprot = 1", "FILE:3: unknown key 'prot': known there are address, port"),
    (
        "[[listeners]]\nport=1\n[[listeners]]\nprot=1",
        "FILE:4: unknown key 'prot': known there are address, port, format",
    ),
    # wrong types
    ("data = 5", "FILE:1: data: expected `str`, got `int`"),
    ("price = 1\ncurrency = 5", "FILE:2: currency: expected `str`, got `int`"),
    ("\nbilling_day = true", "FILE:2: billing_day: expected `int`, got `bool`"),
    ('price = "half"', "FILE:1: price: invalid decimal string"),
    ('alert_limit_kwh = "500,5"', "FILE:1: alert_limit_kwh: invalid decimal string"),
    ("query = 5", "FILE:1: query: expected `table`, got `int`"),
    ("price = 1\n[listeners]\nport = 5", "FILE:2: listeners: expected `array`, got `table`"),
    ('[query]\nport = 1\n[live]\n\nport = "x"', "FILE:5: live.port: expected `int`, got `str`"),
    ('price = 1\nquery.port = "x"', "FILE:2: query.port: expected `int`, got `str`"),
    ('price = 1\nquery = {port = "x"}', "FILE:2: query.port: expected `int`, got `str`"),
    (
        '[[listeners]]\nport=1\n[[listeners]]\nport="abc"',
        "FILE:4: listeners.1.port: expected `int`, got `str`",
    ),
    # wrong values
    ('data = ""', "FILE:1: data: must not be empty"),
    (
        'price = 1\ndatabase = "mysql://u:secret@h/d"',
        r"FILE:2: database: a database URL starts with postgresql+psycopg://, not mysql://: .*",
    ),
    ('database = ""', "FILE:1: database: this is no database URL: it looks like .*"),
    ("database = 5", "FILE:1: database: expected `str`, got `int`"),
    ('time_zone = "Mars/Base"', "FILE:1: time_zone: 'Mars/Base' is no IANA time zone"),
    ('time_zone = "../etc/passwd"', "FILE:1: time_zone: '../etc/passwd' is no IANA time zone"),
    ("alert_limit_kwh = inf", "FILE:1: alert_limit_kwh: a limit is 0 to 10^12 kWh"),
    ("alert_limit_kwh = -1", "FILE:1: alert_limit_kwh: a limit is 0 to 10^12 kWh"),
    ("price = nan", "FILE:1: price: a price is not negative"),
    ("price = -0.5", "FILE:1: price: a price is not negative"),
    ("billing_day = 0", "FILE:1: billing_day: a day of the month is 1 to 31"),
    ("billing_day = 32", "FILE:1: billing_day: a day of the month is 1 to 31"),
    ("price = 1\nlisteners = []", "FILE:2: listeners: there must be one at least"),
    ('[[listeners]]\nformat = "xml"', "FILE:2: listeners.0.format: known formats: native, json"),
    ('[[listeners]]\naddress = ""', "FILE:2: listeners.0.address: must not be empty"),
    (
        '[[listeners]]\nport=1\nnetworks = ["::1/128", "10.0.0.0/33"]',
        "FILE:3: listeners.0.networks: '10.0.0.0/33' does not appear to be an IPv4 or IPv6 "
        "network: a network is written like 192.168.7.0/24 or fe80::/10",
    ),
    (
        '[[listeners]]\nnetworks = ["10.0.0.1/8"]',
        "FILE:2: listeners.0.networks: 10.0.0.1/8 has host bits set: a network is written like "
        "192.168.7.0/24 or fe80::/10",
    ),
    ('[[listeners]]\nnetworks = ""', "FILE:2: listeners.0.networks: expected `array`, got `str`"),
    ('[[listeners]]\n\nmeters = [""]', "FILE:3: listeners.0.meters: must not be empty"),
    ("[[listeners]]\nmeters = [5]", "FILE:2: listeners.0.meters.0: expected `str`, got `int`"),
    *(
        (
            f'[[listeners]]\n{where}\ninterfaces = ["eth0"]',
            'FILE:3: listeners.0.interfaces: they are for format = "speedwire" and '
            'address = "0.0.0.0" or "::", which get multicast',
        )
        for where in ('format = "speedwire"', 'address = "0.0.0.0"', 'format = "auto"')
    ),
    (
        "[[listeners]]\ninterval_s = -1",
        "FILE:2: listeners.0.interval_s: 0 (everything is kept) to 3600 seconds",
    ),
    (
        "[[listeners]]\n\ninterval_s = 3601",
        "FILE:3: listeners.0.interval_s: 0 (everything is kept) to 3600 seconds",
    ),
    (
        "[[listeners]]\ninterval_s = 0.5",
        "FILE:2: listeners.0.interval_s: expected `int`, got `float`",
    ),
    *(
        (
            f'[[listeners]]\n{where} = "m"',
            "FILE:2: listeners.0.line.precision: known precisions: ns",
        )
        for where in ("line.precision", "'line' . precision")
    ),
    (
        '[[listeners]]\n[[listeners]]\n[listeners.line]\nprecision = ""',
        "FILE:4: listeners.1.line.precision: known precisions: ns, us, ms, s",
    ),
    (
        '[[listeners]]\n[listeners.line]\nprecision = "s"\n[[listeners]]\n[listeners.line]\n'
        'precision = "S"',
        "FILE:6: listeners.1.line.precision: known precisions: ns, us, ms, s",
    ),
    (
        "[[listeners]]\n[listeners.line]\n\nmeter = []",
        "FILE:4: listeners.0.line.meter: name one tag at least",
    ),
    (
        '[[listeners]]\n[listeners.line]\nmeter = ["a", ""]',
        "FILE:3: listeners.0.line.meter: a tag's name must not be empty",
    ),
    (
        '[[listeners]]\n[listeners.line.registers]\n"" = "power"',
        "FILE:2: listeners.0.line.registers: a field's name must not be empty",
    ),
    (
        '[[listeners]]\n[listeners.line.registers]\na = "power"\n"b.c" = "heat"',
        "FILE:4: listeners.0.line.registers.b.c: 'heat' is no register: take a name or OBIS code",
    ),
    (
        '[[listeners]]\n[listeners.line]\nregisters = {a = "power Wh"}',
        "FILE:3: listeners.0.line.registers.a: 'Wh' is no unit of power: it is told in mW, W, kW",
    ),
    (
        '[[listeners]]\n[listeners.line.registers]\na = "power_factor %"',
        "FILE:3: listeners.0.line.registers.a: '%' is no unit of power_factor: it is told without",
    ),
    (
        "[[listeners]]\n[listeners.line.registers]\na = 5",
        "FILE:2: listeners.0.line.registers: expected `str`, got `int`",
    ),
    (
        '[[listeners]]\n[listeners.line]\nprecison = "s"',
        "FILE:3: unknown key 'precison': known there are precision, meter, registers",
    ),
    (
        '[[listeners]]\nformat = "json"\n[listeners.line]\nprecision = "s"',
        'FILE:3: listeners.0.line: it is for format = "line" or "auto"',
    ),
    ('[http]\naddress = ""', "FILE:2: http.address: must not be empty"),
    (
        '[[listeners]]\nport=1\n\n[[listeners]]\naddress="::"\nport=70000',
        "FILE:6: listeners.1.port: a port is 0 to 65535",
    ),
    ("[query]\nport = 1\n[live]\nport = -3", "FILE:4: live.port: a port is 0 to 65535"),
    ("price = 1\n\nquery.port = 65536", "FILE:3: query.port: a port is 0 to 65535"),
    # retention
    (
        '[retention]\n\nladder = "raw 90 d"',
        'FILE:3: retention.ladder: the last step "raw" is kept for ever',
    ),
    (
        '[retention]\nladder = "raw"\n[[retention.groups]]\nmeters = "a"\nladder = "raw"\n'
        '[[retention.groups]]\nmeters = "b"\nladder = "day"',
        'FILE:8: retention.groups.1.ladder: a ladder starts with "raw"',
    ),
    (
        '[retention]\nladder = "raw"\n[[retention.groups]]\nmeters = ""\nladder = "raw"',
        "FILE:4: retention.groups.0.meters: must not be empty",
    ),
    ("[retention]\nladers = 1", "FILE:2: unknown key 'laders': known there are ladder, groups"),
    (
        '[[retention.groups]]\nmeters = "a"\n\nlader = "raw"',
        "FILE:4: unknown key 'lader': known there are meters, ladder",
    ),
    (
        '[retention]\nladder = "raw"\n[[retention.groups]]\nladder = "raw"',
        "FILE:3: retention.groups.0: object missing required field `meters`",
    ),
    ("[retention]\nladder = 5", "FILE:2: retention.ladder: expected `str`, got `int`"),
    ("[retention]\ngroups = 5", "FILE:2: retention.groups: expected `array`, got `int`"),
    ("price = 1\nretention = 5", "FILE:2: retention: expected `table`, got `int`"),
    # no TOML at all
    ("price =", "FILE is no TOML: .*"),
    ("price = 1\nprice = 2\n", "FILE is no TOML: Cannot overwrite a value .*line 2.*"),
]


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_what_is_wrong_is_named_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    message = refused(text, tmp_path)
    pattern = re.escape(said).replace(r"\.\*", ".*")
    assert re.match(pattern, message), message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere\.toml: No such file"):
        config.load(parse("--config", str(tmp_path / "nowhere.toml")))
    path = tmp_path / "latin.toml"
    path.write_bytes(b'currency = "\xa3"')
    with pytest.raises(ConfigError, match="is no TOML"):
        config.load(parse("--config", str(path)))


def test_the_file_is_not_blamed_for_a_flag(tmp_path: Path) -> None:
    said = refused('time_zone = "UTC"', tmp_path, "--time-zone", "Mars/Base")
    assert said == "time_zone: 'Mars/Base' is no IANA time zone"
    assert refused("", tmp_path, "--data", "") == "data: must not be empty"
    said = refused("", tmp_path, "--database", "postgresql://u:secret@h:port/d")
    assert said.startswith("database: this is no database URL: it looks like postgresql+psycopg:")
    assert "secret" not in said
    assert refused("", tmp_path, "--address", "") == "listeners.0.address: must not be empty"


@pytest.mark.parametrize("port", ["-1", "65536", "http", "1.0", "", "٣٤"])
def test_a_flag_that_is_no_port(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(f"--udp-port={port}")
    assert ended.value.code == 2
    assert "is no port: 0 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "receiver", "writer", "query", "http"])
def test_every_part_ends_with_2(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wattbus.toml"
    path.write_text("\n[query]\nport = 'x'\n")
    assert main([command, "--config", str(path)]) == 2
    assert capsys.readouterr().err == f"wattbus: {path}:3: query.port: expected `int`, got `str`\n"


def test_the_writers_socket_is_in_the_data_directory(tmp_path: Path) -> None:
    settings = Config(data=str(tmp_path / "data"))
    assert settings.writer_endpoint == f"ipc://{tmp_path}/data/run/writer"
    assert (tmp_path / "data/run").stat().st_mode & 0o777 == 0o700


def test_a_long_directory_has_its_socket_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    long, other = (Config(data=f"/nowhere/{name * 100}") for name in "ab")
    path = Path(long.writer_endpoint.removeprefix("ipc://"))
    assert len(str(path)) < 108
    assert path.parent.parent == tmp_path
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert long.writer_endpoint == f"ipc://{path}" != other.writer_endpoint
    if os.getuid() == 0:
        os.chown(path.parent, 12345, 12345)
        with pytest.raises(ConfigError, match="belongs to another user"):
            _ = long.writer_endpoint


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = Config(data=str(tmp_path / "file" / "data"))
    with pytest.raises(ConfigError, match=r"cannot write to .*file/data/run \(--data\): Not a dir"):
        _ = settings.writer_endpoint


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert Config(data="~/wattbus").directory == Path("/home/somebody/wattbus")


# docs/config.md


def sections() -> dict[str, str]:
    """The text under each heading."""
    parts = re.split(r"^## (.*)\n", DOCUMENT, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def tables(section: str) -> list[dict[str, str]]:
    """First and second column of each table."""
    rows: list[dict[str, str]] = []
    for block in re.findall(r"(?:^\|.*\n)+", sections()[section], re.MULTILINE):
        cells = [line.strip("| ").split(" | ") for line in block.splitlines()[2:]]
        rows.append({row[0].strip("`").split(" ")[0]: row[1] for row in cells})
    return rows


def test_the_document_has_the_example() -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)
    assert block == config.EXAMPLE


def test_the_document_names_every_key_and_its_default() -> None:
    own, listener, line, address, bus, retention, group = tables("The keys")
    assert tuple(address | bus) == BusAddress.__struct_encode_fields__
    assert bus["curve"] == "`false`" == f"`{str(BusAddress().curve).lower()}`"
    parts = (address, Address), (retention, Retention), (group, RetentionGroup)
    for rows, struct in ((own, Config), (listener, Listener), (line, Line), *parts):
        assert tuple(rows) == struct.__struct_encode_fields__
    made_of = (own, Config()), (listener, Listener()), (line, Line()), (retention, Retention())
    for rows, made in made_of:
        names = dict(zip(made.__struct_encode_fields__, made.__struct_fields__, strict=True))
        for key, said in rows.items():
            default = getattr(made, names[key])
            default = list(default) if isinstance(default, tuple) else default
            if default is not None and re.fullmatch(r"`[^`]*`", said):
                assert tomllib.loads(f"x = {said.strip('`')}")["x"] in (default, str(default))
    plain = {key for key, said in own.items() if not said.startswith("`")}
    services = {"query", "live", "http"}
    assert plain == {"data", "database", "time_zone", "listeners", "retention", *services}
    assert address["port"] == ", ".join(f"`{port}`" for port in config.PORTS.values())
    assert address["address"] == f'`"{Address().address}"`'
    assert all(f'`"{name}"`' in DOCUMENT for name in (*FORMATS, *PRECISIONS))


def test_the_document_names_every_flag() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    config.add_arguments(parser)
    (said,) = tables("The flags")
    known = {action.option_strings[0]: action.metavar for action in parser._actions}
    assert list(said) == list(known)
    for flag, metavar in known.items():
        assert f"| `{flag} {metavar}` |" in DOCUMENT
