"""The calls to Openfield, against real sockets that do as each test says."""

from __future__ import annotations

import gzip
import logging
import os
import socket
import ssl
import struct
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Self

import psutil
import pytest
import simplejson
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from widget.models import Integration
from widget.openfield import (
    AccountExists,
    AccountLocked,
    Clients,
    Connection,
    InvalidCredentials,
    Misconfigured,
    OpenfieldClient,
    OpenfieldError,
    Record,
    Rejected,
    Stored,
    Unavailable,
    UnknownParty,
    guard,
)
from widget.openfield.breaker import Breaker, State
from widget.openfield.wire import Number
from widget.profile import Civility, Gender, OptIn, Profile, Variable

CANARY = "canary-91d2"
HOST = "openfield.test"
DEADLINE = 0.2
BOUND = 2.0
"""Seconds, generous on a busy machine, within which a call with DEADLINE must be over."""

RECORD = {"Party": {"PartyId": "p-1", "Version": 3, "FirstName": "Alice", "Gender": "h", "Loyalty": {"Points": 1.5}}}
STORED = {"PartyId": "p-1", "Version": 4}
ALICE = Profile(email="alice@news.example", username="alice", password="pä ss", birthday=date(2019, 8, 1))
NEWSLETTER = OptIn("Newsletter", datetime(2017, 1, 1, tzinfo=UTC))


# Servers ---------------------------------------------------------------------------------------------------------


@dataclass
class Request:
    """One request as it came."""

    line: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def document(self) -> Any:
        return simplejson.loads(self.body)


Act = Callable[["Peer", socket.socket, Request], None]
"""What a server does with a request. The connection stays open for another one unless the act closes it."""


@dataclass
class Peer:
    """A server on loopback; each connection has a thread."""

    act: Act
    tls: ssl.SSLContext | None = None
    requests: list[Request] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Event = field(default_factory=threading.Event)
    """Set with the first request."""
    hung_up: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released with each connection that `raw` closes."""

    def __enter__(self) -> Self:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        _hang_up(self._listening)
        for connection in self._connections:
            _hang_up(connection)
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/ws"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self._connections.append(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(connection, len(self._connections))))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        with ExitStack() as stack:
            stack.enter_context(connection)
            try:
                if self.tls is not None:
                    connection = stack.enter_context(self.tls.wrap_socket(connection, server_side=True))
                    self._connections.append(connection)
                with connection.makefile("rb") as stream:
                    while (request := _read_request(stream, number)) is not None:
                        self.requests.append(request)
                        self.arrived.set()
                        self.act(self, connection, request)
            except (OSError, ValueError):
                return  # the other side, or the test, hung up


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
    connection.close()


def _read_request(stream: Any, number: int) -> Request | None:
    line = stream.readline().decode().strip()
    if not line:
        return None
    headers: dict[str, str] = {}
    while (text := stream.readline().decode().strip()) != "":
        name, _, value = text.partition(":")
        headers[name.lower()] = value.strip()
    return Request(line, headers, stream.read(int(headers.get("content-length", "0"))), number)


def answer(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> bytes:
    """The bytes of an answer."""
    body = document if isinstance(document, bytes) else simplejson.dumps(document).encode()
    lines = [f"HTTP/1.1 {status} {CANARY}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def always(*args: Any, **kwargs: Any) -> Act:
    """Answers every request alike."""
    return raw(answer(*args, **kwargs))


def raw(data: bytes, *, then_close: bool = False) -> Act:
    def act(peer: Peer, connection: socket.socket, request: Request) -> None:
        connection.sendall(data)
        if then_close:
            _hang_up(connection)
            peer.hung_up.release()

    return act


def in_turn(*answers: bytes) -> Act:
    """Each answer once."""
    left = iter(answers)

    def act(peer: Peer, connection: socket.socket, request: Request) -> None:
        connection.sendall(next(left))

    return act


def hang(peer: Peer, connection: socket.socket, request: Request) -> None:
    peer.over.wait(30)


def drip(data: bytes) -> Act:
    """A byte every few hundredths of a second, so that no single read ever takes long."""

    def act(peer: Peer, connection: socket.socket, request: Request) -> None:
        for byte in data:
            connection.sendall(bytes([byte]))
            if peer.over.wait(0.03):
                return

    return act


def endless(head: bytes, chunk: bytes) -> Act:
    def act(peer: Peer, connection: socket.socket, request: Request) -> None:
        connection.sendall(head)
        while not peer.over.is_set():
            connection.sendall(chunk)

    return act


def reset(peer: Peer, connection: socket.socket, request: Request) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())  # at once, whoever else holds the socket


def reset_within_the_body(peer: Peer, connection: socket.socket, request: Request) -> None:
    connection.sendall(answer(RECORD)[:-20])
    reset(peer, connection, request)


# Clients ---------------------------------------------------------------------------------------------------------


@contextmanager
def client_of(peer: Peer, url: str = "", **options: Any) -> Iterator[OpenfieldClient]:
    """A client of this server, which the operator lists."""
    private_hosts = options.pop("private_hosts", {f"127.0.0.1:{peer.port}", f"localhost:{peer.port}"})
    own_parameters = options.pop("own_parameters", ())
    own_operations = options.pop("own_operations", ())
    connection = Connection(url or peer.url, "acme", "campaigns", own_operations, own_parameters)
    client = OpenfieldClient(connection, private_hosts, **options)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def served(act: Act, **options: Any) -> Iterator[tuple[Peer, OpenfieldClient]]:
    """A server that does so, and its client."""
    with Peer(act) as peer, client_of(peer, **options) as client:
        yield peer, client


Call = Callable[[OpenfieldClient, float], object]
RECORD_READ = Record(RECORD["Party"])
CALLS: Mapping[str, Call] = {
    "authenticate": lambda client, deadline: client.authenticate("alice", "s", deadline=deadline),
    "get": lambda client, deadline: client.get("p-1", deadline=deadline),
    "create": lambda client, deadline: client.create(ALICE, [], "fr", key="k", deadline=deadline),
    "update": lambda client, deadline: client.update(RECORD_READ, {}, [], "fr", key="k", deadline=deadline),
}
WRITES = ("create", "update")


def failure_of(call: Callable[[], object]) -> OpenfieldError:
    """What the call raises. Nothing that Openfield said, or was told, may be in it."""
    with pytest.raises(OpenfieldError) as caught:
        call()
    error = caught.value
    told = str(error) + repr(error) + "".join(traceback.format_exception(error))
    assert CANARY not in told
    assert ALICE.password is not None
    assert ALICE.password not in told
    assert error.__cause__ is None
    assert error.__context__ is None
    return error


def unavailable(call: Callable[[], object]) -> Unavailable:
    error = failure_of(call)
    assert isinstance(error, Unavailable), error
    return error


def eventually(is_so: Callable[[], bool]) -> None:
    """Waits until it is so."""
    ends_at, pause = time.monotonic() + 10, threading.Event()
    while not is_so():
        assert time.monotonic() < ends_at
        pause.wait(0.005)


def nothing_under_way() -> bool:
    return not any(thread.name.startswith("openfield ") for thread in threading.enumerate())


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Every exchange ends, also one that was cut off."""
    yield
    eventually(nothing_under_way)


