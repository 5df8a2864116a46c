"""Keys of the query bus: who gets in, who does not, what each may ask, and what is said of it."""

from __future__ import annotations

import os
import time
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from query import credentials, roles
from query import messages as m
from query.client import Client
from query.credentials import Credentials
from query.gate import DOMAIN, READ_EVERY, Gate, decide
from query.live import Live
from query.publisher import Publisher
from query.sockets import Socket, listen
from query.transport import ENCODERS, LONGEST_REQUEST, MSGPACK, REPLIES, BusError
from storage import bus_keys, key_file
from storage.bus_keys import Role
from storage.changes import (
    AddMeters,
    Change,
    ChangeMeter,
    DeleteMeter,
    RegisterMeter,
    ReplaceMeter,
    RevokeKeys,
    RotateKey,
)
from storage.key_file import KeyFileError
from tests.conftest import Stack
from tests.query.feeding import datagrams, refused
from tests.waiting import PATIENCE, wait_until

SOON = READ_EVERY + 0.5  # seconds within which a key counts, or does no more


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A collector that wants keys, though it listens on loopback."""
    directory = tmp_path_factory.mktemp("guarded")
    config = directory / "wattbus.toml"
    config.write_text("[query]\ncurve = true\n[live]\ncurve = true\n")
    shared = Stack(directory / "data", ["--config", str(config)])
    try:
        shared.start()
        with Client(shared.query, key_file=key(shared, "first", Role.ADMIN)) as client:
            client.register("kitchen")
        yield shared
    finally:
        shared.stop()
    assert "Traceback" not in shared.log.read_text()


def key(stack: Stack, name: str, role: Role) -> Path:
    """A new client's key file."""
    return written(stack.data, name, role, stack.data.parent / f"{name}.wattbus-key")


def written(data: Path, name: str, role: Role, path: Path, server: str = "") -> Path:
    pair = bus_keys.add(data, name, role)
    server = server or bus_keys.server(data).public
    me = Credentials(name=name, role=role.text, server=server, **pair._asdict())
    path.write_text(me.to_text())
    path.chmod(0o600)
    return path


def stranger(stack: Stack, path: Path) -> Path:
    """A key file that is right in everything, but nobody knows the key."""
    return written(path / "elsewhere", "x", Role.ADMIN, path / "x", bus_keys.server(stack.data)[0])


@contextmanager
def asked(stack: Stack, name: str, role: Role) -> Iterator[Client]:
    with Client(stack.query, key_file=key(stack, name, role), timeout=PATIENCE) as client:
        yield client


@contextmanager
def refused_at_once(code: str, *words: str) -> Iterator[None]:
    """Expect an error, and not only when the client's patience of a minute has run out."""
    began = time.monotonic()
    with refused(code, *words):
        yield
    assert time.monotonic() - began < PATIENCE / 2


def until(true: Callable[[], object]) -> None:
    """Ask until the service has read the keys again and does not refuse any more."""

    def allowed() -> bool:
        try:
            true()
        except BusError:
            return False
        return True

    wait_until(allowed)


def until_refused(client: Client) -> None:
    """Ask until the service has read the keys again and refuses."""

    def is_refused() -> bool:
        try:
            client.ping()
        except BusError as error:
            return error.code == "refused"
        return False

    wait_until(is_refused)


# Who gets in


def test_who_has_a_key_gets_in_at_once(stack: Stack) -> None:
    with asked(stack, "reader-1", Role.READER) as client:
        assert client.meter("kitchen").id == "kitchen"


def test_who_has_none_is_told_at_once(stack: Stack) -> None:
    with Client(stack.query, timeout=PATIENCE) as client:
        with refused_at_once("refused", stack.query, "wants a key", "--key-file"):
            client.ping()
        with refused_at_once("refused", "wants a key"):  # and again
            client.ping()


