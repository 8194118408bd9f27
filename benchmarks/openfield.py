"""An Openfield for benchmarks: it answers validly and in no time, judges nothing, and notes what it was told.

    python -m benchmarks.openfield --port 5001

The product's sandbox judges, remembers and explains each call, and takes longer for that than the product takes to
make it; a benchmark against it would measure the sandbox. Not here: anything that could refuse a record. A Create of
somebody who is there and an Update of an old version are answered like any other, so that a delivery is one call.

`POST /control` takes {"mode": "answer" | "refuse" | "hang", "seconds": …, "forget": true}: how calls are met from now
on (`refuse` and `hang` leave Authenticate's answers alone where "log_ins" is true), after how many seconds they are
answered, and whether what was noted is dropped. `GET /writes` gives [user name, zip code, began, ended] for each Create
and Update that was answered, in the order of their ends; times are seconds of the system's monotonic clock.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import click

REASONS = {200: "OK", 201: "Created", 404: "Not Found", 503: "Service Unavailable"}


class Openfield:
    """How calls are met, and what was noted of them."""

    def __init__(self) -> None:
        self.mode = "answer"
        self.seconds = 0.0
        self.log_ins = False
        self.writes: list[tuple[str, str, float, float]] = []
        self.held: set[asyncio.Transport] = set()

    def control(self, wanted: dict[str, Any]) -> None:
        """Does as it is told; calls that hang are let go when the mode changes: they hear nothing."""
        self.mode = wanted.get("mode", self.mode)
        self.seconds = wanted.get("seconds", self.seconds)
        self.log_ins = wanted.get("log_ins", False)
        if wanted.get("forget"):
            self.writes.clear()
        if self.mode != "hang":
            for transport in self.held:
                transport.close()
            self.held.clear()

    def meets(self, operation: str) -> str:
        """The mode that a call of this operation meets."""
        return "answer" if self.log_ins and operation == "Authenticate" else self.mode

    def answer(self, operation: str, body: dict[str, Any], began: float) -> tuple[int, Any]:
        """Status and document; a write is noted."""
        if operation == "Authenticate":
            return 200, {"Party": _record(body["Login"]["Username"])}
        if operation == "Get":
            return 200, {"Party": _record(body["PartyId"])}
        if operation not in ("Create", "Update"):
            return 404, {"Code": "UNKNOWN_OPERATION"}
        party = body["Party"]
        name = party["Login"]["Username"]
        self.writes.append((name, party.get("Address", {}).get("ZipCode", ""), began, time.monotonic()))
        created = operation == "Create"
        return 201 if created else 200, {"PartyId": name, "Version": 1 if created else party["Version"] + 1}


def _record(name: str) -> dict[str, Any]:
    return {
        "PartyId": name, "PartyType": "Person", "Version": 1, "LanguageId": "en", "Email": f"{name}@example.org",
        "FirstName": "Anna", "LastName": "Peeters", "Login": {"Username": name},
        "Address": {"Street": "Rue Haute 1", "ZipCode": "1000", "City": "Bruxelles", "CountryId": "BEL"},
    }  # fmt: skip


class Call(asyncio.Protocol):
    """One connection; one call after the other."""

    def __init__(self, openfield: Openfield) -> None:
        self._openfield = openfield
        self._read = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the way back."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets a call that hung."""
        self._openfield.held.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        """Meets the call once it is whole."""
        self._read += data
        head, end, body = self._read.partition(b"\r\n\r\n")
        if not end or len(body) < _length(head):
            return
        self._read = b""
        method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        self._meet(method, path.rpartition("/")[2], json.loads(body) if body else {})

    def _meet(self, method: str, name: str, body: dict[str, Any]) -> None:
        if method == "GET":
            self._reply(200, self._openfield.writes if name == "writes" else "up")
        elif name == "control":
            self._openfield.control(body)
            self._reply(200, None)
        else:
            self._call(name, body)

    def _call(self, operation: str, body: dict[str, Any]) -> None:
        began = time.monotonic()
        mode, seconds = self._openfield.meets(operation), self._openfield.seconds
        if mode == "hang":
            self._openfield.held.add(self._transport)
        elif mode == "refuse":
            self._reply(503, {"Code": "OUT_OF_SERVICE"})
        elif seconds:
            asyncio.get_running_loop().call_later(seconds, self._answer, operation, body, began)
        else:
            self._answer(operation, body, began)

    def _answer(self, operation: str, body: dict[str, Any], began: float) -> None:
        self._reply(*self._openfield.answer(operation, body, began))

    def _reply(self, status: int, document: Any) -> None:
        if self._transport.is_closing():
            return
        text = json.dumps(document).encode()
        head = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: application/json\r\nContent-Length: {len(text)}"
        self._transport.write(head.encode() + b"\r\n\r\n" + text)


def _length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


async def _serve(port: int) -> None:
    openfield = Openfield()
    server = await asyncio.get_running_loop().create_server(lambda: Call(openfield), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), required=True)
def main(port: int) -> None:
    """Answer until killed."""
    asyncio.run(_serve(port))


if __name__ == "__main__":
    main()