@pytest.fixture(autouse=True)
def nothing_of_theirs_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    records = caplog.get_records("call")  # `caplog.text` has been emptied by now
    assert CANARY not in "\n".join(map(logging.Formatter().format, records))


# What is sent ----------------------------------------------------------------------------------------------------


def test_authenticate_says_who_calls_and_who_is_asked_for() -> None:
    with served(always(RECORD)) as (peer, client):
        record = client.authenticate("alice", "pä ss", deadline=5)
    assert (record.party_id, record.version) == ("p-1", 3)
    [request] = peer.requests
    assert request.line == "POST /ws/Party/Authenticate HTTP/1.1"
    assert request.document == {
        "IdTenant": "acme", "IdApplication": "campaigns", "Login": {"Username": "alice", "Password": "pä ss"}
    }  # fmt: skip
    assert request.headers["content-type"] == request.headers["accept"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers.keys() & {"cookie", "authorization", "idempotency-key", "transfer-encoding"} == set()


def test_get_asks_for_a_record() -> None:
    with served(always(RECORD)) as (peer, client):
        assert client.get("p-1", deadline=5).party["Loyalty"] == {"Points": Number("1.5")}
    assert peer.requests[0].line == "POST /ws/Party/Get HTTP/1.1"
    assert peer.requests[0].document == {"IdTenant": "acme", "IdApplication": "campaigns", "PartyId": "p-1"}


def test_create_sends_the_profile_under_the_deliverys_key() -> None:
    with served(always(STORED, 201)) as (peer, client):
        assert client.create(ALICE, [NEWSLETTER], "nl", key="d-1", deadline=5) == Stored("p-1", 4)
    [request] = peer.requests
    assert request.line == "POST /ws/Party/Create HTTP/1.1"
    assert request.headers["idempotency-key"] == "d-1"
    assert request.document == {
        "IdTenant": "acme",
        "IdApplication": "campaigns",
        "Party": {
            "PartyType": "Person",
            "Version": 1,
            "LanguageId": "nl",
            "Email": "alice@news.example",
            "Login": {"Username": "alice", "Password": "pä ss"},
            "BirthDate": "01082019",
        },
        "Services": [
            {
                "ActivationDate": "2017-01-01T00:00:00",
                "ServiceId": "Newsletter",
                "ServiceStatus": True,
                "ServiceTypeId": "OPTINS",
            }
        ],
    }


def test_update_sends_the_whole_record_with_the_changes_laid_on_it() -> None:
    odd = b'{"Party":{"PartyId":"p-1","Version":3,"Loyalty":{"Points":1.10,"Since":1e5,"Tag":"\\ud800"},"Gender":"h"}}'
    with served(in_turn(answer(odd), answer(STORED))) as (peer, client):
        record = client.authenticate("alice", "s", deadline=5)
        changes = {Variable.FIRSTNAME: "Alice", Variable.CIVILITY: Civility.MRS}
        assert client.update(record, changes, [], "fr", key="d-1", deadline=5) == Stored("p-1", 4)
    request = peer.requests[1]
    assert request.line == "POST /ws/Party/Update HTTP/1.1"
    assert request.headers["idempotency-key"] == "d-1"
    assert b'"Loyalty":{"Points":1.10,"Since":1e5,"Tag":"\\ud800"}' in request.body
    assert b'"Version":3' in request.body
    assert b"Gender" not in request.body
    assert b"Services" not in request.body
    assert request.document["Party"]["Civility"] == "MME"


def test_operations_and_parameters_are_the_integrations() -> None:
    integration = Integration(
        name="acme", enabled=True, openfield_url="", id_tenant="t", id_application="a", forgot_password_url="",
        operations={"get": "/v2/read"}, parameters={"gender": "Party.Sex"},
    )  # fmt: skip
    with Peer(always({"Party": {"PartyId": "p-1", "Version": 1, "Sex": "F"}})) as peer:
        integration.openfield_url = f"{peer.url}/"
        connection = Connection.of(integration)
        assert connection == Connection.of(integration)
        assert hash(connection) == hash(Connection.of(integration))
        client = OpenfieldClient(connection, {"127.0.0.1"})
        assert client.prefill(client.get("p-1", deadline=5)).gender is Gender.WOMAN
        client.close()
    assert peer.requests[0].line == "POST /ws/v2/read HTTP/1.1"


def test_prefill_gives_what_fits() -> None:
    with served(always(RECORD)) as (_, client):
        assert client.prefill(client.get("p-1", deadline=5)) == Profile(firstname="Alice")


# Deadlines -------------------------------------------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\n"
SLOW: Mapping[str, Act] = {
    "hangs": hang,
    "drips its status": drip(HEAD * 100),
    "drips a header": drip(HEAD + b"X: " + b"x" * 10_000),
    "drips headers": drip(HEAD + b"A: b\r\n" * 1000),
    "drips a body": drip(answer(b" " * 1000)),
    "drips a body without length": drip(HEAD + b"\r\n" + b" " * 1000),
    "drips a chunked body": drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 1000),
    "hangs within the body": raw(answer(RECORD)[:-5]),
    "drips interim answers": drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "drips a redirect": drip(answer(b" " * 1000, 302, {"Location": "/elsewhere"})),
}


