"""The product under load: the stage of the fault tests, with an Openfield that costs next to nothing, and its people.

Not here: what is measured (`outbox`, `first_screen`).
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import click
import psutil

from benchmarks.load import Answer, Lap, Line, Meter, crowd
from tests.faults.people import Page
from tests.faults.stage import CAMPAIGN, Part, Stage
from tests.processes import postmaster, wait_until
from widget.postgres import PROGRAMS, wheel

FIRST_SCREEN, LOGIN, SIGNUP, SUBMIT = (f"/c/{CAMPAIGN}{path}" for path in ("", "/login", "/signup", "/submit"))

JSON = "application/json"

HANDLE = re.compile(rb'name="handle" value="([^"]+)"')

PARTS = ("web", "worker", "postgres", "openfield", "clients")
"""Whose CPU is told of."""

ROW = 1300
"""Bytes of the row that measures the database: about those of a participation, its delivery and its job."""

INSERT = "INSERT INTO benchmark_row (bytes) VALUES (decode(repeat('5a', :bytes), 'hex'));"
"""For pgbench."""


class FastOpenfield(Part):
    """`benchmarks.openfield`, in the place of the stage's sandbox."""

    def __init__(self, log: Path, environment: Mapping[str, str], port: int) -> None:
        super().__init__(log, environment)
        self._command = (sys.executable, "-m", "benchmarks.openfield", "--port", str(port))


