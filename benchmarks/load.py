"""Load, and what it cost: clients that take next to no CPU themselves, laps with their times, CPU by process.

Not here: what is asked, and of whom (`product`), and what it means.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlsplit

import psutil

_T = TypeVar("_T")

TIMEOUT = 60.0
"""Seconds until an answer is overdue, and the benchmark failed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and after how many seconds."""

    status: int
    body: bytes = field(repr=False)
    seconds: float


class Line:
    """One connection that is kept, as a browser keeps its own; what it sends is written by hand, since an HTTP library
    would take as much CPU as the server that is measured.

    Args:
        headers: go with each request.
    """

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        self._address = (parts.hostname, parts.port or 80)
        named = {"Host": parts.netloc, **(headers or {})}
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in named.items())
        self._socket: socket.socket | None = None

    def get(self, path: str) -> Answer:
        """Raises: OSError: it is not answered, or not whole."""
        return self._ask(f"GET {path} HTTP/1.1\r\n{self._headers}\r\n".encode())

    def post(self, path: str, body: str, kind: str = "application/x-www-form-urlencoded") -> Answer:
        """Raises: OSError: it is not answered, or not whole."""
        length = f"Content-Type: {kind}\r\nContent-Length: {len(body.encode())}\r\n"
        return self._ask(f"POST {path} HTTP/1.1\r\n{self._headers}{length}\r\n{body}".encode())

    def close(self) -> None:
        """Ends the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask(self, request: bytes) -> Answer:
        began = time.monotonic()
        if self._socket is None:
            self._socket = socket.create_connection(self._address, TIMEOUT)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(request)
        head, body = self._read()
        return Answer(int(head[9:12]), body, time.monotonic() - began)

    def _read(self) -> tuple[bytes, bytes]:
        assert self._socket is not None
        read = b""
        while b"\r\n\r\n" not in read:
            read += self._more()
        head, _, body = read.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or b"0")
        while len(body) < length:
            body += self._more()
        return head, body

    def _more(self) -> bytes:
        assert self._socket is not None
        more = self._socket.recv(64 * 1024)
        if not more:
            raise ConnectionError("the server closed the connection before it had answered")
        return more


@dataclass(slots=True)
class Lap:
    """What was done, each in how many seconds, and in how many altogether."""

    seconds: float = 0.0
    times: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """How many a second."""
        return len(self.times) / self.seconds if self.seconds else math.nan

    def within(self, percent: float) -> float:
        """The time, in seconds, that so many percent of them took at most."""
        ordered = sorted(self.times)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else math.nan


def crowd(lines: Sequence[Line], tasks: Iterable[_T], do: Callable[[Line, _T], object]) -> Lap:
    """One client per line; each does the next task when its last one is done.

    Raises:
        Exception: what a task raised; the others are left.
    """
    waiting, lap, guard = iter(tasks), Lap(), threading.Lock()
    failures: list[Exception] = []

    def client(line: Line) -> None:
        for task in _taken(waiting, guard):
            began = time.monotonic()
            try:
                do(line, task)
            except Exception as error:  # noqa: BLE001 - a thread has nobody to raise it to; below it is raised
                failures.append(error)
            if failures:
                return
            lap.times.append(time.monotonic() - began)

    threads = [threading.Thread(target=client, args=(line,), daemon=True) for line in lines]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lap.seconds = time.monotonic() - began
    if failures:
        raise failures[0]
    return lap


def _taken(waiting: Iterator[_T], guard: threading.Lock) -> Iterator[_T]:
    nothing = object()
    while True:
        with guard:
            task = next(waiting, nothing)
        if task is nothing:
            return
        yield task  # type: ignore[misc]  # it is not `nothing`


# CPU --------------------------------------------------------------------------------------------------------------


class Meter:
    """Seconds of CPU that families of processes have taken.

    Args:
        families: a name → the processes at the heads of it, whose children count, ended ones too. This process counts
            without the children that it started.
    """

    def __init__(self, families: Mapping[str, Iterable[int]]) -> None:
        self._families = {name: list(heads) for name, heads in families.items()}

    def read(self) -> dict[str, float]:
        """Since their beginning, by family."""
        return {name: sum(map(_cpu_of_family, heads)) for name, heads in self._families.items()}

    @contextmanager
    def running(self) -> Iterator[dict[str, float]]:
        """What they take meanwhile, known at the end."""
        taken: dict[str, float] = {}
        before = self.read()
        yield taken
        taken.update({name: seconds - before[name] for name, seconds in self.read().items()})


def _cpu_of_family(head: int) -> float:
    if head == os.getpid():
        return time.process_time()
    seconds = 0.0
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(head)
        for process in (first, *first.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                spent = process.cpu_times()
                seconds += spent.user + spent.system + spent.children_user + spent.children_system
    return seconds