@pytest.mark.parametrize("operation", CALLS)
@pytest.mark.parametrize("slowness", SLOW)
def test_a_deadline_is_total(slowness: str, operation: str) -> None:
    with served(SLOW[slowness]) as (_, client):
        began = time.monotonic()
        failure = unavailable(lambda: CALLS[operation](client, DEADLINE))
        assert time.monotonic() - began < BOUND
        assert failure.maybe_applied == (operation in WRITES)
        eventually(nothing_under_way)  # the thread ends although the server does not


def test_a_server_that_accepts_nobody_is_left_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listening:
        port = listening.getsockname()[1]
        client = OpenfieldClient(Connection(f"http://127.0.0.1:{port}", "t", "a"), {"127.0.0.1"})
        for _ in range(4):  # the first fill the queue; the later ones are not even connected
            began = time.monotonic()
            unavailable(lambda: CALLS["create"](client, DEADLINE))
            assert time.monotonic() - began < BOUND
        client.close()


@pytest.mark.parametrize("drips", [False, True])
def test_a_handshake_that_never_ends_is_left_in_time(drips: bool) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def shake() -> None:
        connection, _ = listening.accept()
        with connection:
            for byte in struct.pack("!BHH", 22, 0x0303, 16000) + bytes(16000) if drips else b"":
                try:
                    connection.sendall(bytes([byte]))
                except OSError:
                    return
                over.wait(0.03)
            over.wait(30)

    thread = threading.Thread(target=shake)
    thread.start()
    client = OpenfieldClient(Connection(f"https://127.0.0.1:{listening.getsockname()[1]}", "t", "a"), {"127.0.0.1"})
    began = time.monotonic()
    failure = unavailable(lambda: CALLS["create"](client, DEADLINE))
    assert time.monotonic() - began < BOUND
    assert not failure.maybe_applied
    eventually(nothing_under_way)
    over.set()
    thread.join()
    listening.close()
    client.close()


