"""How much the outbox takes in, and how quickly it empties; each as a ratio to what the same run measured.

    python -m benchmarks.outbox submissions    acknowledged a second, beside the database's commits and empty pages
    python -m benchmarks.outbox drain          delivered a second with 1, 2 and 4 workers

Where one's time goes is told by process; `benchmarks.where` tells it by statement and library.

Real processes on this machine, and clients among them: they share its cores. How to read it: docs/BENCHMARKS.md.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypeVar

import click

from benchmarks.load import Lap, Line, crowd
from benchmarks.product import (
    COST,
    JSON,
    Cost,
    People,
    Product,
    busy,
    log_in,
    milliseconds,
    submit,
    table,
)
from widget.jobs import CONCURRENCY

_T = TypeVar("_T")

PER_PERSON = 4
"""Deliveries of one person, which have to arrive in order."""

WORKERS = (1, 2, 4)

SPELL = 10
"""Seconds that a drain at a latency would ideally take, unless all is drained in full."""

PATIENCE = 900.0
"""Seconds that a drain may take before the benchmark gives up."""


@click.group(context_settings={"show_default": True})
def main() -> None:
    """Measure the outbox."""


# Submissions ------------------------------------------------------------------------------------------------------


@main.command()
@click.option("--clients", type=click.IntRange(1), default=16, help="How many submit at once.")
@click.option("--count", type=click.IntRange(1), default=1000, help="Submissions of each kind.")
def submissions(clients: int, count: int) -> None:
    """Count the submissions that are acknowledged in a second."""
    with Product() as product:
        lines = product.lines(clients)
        commits = product.commits_per_second(clients, seconds=4)
        pages = crowd(lines, range(3000), lambda line, _: line.get("/healthz")).rate
        openfields = [Line(product.openfield.url) for _ in lines]
        calls = crowd(openfields, range(3000), _ask_openfield).rate
        click.echo(f"{clients} clients at once, {count} of each kind; {os.cpu_count()} cores for all that runs\n")
        table(
            ("measured beside them", "per s"),
            [
                ("the database: transactions of one row", f"{commits:.0f}"),
                ("the web: empty pages", f"{pages:.0f}"),
                ("Openfield, asked by the clients", f"{calls:.0f}"),
            ],
        )
        rows = [
            (name, lap, cost, f"{lap.rate / commits:.3f}", f"{lap.rate / pages:.3f}")
            for name, lap, cost in _laps(product, lines, count)
        ]
    table(
        ("acknowledged", "per s", "of commits", "of pages", "p50 ms", "p99 ms", "cores busy"),
        [
            (name, f"{lap.rate:.1f}", *ratios, milliseconds(lap, 50), milliseconds(lap, 99), busy(cost, lap.seconds))
            for name, lap, cost, *ratios in rows
        ],
    )
    table(("where one's time goes", *COST), [(name, *cost.each(len(lap.times))) for name, lap, cost, *_ in rows])


def _laps(product: Product, lines: Sequence[Line], count: int) -> list[tuple[str, Lap, Cost]]:
    people, laps = People(product), []

    def run(name: str, tasks: Sequence[_T], do: Callable[[Line, _T], object]) -> None:
        with product.counting() as cost:
            lap = crowd(lines, tasks, do)
        laps.append((name, lap, cost))

    for name in ("warm", "create"):
        forms = people.signups(lines, [f"{name}{n}" for n in range(count if name == "create" else 4 * len(lines))])
        if name == "create":
            run("sign-ups", forms, submit)
        else:
            crowd(lines, forms, submit)

    handles: dict[str, str] = {}

    def begin(line: Line, name: str) -> None:
        handles[name] = log_in(line, name)

    run("log-ins", [f"create{n}" for n in range(count)], begin)
    run("updates", [people.update(name, 1001, fresh) for name, fresh in handles.items()], submit)

    forms = people.signups(lines, [f"hang{n}" for n in range(count + 4 * len(lines))])
    product.meet("hang")
    onset = crowd(lines, forms[count:], submit)
    run("sign-ups while Openfield hangs", forms[:count], submit)
    product.meet("answer")
    click.echo(f"When Openfield begins to hang, the slowest of the first {len(onset.times)} is thanked "
               f"after {max(onset.times):.2f} s.\n")  # fmt: skip
    return laps


def _ask_openfield(line: Line, number: int) -> None:
    line.post("/Party/Authenticate", '{"Login":{"Username":"somebody","Password":"secret"}}', JSON)


# Drain ------------------------------------------------------------------------------------------------------------


@main.command()
@click.option("--waiting", type=click.IntRange(PER_PERSON), default=2000, help="Deliveries that wait.")
@click.option("--full", is_flag=True, help="10 000 of them, all of them at each latency.")
@click.option("--latency", type=float, multiple=True, default=(0.0, 0.2), help="Seconds that Openfield takes.")
def drain(waiting: int, full: bool, latency: tuple[float, ...]) -> None:
    """Measure how quickly workers empty the outbox."""
    waiting = 10_000 if full else waiting
    with Product(workers=0) as product:
        filled = fill(product, waiting)
        click.echo(f"{waiting} deliveries of {waiting // PER_PERSON} people wait; {filled.rate:.1f}/s came in\n")
        for seconds in latency:
            _drain_with_each(product, waiting, seconds, full=full)


def _drain_with_each(product: Product, waiting: int, latency: float, *, full: bool) -> None:
    rows, costs, alone = [], [], 0.0
    for workers in WORKERS:
        ideal = workers * CONCURRENCY / latency if latency else math.inf
        count = waiting if full else int(min(waiting, SPELL * ideal))
        rate, disorder, cost, seconds = _drain(product, workers, count, latency)
        alone = alone or rate
        of_ideal = f"{rate / ideal:.2f}" if latency else "-"
        rows.append(
            (
                f"{workers}", f"{count}", f"{seconds:.1f}", f"{rate:.1f}", f"{rate / alone:.2f}", of_ideal,
                f"{disorder}", busy(cost, seconds),
            )
        )  # fmt: skip
        costs.append((f"{workers}", *cost.each(count)))
    click.echo(f"Openfield takes {1000 * latency:.0f} ms, {CONCURRENCY} deliveries at once per worker")
    table(("workers", "drained", "in s", "per s", "of one's", "of ideal", "out of order", "cores busy"), rows)
    table(("where one's time goes", *COST), costs)


def fill(product: Product, waiting: int) -> Lap:
    """Has so many waiting, by real submissions: people log in several times, then Openfield goes, then they submit."""
    people, lines = People(product), product.lines(16)
    forms: dict[str, list[str]] = defaultdict(list)

    def begin(line: Line, name: str) -> None:
        for n in range(PER_PERSON):
            forms[name].append(people.update(name, 1001 + n, log_in(line, name)))

    def send(line: Line, form: str) -> None:
        submit(line, form)

    crowd(lines, [f"p{n}" for n in range(waiting // PER_PERSON)], begin)
    product.meet("refuse")
    laps = [crowd(lines, [each[n] for each in forms.values()], send) for n in range(PER_PERSON)]
    product.change("CREATE TABLE benchmark_backlog AS SELECT * FROM delivery WHERE state = 'waiting'")
    return Lap(sum(lap.seconds for lap in laps), [each for lap in laps for each in lap.times])


_PUT_BACK = """
    UPDATE delivery SET state = 'waiting', attempts = was.attempts, crashes = 0, superseded = false, settled_at = NULL,
        sealed_payload = was.sealed_payload, due_at = now(), give_up_at = now() + interval '7 days'
    FROM (SELECT * FROM benchmark_backlog ORDER BY number LIMIT {count}) AS was WHERE was.id = delivery.id
