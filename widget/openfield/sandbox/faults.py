"""The ways in which a sandbox fails when it is told to.

A fault that replaces the answer leaves the records alone; one that spoils the answer comes after the call has taken
effect, as when a network fails on the way back. `delay` holds a call before it takes effect.

Several faults with a `chance` each make a server that fails now and then, in many ways: a call meets the first fault,
in the order in which they were set, whose dice say so. The same `seed` throws the same dice again.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from http import HTTPStatus
from random import Random
from typing import Any

from flask import Response

from widget.openfield.sandbox.judge import OPERATIONS, SchemaValidator, violations
from widget.openfield.sandbox.message import Answer, Json, Refused, serialize

LONGEST = 3600
"""Seconds that one fault may hold a call."""


class Kind(StrEnum):
    DELAY = "delay"
    STATUS = "status"
    UNKNOWN_TENANT = "unknown_tenant"
    LOCK = "lock"
    GARBAGE = "garbage"
    RESET = "reset"
    APPLY_THEN_STATUS = "apply_then_status"
    APPLY_THEN_DROP = "apply_then_drop"
    RESET_MID_BODY = "reset_mid_body"
    TRUNCATED = "truncated"
    WRONG_TYPES = "wrong_types"
    DRIP = "drip"
    ENDLESS = "endless"


ABOUT: Mapping[Kind, str] = {
    Kind.DELAY: "wait some seconds, then do what was asked",
    Kind.STATUS: "answer with a status, such as 503",
    Kind.UNKNOWN_TENANT: "answer 403 UNKNOWN_CALLER",
    Kind.LOCK: "answer a log-in with 423 ACCOUNT_LOCKED",
    Kind.GARBAGE: "answer 200 with a page of HTML",
    Kind.RESET: "reset the connection, do nothing",
    Kind.APPLY_THEN_STATUS: "do it, then answer with a status, such as 500",
    Kind.APPLY_THEN_DROP: "do it, then reset the connection",
    Kind.RESET_MID_BODY: "do it, then reset halfway through the answer",
    Kind.TRUNCATED: "do it, then answer half of the JSON",
    Kind.WRONG_TYPES: "do it, then answer numbers for texts",
    Kind.DRIP: "do it, then answer byte by byte",
    Kind.ENDLESS: "do it, then never stop answering",
}
"""What each does, in the words of the page."""

REPLACING = frozenset({Kind.STATUS, Kind.UNKNOWN_TENANT, Kind.LOCK, Kind.GARBAGE, Kind.RESET})

SCHEMA: Json = {
    "type": "object",
    "required": ["kind"],
    "additionalProperties": False,
    "properties": {
        "kind": {"enum": list(Kind)},
        "operation": {"enum": ["*", *OPERATIONS]},
        "times": {"type": ["integer", "null"], "minimum": 1},
        "seconds": {"type": "number", "minimum": 0, "maximum": LONGEST},
        "status": {"type": "integer", "minimum": 200, "maximum": 599},
        "retry_after": {"type": ["string", "integer"]},
        "location": {"type": "string"},
        "chance": {"type": "number", "minimum": 0, "maximum": 1},
        "seed": {"type": ["integer", "null"]},
    },
}


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with the next calls.

    Attributes:
        operation: one of OPERATIONS, or "*" for every one.
        times: for how many calls; None until the faults are cleared.
        seconds: how long `delay` waits, and `drip` between two bytes.
        status, retry_after, location: what `status` and `apply_then_status` answer; the last two are headers.
        chance: of how many calls it meets one; 1 for every call.
        seed: of `dice`; None for dice that nobody knows.
        released: set when the faults are cleared, so that no call is held any longer.
    """

    kind: Kind
    operation: str = "*"
    times: int | None = 1
    seconds: float = 1
    status: int = 503
    retry_after: str | int | None = None
    location: str | None = None
    chance: float = 1
    seed: int | None = None
    dice: Random = field(default_factory=Random, repr=False, compare=False)
    released: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

    @classmethod
    def from_json(cls, data: Any) -> Fault:
        """Raises: Refused: 422 with what is wrong."""
        if wrong := violations(SchemaValidator(SCHEMA), data):
            raise Refused(422, "INVALID_FAULT", "the fault is not as it must be", wrong)
        fault = cls(**{**data, "kind": Kind(data["kind"])})
        operation = "Authenticate" if fault.kind is Kind.LOCK else fault.operation
        dice = Random(fault.seed)  # noqa: S311 - nobody bets on them
        return replace(fault, operation=operation, seconds=float(fault.seconds), chance=float(fault.chance), dice=dice)

    def to_json(self) -> Json:
        names = ("kind", "operation", "times", "seconds", "status", "retry_after", "location", "chance", "seed")
        return {name: getattr(self, name) for name in names}

    def meets(self, operation: str) -> bool:
        """Whether a call of that operation meets it. Throws the dice."""
        return self.operation in (operation, "*") and self.dice.random() < self.chance

    def after_one(self) -> list[Fault]:
        """What is left of it when it has met a call: itself with one time less, or nothing."""
        if self.times is None:
            return [self]
        return [replace(self, times=self.times - 1)] if self.times > 1 else []

    def answer(self) -> Answer | None:
        """What is said in the place of an answer; None for nothing."""
        told = {"Message": "a fault that the sandbox was told to have"}
        if self.kind is Kind.UNKNOWN_TENANT:
            return Answer(403, {"Code": "UNKNOWN_CALLER", **told})
        if self.kind is Kind.LOCK:
            return Answer(423, {"Code": "ACCOUNT_LOCKED", **told})
        if self.kind in (Kind.STATUS, Kind.APPLY_THEN_STATUS):
            headers = {"Retry-After": self.retry_after, "Location": self.location}
            given = {name: str(value) for name, value in headers.items() if value is not None}
            return Answer(self.status, {"Code": _code(self.status), **told}, given)
        return Answer(200, {}) if self.kind is Kind.GARBAGE else None