class Product(Stage):
    """Web, workers, PostgreSQL and the fast Openfield, each a process of its own, with one campaign."""

    def __init__(self, *, workers: int = 1) -> None:
        super().__init__(workers=workers)
        port = urlsplit(self.openfield.url).port
        assert port
        self.sandbox = FastOpenfield(self.folder / "openfield-1.log", self.environment, port)

    def lines(self, count: int) -> list[Line]:
        """Browsers of people at addresses of their own."""
        return [
            Line(self.url, {"Sec-Fetch-Site": "same-origin", "X-Forwarded-For": f"10.1.{n >> 8}.{n & 255}"})
            for n in range(count)
        ]

    # Openfield

    def meet(self, mode: str = "answer", **how: Any) -> None:
        """How Openfield meets calls from now on; see `benchmarks.openfield`."""
        line = Line(self.openfield.url)
        answer = line.post("/control", json.dumps({"mode": mode, **how}), JSON)
        line.close()
        assert answer.status == 200, answer

    def writes(self) -> list[tuple[str, str, float, float]]:
        """What Openfield was told: user name, zip code, began, ended."""
        line = Line(self.openfield.url)
        told = json.loads(line.get("/writes").body)
        line.close()
        return [(name, zipcode, began, ended) for name, zipcode, began, ended in told]

    # Workers

    def start_workers(self, count: int) -> None:
        """So many, each ready to work."""
        self.change("TRUNCATE procrastinate_workers CASCADE")
        self.workers = [Part(self.folder / f"worker-{n}.log", self.environment, "worker") for n in range(1, count + 1)]
        for worker in self.workers:
            worker.start()
        wait_until(lambda: self.number("SELECT count(*) FROM procrastinate_workers") == count)

    def stop_workers(self) -> None:
        """In order."""
        for worker in self.workers:
            worker.stop()
        self.workers = []

    def retry_all(self) -> None:
        """`flask deliveries retry --all`."""
        self._run("deliveries", "retry", "--all")

    # What it costs

    def number(self, query: str) -> float:
        """The one number that a query gives."""
        return float(self.query(query)[0][0])

    def meter(self) -> Meter:
        """Of each part's CPU."""
        heads: dict[str, list[int]] = {name: [] for name in PARTS}
        for child in psutil.Process().children():
            command = child.cmdline()
            for name, word in (("web", "serve"), ("worker", "worker"), ("openfield", "benchmarks.openfield")):
                if word in command:
                    heads[name].append(child.pid)
        heads["postgres"].append(postmaster(self.folder / "instance") or 0)
        heads["clients"].append(os.getpid())
        return Meter(heads)

    @contextmanager
    def counting(self) -> Iterator[Cost]:
        """What is spent meanwhile, known at the end."""
        cost = Cost()
        commits = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        written = "SELECT pg_current_wal_lsn() - '0/0'"
        before = self.number(commits), self.number(written)
        with self.meter().running() as cpu:
            yield cost
        cost.wal = self.number(written) - before[1]
        cost.commits = self.number(commits) - before[0]
        cost.cpu = cpu

    def commits_per_second(self, clients: int, seconds: int) -> float:
        """The database's own rate, at as many connections: transactions of one row of about a submission's size."""
        self.change("DROP TABLE IF EXISTS benchmark_row")
        self.change("CREATE TABLE benchmark_row (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, bytes bytea)")
        script = self.folder / "row.sql"
        script.write_text(f"\\set bytes {ROW}\n{INSERT}\n")
        pgbench = str(wheel() / PROGRAMS / "bin" / "pgbench")
        options = ("--no-vacuum", "--protocol=prepared", "--jobs=1", f"--client={clients}", f"--time={seconds}")
        done = subprocess.run((pgbench, *options, f"--file={script}", self.conninfo), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        self.change("DROP TABLE benchmark_row")
        found = re.search(r"tps = ([0-9.]+)", done.stdout)
        assert found, done.stdout
        return float(found[1])


@dataclass(slots=True)
class Cost:
    """What was spent: transactions committed, bytes of the write-ahead log, seconds of CPU by part."""

    commits: float = math.nan
    wal: float = math.nan
    cpu: Mapping[str, float] | None = None

    def each(self, count: int) -> list[str]:
        """Cells, per one of so many: commits, kB, milliseconds by part."""
        cpu = self.cpu or {}
        spent = [f"{1000 * cpu.get(part, 0.0) / count:.2f}" for part in PARTS]
        return [f"{self.commits / count:.1f}", f"{self.wal / count / 1000:.1f}", *spent]


COST = ("commits", "WAL kB", *(f"{part} ms" for part in PARTS))
"""The heads of `Cost.each`."""


# People -----------------------------------------------------------------------------------------------------------


class People:
    """Who takes part. A form is read once; everybody fills in the same one, with a handle of their own."""

    def __init__(self, product: Product) -> None:
        self._product = product
        line = product.lines(1)[0]
        self._signup = self._fields(line.post(SIGNUP, ""))
        self._update = self._fields(line.post(LOGIN, login_form("somebody")))
        line.close()

    def _fields(self, answer: Answer) -> dict[str, str]:
        fields = Page(answer.status, answer.body.decode()).forms.get("submit", {})
        assert fields.get("handle"), f"there is no form to fill in, but {answer.status}: {answer.body.decode()}"
        return fields

    def signups(self, lines: Sequence[Line], names: Sequence[str]) -> list[str]:
        """The filled-in forms of people who sign up, each with a fresh handle."""
        forms: dict[str, str] = {}

        def begin(line: Line, name: str) -> None:
            forms[name] = self.signup(name, handle(line.post(SIGNUP, "")))

        crowd(lines, names, begin)
        return [forms[name] for name in names]

    def signup(self, name: str, fresh: str) -> str:
        """The filled-in form of somebody who signs up."""
        account = {"email": f"{name}@example.org", "username": name, "password": f"{name}-keeps-this-secret"}
        return urlencode({**self._signup, **account, **_typed(1000), "handle": fresh})

    def update(self, name: str, zipcode: int, fresh: str) -> str:
        """The filled-in form of somebody who has logged in."""
        return urlencode({**self._update, "email": f"{name}@example.org", **_typed(zipcode), "handle": fresh})


def log_in(line: Line, name: str) -> str:
    """The handle of somebody's form."""
    return handle(line.post(LOGIN, login_form(name)))


def login_form(name: str) -> str:
    """The filled-in form of the first screen."""
    return urlencode({"username": name, "password": f"{name}-keeps-this-secret", "typed": ""})


def _typed(zipcode: int) -> dict[str, str]:
    return {"firstname": "Anna", "lastname": "Peeters", "zipcode": str(zipcode), "locality": "Gent", "country": "BEL"}


def handle(answer: Answer) -> str:
    """The handle in a page."""
    found = HANDLE.search(answer.body)
    assert found, f"there is no handle in the answer, {answer.status}: {answer.body.decode()}"
    return found[1].decode()


def submit(line: Line, form: str) -> float:
    """Sends a form; gives the seconds until its sender was thanked.

    Raises:
        AssertionError: they were not.
    """
    answer = line.post(SUBMIT, form)
    assert b'data-step="thanks"' in answer.body, f"nobody was thanked, but {answer.status}: {answer.body.decode()}"
    return answer.seconds


# Telling ----------------------------------------------------------------------------------------------------------


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints it: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        first, *others = (
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        click.echo("  ".join((first, *others)).rstrip())
    click.echo()


def milliseconds(lap: Lap, percent: float) -> str:
    """A cell: the time that so many percent took at most."""
    return f"{1000 * lap.within(percent):.1f}"


def busy(cost: Cost, seconds: float) -> str:
    """A cell: how many cores were kept busy meanwhile."""
    return f"{sum((cost.cpu or {}).values()) / seconds:.2f}"
