"""What is counted and timed, for Prometheus: calls to Openfield, attempts to deliver, requests; how the outbox stands.

Each process counts for itself. `flask serve` and `flask worker` have the processes of one instance folder count into
files there (prometheus-client's multiprocess mode, which the environment switches on), so that whichever of them is
asked answers for all. What an ended process had counted is kept in one file, so that no sum ever falls. Processes on
other machines answer for themselves; the outbox's gauges come from the database, and are everybody's.

No label holds anything personal or without bounds. Nothing fails because it could not be counted.

Not here: who asks (`web.status`), and how the outbox stands (`backlog.health`).
"""

from __future__ import annotations

import fcntl
import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Protocol

import psutil

from widget import config

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Histogram, Metric

CALL_SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

CIRCUITS = ("flowing", "resting", "paused", "off")
"""What an integration's deliveries may be doing."""

STATES = ("waiting", "sending", "buried")
"""What a delivery may be until it is delivered."""

ENDED = "ended"
"""Stands for a process's number in the name of the file of those that ended."""


class Health(Protocol):
    """How the outbox stands; see `backlog.health`."""

    @property
    def backlog(self) -> Mapping[tuple[str, str], int]:
        """Of each integration's name and state (waiting, sending, buried): how many deliveries."""

    @property
    def oldest(self) -> float:
        """Seconds since the oldest open one was taken; 0 for none."""

    @property
    def circuits(self) -> Mapping[str, str]:
        """Of each integration's name: one of CIRCUITS."""

    @property
    def workers(self) -> int:
        """How many are alive."""

    @property
    def heartbeat(self) -> float | None:
        """Seconds since the youngest sign of life of a worker; None without one."""


@dataclass(frozen=True, slots=True)
class _Instruments:
    registry: CollectorRegistry
    calls: Histogram
    attempts: Counter
    requests: Histogram


class Metrics:
    """One per process. Nothing is loaded or written before it is first used. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._instruments: _Instruments | None = None

    def call(self, operation: str, outcome: str, seconds: float) -> None:
        """Openfield was called; `outcome` is "ok" or the name of the error's class."""
        with suppress(OSError):
            self._made().calls.labels(operation, outcome).observe(seconds)

    def attempt(self, outcome: str) -> None:
        """A delivery was tried: it is delivered, postponed, buried or withdrawn now."""
        with suppress(OSError):
            self._made().attempts.labels(outcome).inc()

    def request(self, endpoint: str, status: int, seconds: float) -> None:
        """A request was answered."""
        with suppress(OSError):
            self._made().requests.labels(endpoint, status).observe(seconds)

    def page(self, health: Health | None) -> bytes:
        """All of it, in Prometheus' text format.

        Args:
            health: how the outbox stands; None when the database doesn't answer.
        """
        from prometheus_client import CollectorRegistry, generate_latest

        outbox = CollectorRegistry()
        outbox.register(_Outbox(health))
        folder = config.shared_metrics()
        if folder is None:
            return generate_latest(self._made().registry) + generate_latest(outbox)
        counted = CollectorRegistry()
        counted.register(_Counted(folder))
        with _files(folder, fcntl.LOCK_SH):
            return generate_latest(counted) + generate_latest(outbox)

    def _made(self) -> _Instruments:
        with self._lock:
            if self._instruments is None:
                self._instruments = _make()
            return self._instruments


def _make() -> _Instruments:
    from prometheus_client import CollectorRegistry, Counter, Histogram

    registry = CollectorRegistry()
    return _Instruments(
        registry,
        Histogram(
            "widget_openfield_call_seconds", "What calls to Openfield took.", ("operation", "outcome"),
            buckets=CALL_SECONDS, registry=registry,
        ),
        Counter("widget_delivery_attempts", "What came of attempts to deliver.", ("outcome",), registry=registry),
        Histogram(
            "widget_request_seconds", "What answering requests took.", ("endpoint", "status"),
            buckets=REQUEST_SECONDS, registry=registry,
        ),
    )  # fmt: skip


class _Outbox:
    """The gauges that are read when somebody asks for them."""

    def __init__(self, health: Health | None) -> None:
        self._health = health

    def collect(self) -> Iterable[Metric]:
        """For a registry."""
        from prometheus_client.core import GaugeMetricFamily as Gauge

        health = self._health
        yield Gauge("widget_database_up", "Whether the database answers.", value=health is not None)
        if health is None:
            return
        backlog = Gauge("widget_deliveries", "Deliveries that are not delivered.", labels=("integration", "state"))
        for labels in product(health.circuits, STATES):  # zeros too: who never was cannot be seen to grow
            backlog.add_metric(labels, health.backlog.get(labels, 0))
        circuits = Gauge("widget_circuit", "1 for what deliveries are doing.", labels=("integration", "state"))
        for integration, standing in health.circuits.items():
            for state in CIRCUITS:
                circuits.add_metric((integration, state), state == standing)
        yield from (backlog, circuits)
        yield Gauge("widget_oldest_delivery_seconds", "Age of the oldest open delivery.", value=health.oldest)
        yield Gauge("widget_workers", "Workers that are alive.", value=health.workers)
        if health.heartbeat is not None:
            yield Gauge("widget_worker_heartbeat_seconds", "Age of the last sign of life.", value=health.heartbeat)


# Several processes ------------------------------------------------------------------------------------------------


def share(folder: Path) -> None:
    """From now on this process, and those that it starts, count into files in the folder. Before the first count.

    Raises:
        BadEnvironment: the folder cannot be made.
    """
    config.share_metrics(folder)
    with _files(folder, fcntl.LOCK_EX):
        totals: dict[str, dict[str, float]] = {}
        for file in [each for each in folder.glob("*.db") if _has_ended(each)]:
            kind, _ = _kind_and_number(file)
            total = totals.setdefault(kind, {})
            for key, value in _read(file).items():
                total[key] = total.get(key, 0.0) + value
            file.unlink()
        for kind, total in totals.items():
            _write(folder / f"{kind}_{ENDED}.db", total)


class _Counted:
    """What the processes have counted, all in all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """For a registry."""
        from prometheus_client.multiprocess import MultiProcessCollector

        files = [str(file) for file in self._folder.glob("*.db") if file.stat().st_size]  # one is empty when it is made
        return MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call,no-any-return]


@contextmanager
def _files(folder: Path, lock: int) -> Iterator[None]:
    """Keeps files from going while others read them."""
    with (folder / "lock").open("ab") as file:
        fcntl.flock(file, lock)
        yield


def _kind_and_number(file: Path) -> tuple[str, str]:
    kind, _, number = file.stem.rpartition("_")
    return kind, number


def _has_ended(file: Path) -> bool:
    """Whether nobody counts into it any more."""
    _, number = _kind_and_number(file)
    return number == ENDED or (number.isdecimal() and not psutil.pid_exists(int(number)))


def _read(file: Path) -> dict[str, float]:
    """What was counted, by prometheus-client's key; nothing when the file is broken: the machine may have crashed."""
    from prometheus_client.mmap_dict import MmapedDict

    try:
        found = {key: value for key, value, *_ in MmapedDict.read_all_values_from_file(file)}  # type: ignore[no-untyped-call]
        return found if all(json.loads(key) for key in found) else {}
    except (RuntimeError, ValueError, struct.error):
        return {}


def _write(file: Path, total: Mapping[str, float]) -> None:
    from prometheus_client.mmap_dict import MmapedDict

    written = MmapedDict(file)  # type: ignore[no-untyped-call]
    for key, value in total.items():
        written.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
    written.close()  # type: ignore[no-untyped-call]