def test_a_slow_name_server_is_left_in_time_and_keeps_its_place() -> None:
    over = threading.Event()

    def slowly(host: str, port: int) -> Sequence[str]:
        over.wait(30)
        return ["127.0.0.1"]

    with served(always(STORED, 201), bulkhead=1, resolve=slowly) as (peer, client):
        began = time.monotonic()
        assert not unavailable(lambda: CALLS["create"](client, DEADLINE)).maybe_applied
        assert time.monotonic() - began < BOUND
        assert "too many" in str(unavailable(lambda: CALLS["create"](client, 5)))
        over.set()
        eventually(nothing_under_way)
        assert peer.requests == []  # what was given up is not sent later
        assert client.create(ALICE, [], "fr", key="k", deadline=5) == Stored("p-1", 4)


def test_a_deadline_holds_for_all_rounds_of_an_update_together() -> None:
    def slow_conflict(peer: Peer, connection: socket.socket, request: Request) -> None:
        peer.over.wait(DEADLINE / 2)
        connection.sendall(answer(RECORD) if "Get" in request.line else answer({}, 409))

    with served(slow_conflict) as (_, client):
        began = time.monotonic()
        unavailable(lambda: CALLS["update"](client, DEADLINE))
        assert time.monotonic() - began < BOUND


def test_without_time_nothing_is_sent() -> None:
    with served(always(RECORD)) as (peer, client):
        assert not unavailable(lambda: CALLS["create"](client, 0)).maybe_applied
        assert peer.requests == []


# Failures on the way ---------------------------------------------------------------------------------------------