def test_a_stranger_is_told_at_once(stack: Stack, tmp_path: Path) -> None:
    with Client(stack.query, key_file=stranger(stack, tmp_path), timeout=PATIENCE) as client:
        for _ in range(2):
            with refused_at_once("refused", f"{stack.query} refused this key (x)", "wattbus keys"):
                client.ping()


def test_another_service_than_expected_is_told_at_once(stack: Stack, tmp_path: Path) -> None:
    other = bus_keys.server(tmp_path / "other").public
    path = written(stack.data, "misled", Role.READER, tmp_path / "misled", other)
    with (
        Client(stack.query, key_file=path, timeout=PATIENCE) as client,
        refused_at_once("unknown_service", stack.query, "another key"),
    ):
        client.ping()


def test_a_key_for_a_service_that_takes_none(
    make_stack: Callable[..., Stack], tmp_path: Path
) -> None:
    open_to_all = make_stack()
    path = key(open_to_all, "needless", Role.READER)
    with (
        Client(open_to_all.query, key_file=path, timeout=PATIENCE) as client,
        refused_at_once("unknown_service", "takes none"),
    ):
        client.ping()


def test_a_new_key_counts_without_a_restart_also_for_a_client_that_was_refused(
    stack: Stack, tmp_path: Path
) -> None:
    path = stranger(stack, tmp_path)
    me = credentials.read(path)
    with Client(stack.query, key_file=path, timeout=PATIENCE) as client:
        with refused("refused"):
            client.ping()
        with key_file.opened(stack.data, create=True) as connection:
            row = ("late", me.public, None, "reader", 0)
            connection.execute("INSERT INTO bus_keys VALUES (?, ?, ?, ?, ?)", row)
        assert client.ping().protocol == m.PROTOCOL


def test_who_is_removed_is_out_on_the_connection_that_there_is(stack: Stack) -> None:
    with asked(stack, "leaver", Role.ADMIN) as client, asked(stack, "stays", Role.READER) as other:
        client.ping()
        bus_keys.remove(stack.data, "leaver")
        until_refused(client)
        with refused_at_once("refused", "removed"):
            client.ping()
        # Another of the name is somebody else.
        bus_keys.add(stack.data, "leaver", Role.ADMIN)
        time.sleep(SOON)
        with refused("refused", "removed"):
            client.ping()
        other.ping()


def test_a_changed_role_counts(stack: Stack) -> None:
    with asked(stack, "risen", Role.READER) as client:
        with refused("forbidden"):
            client.set_name("kitchen", "The kitchen")
        with key_file.opened(stack.data, create=True) as connection:
            connection.execute("UPDATE bus_keys SET role = 'operator' WHERE name = 'risen'")
        until(lambda: client.set_name("kitchen", "The kitchen"))
        assert client.set_name("kitchen", "The kitchen").name == "The kitchen"


def test_a_key_file_that_others_may_read_meanwhile_lets_nobody_new_in(
    stack: Stack, tmp_path: Path
) -> None:
    """Whoever was known is known; the log says what to do; it mends itself."""
    path = key(stack, "before", Role.READER)
    late = tmp_path / "late"
    file = key_file.path_of(stack.data)
    with Client(stack.query, key_file=path, timeout=PATIENCE) as client:
        until(client.ping)
        complaint = "others may read the key file"
        try:
            file.chmod(0o644)
            wait_until(lambda: complaint in stack.log.read_text())
            time.sleep(SOON)  # it would be said again
            client.ping()
        finally:
            file.chmod(0o600)
        said = stack.log.read_text().count(complaint)
        assert 1 <= said <= 3  # each of the two gates and the receiver once
    written(stack.data, "after", Role.READER, late)
    with Client(stack.query, key_file=late) as client:
        until(client.ping)


def test_the_http_shim_has_a_key_of_its_own(stack: Stack) -> None:
    import urllib.request

    with urllib.request.urlopen(f"{stack.http}/healthz", timeout=PATIENCE) as answer:
        assert answer.status == 200
    assert bus_keys.http(stack.data).public in bus_keys.users(stack.data)
    assert bus_keys.users(stack.data)[bus_keys.http(stack.data).public].role is Role.READER


