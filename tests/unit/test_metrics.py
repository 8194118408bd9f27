"""What is counted, in one process and in several."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from widget.metrics import Metrics

TOP = Path(__file__).parents[2]

PROCESS = """
import sys
from pathlib import Path
from widget.metrics import Metrics, share

share(Path(sys.argv[1]))
metrics = Metrics()
metrics.attempt("delivered")
metrics.call("create", "ok", 0.3)
print(metrics.page(None).decode(), "ready", flush=True)
sys.stdin.read()
"""
"""A process that counts one delivery, says what all have counted, and ends with its standard input."""


@dataclass
class Health:
    """How an outbox stands."""

    backlog: dict[tuple[str, str], int] = field(default_factory=dict)
    oldest: float = 0.0
    circuits: dict[str, str] = field(default_factory=dict)
    workers: int = 0
    heartbeat: float | None = None


def numbers(page: str) -> dict[str, float]:
    """Each line's name with its labels, and its number."""
    lines = (line.rpartition(" ") for line in page.splitlines() if line and not line.startswith("#"))
    return {name: float(number) for name, _, number in lines if name}


def read(metrics: Metrics, health: Health | None = None) -> dict[str, float]:
    return numbers(metrics.page(health).decode())


def test_calls_are_timed_by_operation_and_outcome() -> None:
    metrics = Metrics()
    metrics.call("create", "ok", 0.3)
    metrics.call("create", "ok", 3.0)
    metrics.call("authenticate", "Unavailable", 5.0)
    found = read(metrics)
    assert found['widget_openfield_call_seconds_count{operation="create",outcome="ok"}'] == 2
    assert found['widget_openfield_call_seconds_sum{operation="create",outcome="ok"}'] == pytest.approx(3.3)
    assert found['widget_openfield_call_seconds_bucket{le="0.5",operation="create",outcome="ok"}'] == 1
    assert found['widget_openfield_call_seconds_count{operation="authenticate",outcome="Unavailable"}'] == 1


def test_attempts_and_requests_are_counted() -> None:
    metrics = Metrics()
    metrics.attempt("delivered")
    metrics.attempt("delivered")
    metrics.request("pages.submit", 200, 0.1)
    found = read(metrics)
    assert found['widget_delivery_attempts_total{outcome="delivered"}'] == 2
    assert found['widget_request_seconds_count{endpoint="pages.submit",status="200"}'] == 1


def test_two_in_one_process_know_nothing_of_each_other() -> None:
    one, other = Metrics(), Metrics()
    one.attempt("delivered")
    assert not any("delivered" in name for name in read(other))


def test_the_outbox_is_told_as_it_stands() -> None:
    health = Health(
        {("acme", "waiting"): 3, ("acme", "buried"): 1}, oldest=61.5, circuits={"acme": "resting"}, workers=2,
        heartbeat=4.0,
    )  # fmt: skip
    found = read(Metrics(), health)
    assert found["widget_database_up"] == 1
    assert found['widget_deliveries{integration="acme",state="waiting"}'] == 3
    assert found['widget_deliveries{integration="acme",state="buried"}'] == 1
    assert found['widget_deliveries{integration="acme",state="sending"}'] == 0
    assert found["widget_oldest_delivery_seconds"] == 61.5
    assert found['widget_circuit{integration="acme",state="resting"}'] == 1
    assert found['widget_circuit{integration="acme",state="flowing"}'] == 0
    assert found["widget_workers"] == 2
    assert found["widget_worker_heartbeat_seconds"] == 4.0


def test_without_a_database_the_rest_is_told() -> None:
    metrics = Metrics()
    metrics.attempt("postponed")
    found = read(metrics)
    assert found["widget_database_up"] == 0
    assert found['widget_delivery_attempts_total{outcome="postponed"}'] == 1
    assert not any(name.startswith(("widget_deliveries", "widget_workers")) for name in found)


def test_no_heartbeat_is_no_number() -> None:
    assert not any("heartbeat" in name for name in read(Metrics(), Health()))


# Several processes


class Process:
    """One that counted, and has not ended yet."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            (sys.executable, "-c", PROCESS, str(folder)), cwd=TOP, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def delivered(self) -> float:
        """How many deliveries it knows of."""
        page = ""
        for line in self._process.stdout or ():
            if line.strip() == "ready":
                break
            page += line
        return numbers(page)['widget_delivery_attempts_total{outcome="delivered"}']

    def end(self) -> None:
        """Ends it in order."""
        self._process.communicate(timeout=30)
        assert self._process.returncode == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where processes count; it is not there yet."""
    return tmp_path / "instance" / "metrics"


def test_each_process_answers_for_all(folder: Path) -> None:
    one = Process(folder)
    assert one.delivered() == 1
    other = Process(folder)
    assert other.delivered() == 2
    one.end()
    other.end()


def test_what_ended_processes_counted_stays_and_their_files_go(folder: Path) -> None:
    for ended in range(3):
        process = Process(folder)
        assert process.delivered() == ended + 1
        process.end()
    names = {path.name for path in folder.glob("*.db")}
    assert len(names) == 4
    assert {"counter_ended.db", "histogram_ended.db"} < names


@pytest.mark.parametrize("name", ["counter_4999999.db", "histogram_ended.db"])
@pytest.mark.parametrize("content", [b"", b"\x40" + b"\0" * 200, b"\x40\0\0\0" + b"\xff" * 200])
def test_a_file_that_a_crash_of_the_machine_broke_is_left_out(folder: Path, name: str, content: bytes) -> None:
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    process = Process(folder)
    assert process.delivered() == 1
    process.end()
    assert not (folder / "counter_4999999.db").exists()


def test_a_file_that_is_just_being_made_is_no_obstacle(folder: Path) -> None:
    one = Process(folder)
    assert one.delivered() == 1
    (folder / "counter_1.db").touch()  # by a process that is alive
    other = Process(folder)
    assert other.delivered() == 2
    one.end()
    other.end()


def test_nothing_fails_because_it_cannot_be_counted(folder: Path) -> None:
    done = subprocess.run(
        (sys.executable, "-c", PROCESS.replace("metrics = ", "Path(sys.argv[1]).rename(sys.argv[1] + '2'); metrics = ")
         .replace("print", "sys.exit() or print"), str(folder)),
        cwd=TOP, text=True, stdin=subprocess.DEVNULL, capture_output=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