BROKEN: Mapping[str, Act] = {
    "resets": reset,
    "resets within the body": reset_within_the_body,
    "hangs up": raw(b"", then_close=True),
    "hangs up within the status": raw(b"HTTP/1.1 2", then_close=True),
    "hangs up within the body": raw(answer(RECORD)[:-5], then_close=True),
    "hangs up within a body without length": raw(HEAD + b'\r\n{"Party":', then_close=True),
    "speaks something else": raw(f"220 {CANARY}\r\n".encode(), then_close=True),
    "speaks nonsense headers": raw(f"HTTP/1.1 200 OK\r\n{CANARY}\r\nA: b\r\n\r\n{{}}".encode(), then_close=True),
    "sends a header without end": endless(HEAD + b"X: ", b"x" * 4096),
    "sends headers without end": endless(HEAD, b"A: b\r\n" * 100),
    "sends a body without end": endless(HEAD + b"\r\n", b" " * 65536),
    "sends chunks without end": endless(
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"ffff\r\n" + b" " * 65535 + b"\r\n"
    ),
    "sends a wrong chunk": raw(HEAD + f"Transfer-Encoding: chunked\r\n\r\n{CANARY}\r\n".encode(), then_close=True),
    "sends a long body": always(b'"' + b"x" * 2_000_000 + b'"'),
    "sends a body that unpacks long": always(gzip.compress(bytes(50_000_000)), headers={"Content-Encoding": "gzip"}),
    "sends what does not unpack": always(CANARY.encode(), headers={"Content-Encoding": "gzip"}),
    "sends HTML": always(f"<!doctype html><p>{CANARY}".encode(), headers={"Content-Type": "text/html"}),
    "sends nothing": always(b""),
    "says no content": raw(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "sends cut JSON": always(simplejson.dumps(RECORD).encode()[:-2]),
    "sends other bytes": always(b"\xff\xfe" + CANARY.encode()),
    "sends deep JSON": always(b"[" * 100_000),
    "sends a list": always([RECORD]),
    "sends a text": always(CANARY),
    "sends null": always(None),
    "sends an object of something else": always({"status": CANARY}),
    "sends a party of another type": always({"Party": CANARY, "PartyId": 7, "Version": 1}),
    "sends a version of another type": always(
        {"Party": {"PartyId": "p-1", "Version": "3"}, "PartyId": "p", "Version": True}
    ),
    "sends an id of another type": always({"Party": {"PartyId": 1, "Version": 3}, "PartyId": ["p"], "Version": 1}),
}  # fmt: skip


@pytest.mark.parametrize("operation", CALLS)
@pytest.mark.parametrize("breakage", BROKEN)
def test_an_answer_that_is_none_is_unavailable_and_nothing_is_sent_twice(breakage: str, operation: str) -> None:
    with served(BROKEN[breakage]) as (peer, client):
        failure = unavailable(lambda: CALLS[operation](client, 10))
        assert failure.maybe_applied == (operation in WRITES)
        assert len(peer.requests) == 1


@pytest.mark.parametrize("operation", CALLS)
def test_a_refused_connection_is_unavailable_and_surely_not_applied(operation: str) -> None:
    with served(hang) as (_, client):
        pass
    assert not unavailable(lambda: CALLS[operation](client, 5)).maybe_applied


def test_another_persons_record_is_not_taken() -> None:
    with served(always(RECORD)) as (_, client):
        unavailable(lambda: client.get("p-2", deadline=5))


def test_a_packed_answer_is_read() -> None:
    body = gzip.compress(simplejson.dumps(RECORD).encode())
    with served(always(body, headers={"Content-Encoding": "gzip"})) as (_, client):
        assert client.get("p-1", deadline=5).version == 3


def test_a_closed_connection_that_was_kept_is_not_used_again() -> None:
    with served(raw(answer(STORED, 201), then_close=True)) as (peer, client):
        for _ in range(3):
            client.create(ALICE, [], "fr", key="k", deadline=5)
            assert peer.hung_up.acquire(timeout=5)
    assert [request.headers["idempotency-key"] for request in peer.requests] == ["k"] * 3


def test_connections_are_kept_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(always(RECORD)) as (peer, client):
        for _ in range(3):
            client.get("p-1", deadline=5)
        monkeypatch.setattr(guard, "MAX_IDLE", 0)
        client.get("p-1", deadline=5)
    assert [request.connection for request in peer.requests] == [1, 1, 1, 2]


def test_no_file_is_left_open() -> None:
    process = psutil.Process()
    acts = iter([always(RECORD), hang, reset, always(RECORD), drip(answer(RECORD))] * 4)

    def each_in_turn(peer: Peer, connection: socket.socket, request: Request) -> None:
        next(acts)(peer, connection, request)

    with served(each_in_turn, breaker=Breaker(failures=100)) as (peer, client):
        before = process.num_fds()
        for _ in range(20):
            with suppress(Unavailable):
                client.get("p-1", deadline=DEADLINE / 2)
        eventually(nothing_under_way)
        client.close()
        peer.over.set()
        eventually(lambda: process.num_fds() <= before)


# Statuses --------------------------------------------------------------------------------------------------------

EVERY = tuple(CALLS)
REFUSALS: Sequence[tuple[int, Any, Sequence[str], type[OpenfieldError]]] = [
    (401, {"Code": "INVALID_CREDENTIALS"}, ["authenticate"], InvalidCredentials),
    (401, b"", ["authenticate"], InvalidCredentials),
    (401, {"Code": "UNKNOWN_CALLER"}, EVERY, Misconfigured),
    (401, {}, ["get", "create", "update"], Misconfigured),
    (403, {"Code": "UNKNOWN_CALLER"}, EVERY, Misconfigured),
    (403, b"<html>", EVERY, Misconfigured),
    (403, {"Code": "INVALID_CREDENTIALS"}, ["authenticate"], InvalidCredentials),
    (423, {"Code": "ACCOUNT_LOCKED"}, EVERY, AccountLocked),
    (423, None, ["authenticate"], AccountLocked),
    (404, {"Code": "UNKNOWN_PARTY"}, ["get", "update"], UnknownParty),
    (404, {"code": "unknown_party"}, ["get", "update"], UnknownParty),
    (404, {"Code": "UNKNOWN_PARTY"}, ["authenticate"], InvalidCredentials),
    (404, {}, EVERY, Misconfigured),
    (405, {}, EVERY, Misconfigured),
    (409, {"Code": "PARTY_EXISTS"}, ["create"], AccountExists),
    (409, b"", ["create"], AccountExists),
    (409, {"Code": "PARTY_EXISTS"}, ["update"], Rejected),
    (422, {"Code": "INVALID_PARTY"}, EVERY, Rejected),
    (400, {}, EVERY, Rejected),
    (410, {}, EVERY, Rejected),
    (301, {}, EVERY, Misconfigured),
    (302, {}, EVERY, Misconfigured),
    (304, b"", EVERY, Misconfigured),
    (308, {}, EVERY, Misconfigured),
    (408, {}, EVERY, Unavailable),
    (429, {}, EVERY, Unavailable),
    (500, {}, EVERY, Unavailable),
    (502, b"<html>", EVERY, Unavailable),
    (503, {}, EVERY, Unavailable),
    (504, {}, EVERY, Unavailable),
    (599, {}, EVERY, Unavailable),
    (999, {}, EVERY, Unavailable),
]


@pytest.mark.parametrize(
    ("status", "document", "operation", "expected"),
    [(status, document, each, error) for status, document, operations, error in REFUSALS for each in operations],
)
def test_a_status_means_what_to_do_next(
    status: int, document: Any, operation: str, expected: type[OpenfieldError]
) -> None:
    if isinstance(document, dict):
        document = {**document, "Message": CANARY}
    with served(always(document, status, {"Location": "/ws/elsewhere"})) as (peer, client):
        failure = failure_of(lambda: CALLS[operation](client, 5))
        assert type(failure) is expected
        if isinstance(failure, Unavailable):
            assert failure.maybe_applied == (operation in WRITES and status != 429)
        assert len(peer.requests) == 1


def test_a_long_error_page_still_says_its_status() -> None:
    with served(always(b"x" * 2_000_000, 503, {"Retry-After": "7"})) as (_, client):
        assert unavailable(lambda: CALLS["get"](client, 5)).retry_after == 7


def test_a_refusal_names_the_fields_as_far_as_they_are_ours() -> None:
    fields = {"Party.Email": CANARY, "Party.Login.Username": CANARY, CANARY: CANARY}
    with served(always({"Code": "PARTY_EXISTS", "Fields": fields}, 409)) as (_, client):
        failure = failure_of(lambda: CALLS["create"](client, 5))
        assert isinstance(failure, AccountExists)
        assert failure.variables == {Variable.EMAIL, Variable.USERNAME}
    body = {"Code": "INVALID_PARTY", "Fields": {"Party.Zip": "no", "Party.Address.ZipCode": "no"}}
    own = (("zipcode", "Party.Zip"),)
    with served(always(body, 422), own_parameters=own) as (_, client):
        failure = failure_of(lambda: CALLS["update"](client, 5))
        assert isinstance(failure, Rejected)
        assert failure.variables == {Variable.ZIPCODE}


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("120", 120, 120),
        (" 0 ", 0, 0),
        ("99999999", 6 * 3600, 6 * 3600),
        ("9" * 5000, 6 * 3600, 6 * 3600),
        ("+1m", 50, 60),
        ("-1m", 0, 0),
        ("+1y", 6 * 3600, 6 * 3600),
        ("Wed, 21 Oct 2015 07:28:00 -0000", 0, 0),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_understood_and_bounded(status: int, text: str, least: float, most: float) -> None:
    shifts = {"+1m": timedelta(minutes=1), "-1m": timedelta(minutes=-1), "+1y": timedelta(days=366)}
    if text in shifts:
        text = format_datetime(datetime.now(UTC) + shifts[text], usegmt=True)
    with served(always({}, status, {"Retry-After": text})) as (_, client):
        wait = unavailable(lambda: CALLS["create"](client, 5)).retry_after
        assert wait is not None
        assert least <= wait <= most


@pytest.mark.parametrize("text", ["", "soon", "-5", "1.5", "²", "Wed, 99 Oct 2015 07:28:00 GMT", "inf"])
def test_a_retry_after_that_is_none_is_passed_over(text: str) -> None:
    with served(always({}, 503, {"Retry-After": text})) as (_, client):
        assert unavailable(lambda: CALLS["create"](client, 5)).retry_after is None


def test_a_redirect_is_not_followed_nor_read_to_its_end() -> None:
    head = b"HTTP/1.1 302 Found\r\nLocation: /ws/Party/Get\r\n\r\n"
    with served(endless(head, b" " * 65536)) as (peer, client):
        assert isinstance(failure_of(lambda: CALLS["create"](client, 10)), Misconfigured)
        assert len(peer.requests) == 1


# Conflicts -------------------------------------------------------------------------------------------------------

CONFLICT = answer({"Code": "VERSION_CONFLICT"}, 409)


def _read(version: int, **party: Any) -> bytes:
    return answer({"Party": {"PartyId": "p-1", "Version": version, **party}})


def test_after_a_conflict_the_changes_are_laid_on_what_is_there_now() -> None:
    script = in_turn(
        CONFLICT, _read(5, FirstName="Bob", City="Gent"), CONFLICT, _read(6, City="Brugge"), answer(STORED)
    )
    with served(script) as (peer, client):
        stored = client.update(
            RECORD_READ, {Variable.FIRSTNAME: "Carol"}, iter([NEWSLETTER]), "fr", key="d-1", deadline=5
        )
    assert stored == Stored("p-1", 4)
    assert [request.line.split("/")[3].split(" ")[0] for request in peer.requests] == [
        "Update", "Get", "Update", "Get", "Update"
    ]  # fmt: skip
    updates = [request for request in peer.requests if "Update" in request.line]
    assert [each.headers["idempotency-key"] for each in updates] == ["d-1", "d-1-5", "d-1-6"]
    parties = [each.document["Party"] for each in updates]
    assert [(each["Version"], each["FirstName"], each.get("City")) for each in parties] == [
        (3, "Carol", None), (5, "Carol", "Gent"), (6, "Carol", "Brugge")
    ]  # fmt: skip
    assert all(each.document["Services"][0]["ServiceId"] == "Newsletter" for each in updates)


def test_a_record_that_never_comes_to_rest_is_left_for_later() -> None:
    script = in_turn(CONFLICT, _read(5), CONFLICT, _read(6), CONFLICT)
    with served(script) as (peer, client):
        assert not unavailable(lambda: CALLS["update"](client, 5)).maybe_applied
    assert len(peer.requests) == 5


def test_a_record_that_is_gone_after_a_conflict_is_unknown() -> None:
    with served(in_turn(CONFLICT, answer({"Code": "UNKNOWN_PARTY"}, 404))) as (_, client):
        assert isinstance(failure_of(lambda: CALLS["update"](client, 5)), UnknownParty)


# Bulkhead and breaker --------------------------------------------------------------------------------------------


def test_a_full_bulkhead_refuses_at_once() -> None:
    with served(hang, bulkhead=1) as (peer, client):
        waiting = threading.Thread(target=lambda: unavailable(lambda: CALLS["get"](client, 3)))
        waiting.start()
        assert peer.arrived.wait(5)
        began = time.monotonic()
        failure = unavailable(lambda: CALLS["create"](client, 5))
        assert time.monotonic() - began < 0.5
        assert not failure.maybe_applied
        assert client.breaker.state is State.CLOSED
        peer.over.set()
        _hang_up(peer._connections[0])
        waiting.join()


def test_a_place_is_free_again_when_a_call_returns() -> None:
    with served(always(RECORD), bulkhead=1) as (_, client):
        for _ in range(50):
            client.get("p-1", deadline=5)


def test_calls_do_not_wait_for_each_other() -> None:
    meeting = threading.Barrier(4)

    def meet(peer: Peer, connection: socket.socket, request: Request) -> None:
        meeting.wait(5)
        connection.sendall(answer(RECORD))

    with served(meet, bulkhead=4) as (_, client):
        records: list[Record] = []
        callers = [threading.Thread(target=lambda: records.append(client.get("p-1", deadline=5))) for _ in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert len(records) == 4


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_breaker_opens_lets_one_try_and_closes() -> None:
    clock = Clock()
    script = in_turn(*[answer({}, 503)] * 3, answer({}, 500), answer(RECORD), answer(RECORD))
    with served(script, breaker=Breaker(failures=3, rest=10, clock=clock)) as (peer, client):
        for _ in range(3):
            unavailable(lambda: CALLS["get"](client, 5))
        states = [client.breaker.state]
        assert not unavailable(lambda: CALLS["create"](client, 5)).maybe_applied
        assert len(peer.requests) == 3
        clock.now += 10
        states.append(client.breaker.state)
        unavailable(lambda: CALLS["get"](client, 5))
        states.append(client.breaker.state)
        clock.now += 10
        client.get("p-1", deadline=5)
        states.append(client.breaker.state)
        client.get("p-1", deadline=5)
    assert states == [State.OPEN, State.HALF_OPEN, State.OPEN, State.CLOSED]


@pytest.mark.parametrize("status", [401, 403, 404, 409, 422, 423])
def test_an_answer_that_is_no_failure_of_the_server_does_not_open_the_breaker(status: int) -> None:
    with served(always({}, status), breaker=Breaker(failures=1)) as (_, client):
        for _ in range(3):
            failure_of(lambda: CALLS["create"](client, 5))
        assert client.breaker.state is State.CLOSED


def test_an_open_breaker_takes_no_place() -> None:
    clock = Clock()
    script = in_turn(answer({}, 503), answer(RECORD))
    with served(script, bulkhead=1, breaker=Breaker(failures=1, rest=10, clock=clock)) as (_, client):
        for _ in range(3):
            unavailable(lambda: CALLS["get"](client, 5))
        clock.now += 10
        assert client.get("p-1", deadline=5).version == 3


# Where calls go --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "private_hosts"),
    [
        ("http://127.0.0.1:{port}/ws", frozenset()),
        ("http://localhost:{port}/ws", frozenset()),
        ("https://2130706433:{port}/ws", frozenset({"2130706433"})),
        ("http://u:" + CANARY + "@127.0.0.1:{port}/ws", {"127.0.0.1"}),
        ("nonsense", {"127.0.0.1"}),
    ],
)
@pytest.mark.parametrize("operation", CALLS)
def test_a_url_against_the_rule_is_never_called(operation: str, url: str, private_hosts: frozenset[str]) -> None:
    with Peer(always(RECORD)) as peer:
        with client_of(peer, url.format(port=peer.port), private_hosts=private_hosts) as client:
            assert isinstance(failure_of(lambda: CALLS[operation](client, 5)), Misconfigured)
        assert peer.requests == []


def test_a_name_that_turns_private_is_not_connected_to() -> None:
    """DNS rebinding: public when the URL was saved, private when it is called."""
    asked: list[str] = []

    def rebound(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["93.184.216.34", "127.0.0.1"]

    with Peer(always(RECORD)) as peer:
        url = f"https://openfield.acme.example:{peer.port}"
        with client_of(peer, url, private_hosts=frozenset(), resolve=rebound) as client:
            failure = failure_of(lambda: CALLS["get"](client, 5))
            assert isinstance(failure, Misconfigured)
            assert "not public" in str(failure)
        assert peer.requests == []
    assert asked == ["openfield.acme.example"]


def test_settings_saved_under_other_rules_are_said_by_each_call() -> None:
    with served(always(RECORD), own_parameters=(("zipcode", "Party.Version"),)) as (peer, client):
        failure = failure_of(lambda: CALLS["update"](client, 5))
        assert isinstance(failure, Misconfigured)
        assert "zipcode" in str(failure)
        assert peer.requests == []


def test_the_environment_and_cookies_play_no_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login eve password eve\n")
    with Peer(always(RECORD, headers={"Set-Cookie": f"s={CANARY}; Path=/"})) as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "missing"))
        with served(always(RECORD, headers={"Set-Cookie": f"s={CANARY}; Path=/"})) as (peer, client):
            for _ in range(2):
                client.get("p-1", deadline=5)
        assert proxy.requests == []
        assert len(peer.requests) == 2
        assert all(request.headers.keys().isdisjoint({"cookie", "authorization"}) for request in peer.requests)


