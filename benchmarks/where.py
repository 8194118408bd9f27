"""Where the time of one submission and of one delivery goes: by statement in PostgreSQL, by library in Python.

    python -m benchmarks.where

Statements are PostgreSQL's own log of them, of the real processes; a wait for a lock or for the disk counts with the
statement that waits. Functions are profiled in this process, where the same code runs in one thread, and by CPU:
waiting is not in it, nor is the thread that speaks to Openfield. Profiling makes Python about twice as slow: shares
count, not milliseconds.
"""

from __future__ import annotations

import cProfile
import pstats
import re
import sysconfig
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from uuid import UUID

import click

from benchmarks.load import crowd
from benchmarks.outbox import fill, put_back, wait_until_empty
from benchmarks.product import SUBMIT, People, Product, submit, table
from widget import jobs
from widget.app import create_app
from widget.config import Settings
from widget.wiring import Wiring

SHOWN = 30
"""Rows of a table."""

LOGGED = re.compile(r"LOG:  duration: ([0-9.]+) ms  (statement|parse|bind|execute)(?: [^:]*)?: (.*)", re.DOTALL)

FORM = "application/x-www-form-urlencoded"
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}

LIBRARIES = Path(sysconfig.get_path("purelib"))
STANDARD = Path(sysconfig.get_path("stdlib"))


@click.command(context_settings={"show_default": True})
@click.option("--count", type=click.IntRange(4), default=200, help="Submissions, and deliveries.")
def main(count: int) -> None:
    """Tell where the time of one submission and of one delivery goes."""
    with Product(workers=0) as product:
        people, lines = People(product), product.lines(4)
        crowd(lines, people.signups(lines, [f"warm{n}" for n in range(40)]), submit)
        forms = people.signups(lines, [f"first{n}" for n in range(count)])
        _statements(product, count, "One sign-up's statements", lambda: crowd(lines, forms, submit))
        _profile_submissions(product, people.signups(lines, [f"second{n}" for n in range(count)]))
        fill(product, count)
        product.meet("answer")
        put_back(product, count)
        _profile_deliveries(product)
        put_back(product, count)
        product.start_workers(1)
        _statements(product, count, "One delivery's statements, as a worker does it", lambda: _drain(product))
        product.stop_workers()


def _drain(product: Product) -> None:
    product.retry_all()
    wait_until_empty(product)


# By statement -----------------------------------------------------------------------------------------------------


def _statements(product: Product, count: int, title: str, work: Callable[[], object]) -> None:
    log = Path(str(product.query("SHOW data_directory")[0][0])) / "log"
    start = log.stat().st_size
    _log_statements(product, "0")
    work()
    _log_statements(product, "-1")
    counts, spent = _read(log.read_bytes()[start:].decode(errors="replace"))
    click.echo(
        f"{title}: {sum(counts.values()) / count:.1f} of them, {sum(spent.values()) / count:.2f} ms in the server"
    )
    worst = sorted(spent, key=lambda each: -spent[each])[:SHOWN]
    rows = [(each, f"{counts[each] / count:.2f}", f"{spent[each] / count:.3f}") for each in worst]
    table(("statement", "times", "ms"), rows)


def _log_statements(product: Product, milliseconds: str) -> None:
    product.change(f"ALTER SYSTEM SET log_min_duration_statement = {milliseconds}")
    product.change("SELECT pg_reload_conf()")


def _read(log: str) -> tuple[dict[str, int], dict[str, float]]:
    """How often each statement was carried out, and in how many milliseconds altogether."""
    counts: dict[str, int] = defaultdict(int)
    spent: dict[str, float] = defaultdict(float)
    for entry in re.split(r"^(?=\d{4}-\d\d-\d\d )", log, flags=re.MULTILINE):
        found = LOGGED.search(entry)
        if found is None:
            continue
        milliseconds, phase, statement = found.groups()
        words = _abridged(statement)
        counts[words] += phase in ("statement", "execute")
        spent[words] += float(milliseconds)
    return counts, spent


def _abridged(statement: str) -> str:
    """On one line, without the columns that are selected."""
    words = " ".join(statement.split())
    words = re.sub(r"\bSELECT .*? FROM ", "SELECT … FROM ", words, count=1)
    return words if len(words) <= 110 else f"{words[:80]} … {words[-27:]}"


# By library -------------------------------------------------------------------------------------------------------


def _profile_submissions(product: Product, forms: Sequence[str]) -> None:
    app = create_app(Settings.from_env(product.environment))
    browser = app.test_client()
    browser.post(SUBMIT, data=forms[0], content_type=FORM, headers=SAME_ORIGIN)

    def post(form: str) -> None:
        answer = browser.post(SUBMIT, data=form, content_type=FORM, headers=SAME_ORIGIN)
        assert b'data-step="thanks"' in answer.data, answer.data

    _profile("One sign-up", [partial(post, form) for form in forms[1:]])
    app.extensions["widget"].close()


def _profile_deliveries(product: Product) -> None:
    wiring = Wiring.of(Settings.from_env(product.environment)).for_worker(1)
    product.change("UPDATE integration SET failures = 0, rests_until = NULL")
    ids: list[UUID] = [
        each for (each,) in product.query("SELECT id FROM delivery WHERE state = 'waiting' ORDER BY number")
    ]

    def deliver(each: UUID) -> None:
        jobs.deliver(wiring, each)

    _profile("One delivery, without the queue", [partial(deliver, each) for each in ids])
    assert list(product.deliveries()) == ["delivered"], product.deliveries()
    wiring.close()


def _profile(title: str, works: Sequence[Callable[[], object]]) -> None:
    half = len(works) // 2
    began, cpu = time.perf_counter(), time.process_time()
    for work in works[:half]:
        work()
    lasted, cpu = time.perf_counter() - began, time.process_time() - cpu
    profile = cProfile.Profile(time.thread_time)
    with profile:
        for work in works[half:]:
            work()
    count = len(works) - half
    click.echo(f"{title}: {1000 * lasted / half:.1f} ms, of them {1000 * cpu / half:.1f} ms of Python's CPU")
    own: dict[str, float] = defaultdict(float)
    ours: dict[str, tuple[float, float]] = {}
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]  # its one useful attribute is not in its stub
    for (file, line, name), (_, calls, alone, altogether, _) in stats.items():
        library = _library(file)
        own[library] += alone
        if library == "widget":
            ours[f"{Path(file).name}:{line} {name}"] = calls, altogether
    total = sum(own.values())
    table(
        ("library", "share"),
        [(each, f"{100 * own[each] / total:.0f} %") for each in sorted(own, key=lambda each: -own[each])[:15]],
    )
    worst = sorted(ours, key=lambda each: -ours[each][1])[:SHOWN]
    table(
        ("function of ours, with what it calls", "calls", "share"),
        [(each, f"{ours[each][0] / count:.1f}", f"{100 * ours[each][1] / total:.0f} %") for each in worst],
    )


def _library(file: str) -> str:
    path = Path(file)
    if path.is_relative_to(LIBRARIES):
        return path.relative_to(LIBRARIES).parts[0]
    if path.is_relative_to(STANDARD):
        return "standard library"
    if file == "~":
        return "built in"
    return "widget" if "/widget/" in file else "others"


if __name__ == "__main__":
    main()