def test_the_largest_request_gets_in_encrypted_too(stack: Stack) -> None:
    me = credentials.read(key(stack, "large", Role.READER))
    context: zmq.Context[Socket] = zmq.Context.instance()
    with context.socket(zmq.REQ) as sock:
        sock.linger, sock.rcvtimeo = 0, 60_000
        sock.setsockopt_string(zmq.CURVE_PUBLICKEY, me.public)
        sock.setsockopt_string(zmq.CURVE_SECRETKEY, me.secret)
        sock.setsockopt_string(zmq.CURVE_SERVERKEY, me.server)
        sock.connect(stack.query)
        sock.send_multipart([b"WB1j", b'{"type":"ping"}'.ljust(LONGEST_REQUEST)])
        header, body = sock.recv_multipart()
        assert isinstance(REPLIES.decode(header, body), m.Pong)


# Roles


def question(kind: Any) -> m.AnyRequest:
    """A request of the kind that is sound, and does no harm."""
    needed: dict[type[object], dict[str, Any]] = {
        ChangeMeter: {"id": "kitchen", "name": None},
        ReplaceMeter: {"id": "kitchen", "time_ms": 1, "final_wh": 0, "initial_wh": 0},
        DeleteMeter: {"id": "nobody"},
        RegisterMeter: {"id": "attic"},
        AddMeters: {"ids": ["attic", "cellar"]},
        RotateKey: {"id": "attic", "replaces": 1},
        RevokeKeys: {"id": "attic"},
    }
    if kind in typing.get_args(Change):
        return m.Change(change=kind(**needed[kind]))
    wants_id = "id" in kind.__struct_fields__
    request: m.AnyRequest = kind(id="kitchen") if wants_id else kind()
    return request


KINDS = [
    *(kind for kind in typing.get_args(m.AnyRequest) if kind is not m.Change),
    *typing.get_args(Change),
]


def test_every_request_has_its_least_role() -> None:
    assert set(roles.LEAST) == set(KINDS)


@pytest.mark.parametrize("role", Role)
def test_what_each_role_may_ask(stack: Stack, role: Role) -> None:
    with asked(stack, f"all-{role.text}", role) as client:
        for kind in KINDS:
            try:
                client._connection.ask(question(kind))
                code = ""
            except BusError as error:
                code = error.code
            expected = "forbidden" if role < roles.LEAST[kind] else code
            assert code == expected, (kind, code)
            assert code in ("", "forbidden", "no_readings")


def test_what_is_forbidden_is_not_done(stack: Stack) -> None:
    with asked(stack, "curious", Role.OPERATOR) as client:
        client.register("garage", limit_wh=1)
        with refused("forbidden", "admin", "the key curious has the role operator"):
            client.delete("garage")
        assert client.meter("garage").limit_wh == 1
    with asked(stack, "looker", Role.READER) as client:
        with refused("forbidden", "operator"):
            client.set_limit("garage", 2)
        with refused("forbidden", "operator"):
            client.register("other")
        with refused("forbidden", "operator"):
            client.replace("garage", time_ms=1, final_wh=1, initial_wh=1)
        assert client.meter("garage").limit_wh == 1
        with refused("unknown_meter"):
            client.meter("other")


# The live channel


def heard(stack: Stack, live: Live, id: str, within: float = PATIENCE) -> bool:
    deadline = time.monotonic() + within
    number = int(time.time())
    while time.monotonic() < deadline:
        number += 1
        stack.send(datagrams(id, [(1_709_251_200_000 + number, number)], epoch=number))
        if next(live.listen(0.1), None):
            return True
    return False