# TLS -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Certificate:
    """A certificate of its own authority: the context to serve it with, and the file to trust it by."""

    context: ssl.SSLContext
    path: str
    named: list[str | None]
    """The names that clients asked for (SNI)."""


def _certificate(folder: Path, name: str) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path = folder / f"{name}.key"
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key_path)
    named: list[str | None] = []
    context.sni_callback = lambda _, asked, __: named.append(asked)
    return Certificate(context, str(path), named)


@contextmanager
def _tls_client(peer: Peer, ca_bundle: str | None) -> Iterator[OpenfieldClient]:
    with client_of(
        peer, f"https://{HOST}:{peer.port}/ws", private_hosts={HOST}, resolve=lambda host, port: ["127.0.0.1"],
        ca_bundle=ca_bundle,
    ) as client:  # fmt: skip
        yield client


def test_tls_names_the_host_and_checks_its_certificate(tmp_path: Path) -> None:
    certificate = _certificate(tmp_path, HOST)
    with Peer(always(RECORD), certificate.context) as peer, _tls_client(peer, certificate.path) as client:
        for _ in range(3):
            assert client.get("p-1", deadline=5).version == 3
    assert certificate.named == [HOST]
    assert peer.requests[0].headers["host"] == f"{HOST}:{peer.port}"


