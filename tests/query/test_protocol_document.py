"""docs/bus-protocol.md says what the code does, and nothing else."""

from __future__ import annotations

import ast
import json
import re
import types
import typing
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from query import client, credentials, live, messages, publisher, service, sockets, transport
from query.roles import LEAST
from storage import changes
from storage.bus_keys import ROLES
from telemetry.intervals import Flag

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "bus-protocol.md").read_text()
SECTIONS = dict(re.findall(r"^####? `?([\w ]+?)`?\n(.*?)(?=^#|\Z)", TEXT, re.M | re.S))
STRUCTS: dict[str, type[msgspec.Struct]] = {
    str(struct.__struct_config__.tag or struct.__name__): struct
    for module in (messages, publisher, changes)
    for struct in vars(module).values()
    if isinstance(struct, type)
    and issubclass(struct, msgspec.Struct)
    and struct not in (messages.Request, messages.Reply)
}
EXAMPLES = re.findall(r"^```json\n(.*?)^```", TEXT, re.M | re.S)


def rows(section: str) -> list[list[str]]:
    """The cells of a section's first table, without its head."""
    lines = [line for line in SECTIONS[section].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def type_name(annotation: Any) -> str:
    """A field's type in the document's words."""
    names = {str: "text", int: "integer", float: "number", bool: "boolean", Decimal: "decimal"}
    if annotation in names:
        return names[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        there = [
            type_name(each) for each in arguments if each not in (type(None), msgspec.UnsetType)
        ]
        return " or ".join(there + ["null"] * (type(None) in arguments))
    if origin is list:
        return f"list of {type_name(arguments[0])}"
    if origin is dict:
        return f"map of {type_name(arguments[1])}"
    return str(annotation.__struct_config__.tag or annotation.__name__)


def default_name(default: object) -> str:
    if default is msgspec.NODEFAULT:
        return ""
    return "left out" if default is msgspec.UNSET else f"`{json.dumps(default)}`"


def test_every_message_has_a_section_and_every_section_a_message() -> None:
    known = {name for name in SECTIONS if "`" + name + "`\n" in TEXT and f"#### `{name}`" in TEXT}
    assert known == set(STRUCTS)


@pytest.mark.parametrize("name", STRUCTS)
def test_fields_of(name: str) -> None:
    fields = msgspec.structs.fields(STRUCTS[name])
    asked = issubclass(STRUCTS[name], messages.Request | changes.Change)
    expected = []
    for field in fields:
        row = [f"`{field.encode_name}`", type_name(field.type)]
        expected.append([*row, default_name(field.default)] if asked else row)
    assert [row[: 3 if asked else 2] for row in rows(name)] == expected
    assert all(len(row) == (4 if asked else 3) for row in rows(name))


@pytest.mark.parametrize("request_type", typing.get_args(messages.AnyRequest))
def test_every_request_names_its_reply(request_type: type[messages.Request]) -> None:
    reply = request_type.reply.__struct_config__.tag
    section = SECTIONS[str(request_type.__struct_config__.tag)]
    assert f"nswered by [`{reply}`](#{reply})" in section


@pytest.mark.parametrize("example", EXAMPLES)
def test_example(example: str) -> None:
    """It is a message, in both encodings, and says exactly what the document shows."""
    shown = json.loads(example)
    union: Any = messages.AnyRequest | messages.AnyReply
    if "type" not in shown:
        live_types = (publisher.LiveReadings, publisher.LiveAlert)
        (union,) = (kind for kind in live_types if set(kind.__struct_fields__) == set(shown))
    decoded = msgspec.json.decode(example, type=union)
    assert json.loads(msgspec.json.encode(decoded)) == shown
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(decoded), type=union) == decoded


def test_there_are_examples_of_every_kind() -> None:
    shown = {json.loads(example).get("type", "live") for example in EXAMPLES}
    assert shown >= {
        *("ping", "pong", "list_meters", "meters", "get_latest", "latest", "get_history"),
        *("history", "get_readings", "values", "get_total", "total", "list_alerts", "alerts"),
        *("get_bill", "bill", "change", "error", "live", "get_status", "get_fleet", "fleet"),
        *("get_top", "top", "get_storage", "storage", "deleted", "list_keys", "keys"),
        *("registered", "made_keys", "get_loss", "loss"),
    }


def codes(tree: ast.AST) -> Iterator[str]:
    """Every error code that the source can give; fails on one that cannot be read off."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in ("BusError", "ChangeRefusedError"):
                yield from constants(node.args[0])
            elif name == "Failure":
                yield from constants(*(key.value for key in node.keywords if key.arg == "code"))
            elif name == "getattr" and ast.unparse(node.args[1]) == "'code'":
                yield from constants(node.args[2])
        elif isinstance(node, ast.ClassDef) and "BusError" in map(ast.unparse, node.bases):
            for call in ast.walk(node):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__":
                    yield from constants(call.args[0])
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if key is not None and ast.unparse(key) == "'code'":
                    yield from constants(value)


def constants(*values: ast.expr) -> Iterator[str]:
    # What is handed on was made elsewhere; the rest must be written out.
    handed_on = {"error.code", "reply.code", "code", "told['error']['code']"}
    for value in values:
        if ast.unparse(value) not in handed_on:
            assert isinstance(value, ast.Constant), ast.unparse(value)
            yield str(value.value)


def test_every_error_code_of_the_sources_is_in_the_table_and_no_other() -> None:
    sources = [*(ROOT / "query").glob("*.py"), *(ROOT / "storage").glob("*.py")]
    found = {code for source in sources for code in codes(ast.parse(source.read_text()))}
    assert {row[0].strip("`") for row in rows("Errors")} == found
    assert {row[1] for row in rows("Errors")} == {"service", "client"}


def test_flags_are_those_of_the_code() -> None:
    assert [row[0] for row in rows("Flags")] == [f"`{str(flag.name).lower()}`" for flag in Flag]


def test_roles_are_those_of_the_code() -> None:
    said = {}
    for role, requests in rows("Roles"):
        for name in re.findall(r"`(\w+)`", requests):
            if name != "change":
                said[name] = role.strip("`")
    asked = {str(kind.__struct_config__.tag): role.text for kind, role in LEAST.items()}
    assert said == asked


def test_the_key_file_shown_is_one(tmp_path: Path) -> None:
    (shown,) = re.findall(r"^```toml\n(.*?)^```", TEXT, re.M | re.S)
    path = tmp_path / "alice.wattbus-key"
    path.write_text(shown)
    path.chmod(0o600)
    me = credentials.read(path)
    assert me.role in ROLES
    assert shown in me.to_text()  # which has a comment above it


def test_numbers_are_those_of_the_code() -> None:
    limits = SECTIONS["Limits"]
    assert f"handshake | {sockets.HANDSHAKE_WITHIN // 1000} s |" in limits
    assert f"heartbeats, one every {sockets.HEARTBEAT_EVERY // 1000} s | " in limits
    assert f" | {sockets.HEARTBEAT_WITHIN // 1000} s | the service closes" in limits
    assert limits.count(f"waiting, a connection | {sockets.MOST_WAITING:,} |") == 2
    assert f"until they are taken up | {sockets.BACKLOG:,} |" in limits
    assert f"| a frame of a request | {transport.LONGEST_REQUEST:,} octets |" in limits
    assert f"| a reply | {transport.LONGEST_MESSAGE:,} octets |" in limits
    assert f"| rows of a page | {messages.MOST_ROWS:,} |" in limits
    assert f"how many meters, 1 to {messages.MOST_TOP:,} |" in SECTIONS["get_top"]
    assert f"how many meters, 1 to {messages.MOST_TOP:,} |" in SECTIONS["get_loss"]
    assert f"Protocol version {messages.PROTOCOL}," in TEXT
    assert f"within {service._WRITER_WITHIN:g} seconds" in TEXT
    assert (
        f"whole topics that somebody has subscribed to, {publisher._MOST_SUBSCRIPTIONS:,}" in TEXT
    )
    for header in (transport.MSGPACK, transport.JSON):
        assert header.decode().startswith(f"WB{messages.PROTOCOL}")
        assert f"`{header.decode()}`" in TEXT
    for topic in (publisher.METER, publisher.ALERT):
        assert f"| `{topic.decode()}<id>\\0` |" in TEXT
    assert f"| `{publisher.BATCH[:-1].decode()}\\0` |" in TEXT
    for endpoint in (live.DEFAULT_ENDPOINT, client.DEFAULT_ENDPOINT):
        assert f"| `{endpoint}` |" in TEXT