def test_the_live_channel_wants_a_key(stack: Stack, tmp_path: Path) -> None:
    with Live(stack.live, key_file=key(stack, "watcher", Role.READER)) as live:
        assert heard(stack, live, "live-1")
    with Live(stack.live) as live, refused_at_once("refused", "wants a key"):
        heard(stack, live, "live-1")
    with (
        Live(stack.live, key_file=stranger(stack, tmp_path)) as live,
        refused_at_once("refused", "refused this key (x)"),
    ):
        heard(stack, live, "live-1")


def test_who_is_removed_hears_no_more_and_others_come_back(tmp_path: Path) -> None:
    bus_keys.server(tmp_path)
    paths = [written(tmp_path, name, Role.READER, tmp_path / name) for name in ("stays", "leaves")]
    gate = Gate(tmp_path)
    publisher = Publisher("tcp://127.0.0.1:*", gate)

    def hears(live: Live, within: float = PATIENCE) -> bool:
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            publisher._let_out()
            publisher._socket.send_multipart([b"batch\0", EMPTY_BATCH])
            if live._socket.poll(20):
                live._socket.recv_multipart()
                return True
        return False

    try:
        with (
            Live(publisher.endpoint, key_file=paths[0]) as stays,
            Live(publisher.endpoint, key_file=paths[1]) as leaves,
        ):
            assert hears(stays)
            assert hears(leaves)
            bus_keys.remove(tmp_path, "leaves")
            wait_until(lambda: not hears(leaves, 1))
            with refused("refused"):
                assert leaves.connected
            assert hears(stays)
    finally:
        publisher.close()
        gate.close()


EMPTY_BATCH = b"anything"


# The gate's parts


def zap(key: bytes, domain: bytes = DOMAIN, mechanism: bytes = b"CURVE") -> list[bytes]:
    return [b"way", b"", b"1.0", b"7", domain, b"127.0.0.1", b"", mechanism, key]


PUBLIC = b"rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
RAW = bytes.fromhex("54fcba24e93249969316fb617c872bb0c1d1ff14800427c594cbfacf1bc2d652")


def test_decisions() -> None:
    known = {PUBLIC.decode()}
    assert decide(zap(RAW), known) == [b"way", b"", b"1.0", b"7", b"200", b"", PUBLIC, b""]
    for request in (
        zap(RAW[:-1] + b"x"),
        zap(RAW, domain=b""),
        zap(RAW, domain=b"other"),
        zap(b"", mechanism=b"NULL"),
        zap(PUBLIC, mechanism=b"PLAIN"),
        [*zap(RAW)[:2], b"2.0", *zap(RAW)[3:]],
    ):
        reply = decide(request, known)
        assert reply is not None
        assert reply[4:] == [b"400", b"unknown key", b"", b""], request
    for nonsense in ([], [b"x"], [b"", b"x"], zap(RAW)[:-1], [*zap(RAW), b"more"], zap(b"short")):
        assert decide(nonsense, known) is None, nonsense


def test_keys_need_a_file_of_ones_own(tmp_path: Path) -> None:
    bus_keys.server(tmp_path)
    key_file.path_of(tmp_path).chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        Gate(tmp_path)


def test_own_keys_stay_and_are_nobody_elses(tmp_path: Path) -> None:
    assert bus_keys.server(tmp_path) == bus_keys.server(tmp_path)
    assert bus_keys.http(tmp_path) == bus_keys.http(tmp_path)
    assert bus_keys.server(tmp_path).public not in bus_keys.users(tmp_path)
    assert bus_keys.clients(tmp_path) == []
    assert os.stat(key_file.path_of(tmp_path)).st_mode & 0o777 == 0o600


def test_no_key_file_no_users(tmp_path: Path) -> None:
    assert bus_keys.users(tmp_path) == {}
    assert not key_file.exists(tmp_path)


def test_a_client_s_secret_is_not_kept(tmp_path: Path) -> None:
    pair = bus_keys.add(tmp_path, "alice", Role.READER)
    assert pair.secret.encode() not in key_file.path_of(tmp_path).read_bytes()
    assert pair.public.encode() in key_file.path_of(tmp_path).read_bytes()