@pytest.mark.parametrize("operation", CALLS)
def test_a_certificate_of_another_name_or_authority_is_a_wrong_setting(tmp_path: Path, operation: str) -> None:
    certificate = _certificate(tmp_path, "other.test")
    for trusted in (certificate.path, None):
        with Peer(always(RECORD), certificate.context) as peer, _tls_client(peer, trusted) as client:
            failure = failure_of(lambda: CALLS[operation](client, 5))
            assert isinstance(failure, Misconfigured)
            assert "certificate" in str(failure)
            assert peer.requests == []


def test_a_server_without_tls_is_unavailable_and_surely_not_applied() -> None:
    with Peer(always(RECORD)) as peer, _tls_client(peer, None) as client:
        assert not unavailable(lambda: CALLS["create"](client, 5)).maybe_applied


def test_an_encrypted_drip_is_cut_off_too(tmp_path: Path) -> None:
    certificate = _certificate(tmp_path, HOST)
    with Peer(drip(answer(b" " * 1000)), certificate.context) as peer, _tls_client(peer, certificate.path) as client:
        began = time.monotonic()
        assert unavailable(lambda: CALLS["create"](client, DEADLINE)).maybe_applied
        assert time.monotonic() - began < BOUND
        eventually(nothing_under_way)


# The registry ----------------------------------------------------------------------------------------------------


def test_a_process_has_one_client_per_connection() -> None:
    clients = Clients(capacity=2)
    one, two, three = (Connection(f"https://{name}.acme.example", "t", "a") for name in ("one", "two", "three"))
    first, second = clients.of(one), clients.of(two)
    assert clients.of(one) is first
    clients.of(three)  # drops the one that was not used for longest
    assert clients.of(one) is first
    assert clients.of(two) is not second
    clients.close()
    assert clients.of(one) is not first
    clients.close()


def test_a_client_that_was_dropped_still_works() -> None:
    with served(always(RECORD)) as (_, client):
        client.get("p-1", deadline=5)
        client.close()
        assert client.get("p-1", deadline=5).version == 3


def test_no_repr_tells_who_we_are() -> None:
    connection = Connection("https://acme.example", CANARY, CANARY)
    assert CANARY not in repr(connection) + repr(OpenfieldClient(connection))