def _code(status: int) -> str:
    with suppress(ValueError):
        return HTTPStatus(status).name
    return "FAULT"


# How answers are sent, and how they are spoiled

Connection = socket.socket | None
"""The caller's, as werkzeug's server gives it. Under another server it is None, and a reset becomes an exception."""


def respond(answer: Answer | None, fault: Fault | None, connection: Connection) -> Response:
    """The response that carries the answer as far as the fault lets it. An answer of None is a reset."""
    if answer is None:
        return Response(_cut(b"", connection))
    if fault is None or fault.kind not in SPOILED:
        return _whole(answer, answer.data())
    return SPOILED[fault.kind](answer, fault, connection)


def _whole(answer: Answer, data: bytes | Iterator[bytes]) -> Response:
    return Response(data, answer.status, dict(answer.headers), mimetype="application/json")


def _cut(data: bytes, connection: Connection) -> Iterator[bytes]:
    """`data`, and then a TCP reset."""
    if data:
        yield data
    if connection is not None:
        # Closing sends a reset only with a linger of 0. The server still reads from its own end: it has to find nothing
        # there, and to be the last to close.
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.shutdown(socket.SHUT_RD)
        connection.close()
    raise ConnectionResetError


def _failed(answer: Answer, fault: Fault, connection: Connection) -> Response:
    return respond(fault.answer(), None, connection)


def _dropped(answer: Answer, fault: Fault, connection: Connection) -> Response:
    return Response(_cut(b"", connection))


def _reset_mid_body(answer: Answer, fault: Fault, connection: Connection) -> Response:
    data = answer.data()
    response = _whole(answer, _cut(data[: len(data) // 2], connection))
    response.content_length = len(data)
    return response


def _truncated(answer: Answer, fault: Fault, connection: Connection) -> Response:
    data = answer.data()
    return _whole(answer, data[: len(data) // 2])


def _wrongly_typed(answer: Answer, fault: Fault, connection: Connection) -> Response:
    return _whole(answer, serialize(mistyped(answer.body)).encode())


def mistyped(value: Any) -> Any:
    """`value` with every leaf of another type: numbers for texts, objects for lists, texts for all else."""
    if isinstance(value, dict):
        return {name: mistyped(each) for name, each in value.items()}
    if isinstance(value, str):
        return len(value)
    return {} if isinstance(value, list) else str(value)


def _dripping(answer: Answer, fault: Fault, connection: Connection) -> Response:
    def drops(data: bytes) -> Iterator[bytes]:
        for place in range(len(data)):
            yield data[place : place + 1]
            fault.released.wait(fault.seconds)

    response = _whole(answer, drops(answer.data()))
    response.content_length = len(answer.data())
    return response


def _endless(answer: Answer, fault: Fault, connection: Connection) -> Response:
    def stream() -> Iterator[bytes]:
        yield b'{"Party": {"FirstName": "'
        while not fault.released.is_set():
            yield b"a" * 65536

    return _whole(answer, stream())


def _garbage(answer: Answer, fault: Fault, connection: Connection) -> Response:
    return Response("<!doctype html><title>Maintenance</title><h1>We will be back soon</h1>\n", mimetype="text/html")


SPOILED: Mapping[Kind, Callable[[Answer, Fault, Connection], Response]] = {
    Kind.APPLY_THEN_STATUS: _failed,
    Kind.APPLY_THEN_DROP: _dropped,
    Kind.RESET_MID_BODY: _reset_mid_body,
    Kind.TRUNCATED: _truncated,
    Kind.WRONG_TYPES: _wrongly_typed,
    Kind.DRIP: _dripping,
    Kind.ENDLESS: _endless,
    Kind.GARBAGE: _garbage,
}