@contextmanager
def echo(guard: Any) -> Iterator[str]:
    """A service that answers each request with a pong, in a thread of its own."""
    import threading

    sock, endpoint = listen(zmq.ROUTER, "tcp://127.0.0.1:*", LONGEST_REQUEST, 0, guard)
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            if sock.poll(50):
                frames = sock.recv_multipart()
                pong = ENCODERS[MSGPACK](m.Pong("1", 1))
                sock.send_multipart([*frames[:-1], pong])
        sock.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield endpoint
    finally:
        stop.set()
        thread.join()


class NoZap:
    """What a service without ZAP would be: encrypted, open to whoever knows its public key."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.context: zmq.Context[Socket] = zmq.Context.instance()

    def protect(self, sock: Socket) -> None:
        sock.setsockopt(zmq.CURVE_SERVER, 1)
        sock.setsockopt(zmq.CURVE_SECRETKEY, bus_keys.server(self.data).secret.encode())


def test_it_is_zap_that_keeps_strangers_out(tmp_path: Path) -> None:
    """The negative control: the same stranger, the same service, without ZAP: he gets in."""
    gate = Gate(tmp_path)
    server = bus_keys.server(tmp_path).public
    path = written(tmp_path / "elsewhere", "x", Role.ADMIN, tmp_path / "x", server)
    unguarded = NoZap(tmp_path)
    try:
        with echo(unguarded) as endpoint, Client(endpoint, key_file=path) as client:
            assert client.ping().protocol == 1
        with (
            echo(gate) as endpoint,
            Client(endpoint, key_file=path) as client,
            refused("refused"),
        ):
            client.ping()
    finally:
        gate.close()


def test_without_a_handler_nobody_gets_in(tmp_path: Path) -> None:
    """A gate whose thread died lets nobody in: enforcing the domain, not being polite."""
    path = written(tmp_path, "alice", Role.ADMIN, tmp_path / "alice")
    gate = Gate(tmp_path)
    gate._stop.set()
    gate._thread.join()
    with (
        echo(gate) as endpoint,
        Client(endpoint, key_file=path, timeout=1, tries=1) as client,
        pytest.raises(BusError),
    ):
        client.ping()
    gate.context.term()


# Key files


def test_key_files_come_back(tmp_path: Path) -> None:
    path = written(tmp_path / "data", "alice", Role.OPERATOR, tmp_path / "k")
    me = credentials.read(path)
    assert (me.name, me.role) == ("alice", "operator")
    assert me.server == bus_keys.server(tmp_path / "data").public
    assert me.secret not in repr(me)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: "", "no key file"),
        (lambda text: "\x00", "no key file"),
        (lambda text: text.replace("secret", "public", 1), "no key file"),
        (lambda text: text.replace('secret = "', 'secret = "x'), "no key file"),
        (lambda text: text.replace("name = ", "name = 7 # "), "no key file"),
        (lambda text: text.replace("server", "sewer"), "wattbus keys add"),
    ],
)
def test_what_is_no_key_file(change: Callable[[str], str], said: str, tmp_path: Path) -> None:
    path = written(tmp_path / "data", "alice", Role.OPERATOR, tmp_path / "k")
    path.write_text(change(path.read_text()))
    with refused("bad_key_file", str(path), said):
        Client(key_file=path)
    with refused("bad_key_file", str(path), said):
        Live(key_file=path)


def test_key_files_that_cannot_be_read(tmp_path: Path) -> None:
    with refused("bad_key_file", "cannot read", str(tmp_path / "nowhere")):
        Client(key_file=tmp_path / "nowhere")
    path = written(tmp_path / "data", "alice", Role.OPERATOR, tmp_path / "k")
    path.chmod(0o640)
    with refused("bad_key_file", "others may read", f"chmod 600 {path}"):
        Client(key_file=path)