"""


def put_back(product: Product, count: int) -> None:
    """So many wait as they did, the others are delivered; the integration rests, nothing is queued."""
    product.change("UPDATE integration SET failures = 5, rests_until = now() + interval '1 hour'")
    product.change("TRUNCATE procrastinate_jobs CASCADE")
    product.change("UPDATE delivery SET state = 'delivered', sealed_payload = NULL")
    product.change(_PUT_BACK.format(count=count))
    product.change("VACUUM FULL ANALYZE delivery")


def _drain(product: Product, workers: int, count: int, latency: float) -> tuple[float, int, Cost, float]:
    """Deliveries a second from the first call to the last answer; how many came out of order; cost; seconds."""
    put_back(product, count)
    product.start_workers(workers)
    product.meet("answer", seconds=latency, forget=True)
    with product.counting() as cost:
        product.retry_all()
        wait_until_empty(product)
    product.stop_workers()
    writes = product.writes()
    assert len(writes) == count, f"{len(writes)} calls for {count} deliveries"
    seconds = max(ended for *_, ended in writes) - min(began for *_, began, _ in writes)
    return count / seconds, _out_of_order(writes), cost, seconds


def wait_until_empty(product: Product) -> None:
    """Looks seldom, over one connection, so that looking costs next to nothing.

    Raises:
        AssertionError: something is still open after PATIENCE.
    """
    pause, began = threading.Event(), time.monotonic()
    with product.database() as connection:
        while connection.execute("SELECT FROM delivery WHERE state IN ('waiting', 'sending') LIMIT 1").rowcount:
            assert time.monotonic() - began < PATIENCE, f"not empty after {PATIENCE:.0f} s: {product.deliveries()}"
            pause.wait(0.2)


def _out_of_order(writes: Sequence[tuple[str, str, float, float]]) -> int:
    """How many writes began before an earlier one of the same person had ended, or came after a later one."""
    count = 0
    last: dict[str, tuple[str, float]] = {}
    for name, zipcode, began, ended in sorted(writes, key=lambda write: write[2]):
        before = last.get(name)
        count += before is not None and (before[0] >= zipcode or began < before[1])
        last[name] = (zipcode, ended)
    return count


if __name__ == "__main__":
    main()
