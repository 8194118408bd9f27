"""`make chaos`: thousands of people take part while everything around them is killed; then Openfield must have it all.

    python -m tests.faults.chaos --seed 7 --submissions 10000

A plan, made from the seed, says after how many acknowledged submissions which deed is done: kill -9 of every part and
of all at once, an Openfield that is away, hangs, or fails in a dozen ways, an emptied queue, new encryption keys, an
integration that is switched off. In the end nothing is in the way any more: the outbox has to empty itself, and
`history` judges. The same seed makes the same plan and the same people; what meets what depends on the machine.

It exits with 0 only if all is as it must be.
"""

from __future__ import annotations

import heapq
import itertools
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from secrets import randbelow
from typing import Any

import click

from tests.faults.history import History, Outcome, Verdict, judge
from tests.faults.people import Life, Person
from tests.faults.stage import CAMPAIGN, Stage
from tests.processes import wait_until

DISTANCE = 250
"""Acknowledged submissions between two deeds, about."""

SHOWN = 20
"""Cases of one fault that are told; the others are only counted."""

MIX: tuple[tuple[float, Mapping[str, Any]], ...] = (
    (0.10, {"kind": "status", "status": 500}),
    (0.10, {"kind": "apply_then_status", "status": 500}),
    (0.10, {"kind": "apply_then_drop"}),
    (0.05, {"kind": "reset"}),
    (0.05, {"kind": "reset_mid_body"}),
    (0.05, {"kind": "truncated"}),
    (0.05, {"kind": "wrong_types"}),
    (0.05, {"kind": "garbage"}),
    (0.05, {"kind": "status", "status": 503, "retry_after": 1}),
    (0.05, {"kind": "status", "status": 429, "retry_after": 1}),
    (0.10, {"kind": "delay", "seconds": 2}),
    (0.03, {"kind": "delay", "seconds": 3600}),
    (0.02, {"kind": "drip", "seconds": 1}),
    (0.02, {"kind": "endless"}),
)
"""How an Openfield fails that fails in every way, and at how many of the calls that met nothing before."""

WRITES = ("Create", "Update")


# The plan ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Event:
    """When `after` submissions are acknowledged, a deed; it lasts some seconds."""

    after: int
    deed: str
    seconds: float
    seed: int
    """Of whatever the deed leaves to chance."""


def plan(seed: int, submissions: int) -> list[Event]:
    """Every deed once before one of them comes again, each after about as many submissions as the others."""
    if not submissions:
        return []
    dice = Random(f"plan {seed}")
    deeds: list[str] = []
    while len(deeds) < max(len(DEEDS), submissions // DISTANCE):
        deeds += dice.sample(list(DEEDS), len(DEEDS))
    deeds = deeds[: max(len(DEEDS), submissions // DISTANCE)]
    pace = submissions / (len(deeds) + 1)
    return [
        Event(int(pace * (number + dice.uniform(0.6, 1.4))), deed, dice.uniform(0.2, 4.0), dice.randrange(1 << 30))
        for number, deed in enumerate(deeds)
    ]


# The deeds --------------------------------------------------------------------------------------------------------

Pause = Callable[[float], object]
Deed = Callable[[Stage, Event, Pause], object]


def kill_web_worker(stage: Stage, event: Event, pause: Pause) -> None:
    stage.web.kill_child(event.seed)
    pause(event.seconds)


def kill_web(stage: Stage, event: Event, pause: Pause) -> None:
    stage.web.kill()
    pause(event.seconds)


def kill_worker(stage: Stage, event: Event, pause: Pause) -> None:
    stage.workers[event.seed % len(stage.workers)].kill()
    pause(event.seconds)


def kill_postgres(stage: Stage, event: Event, pause: Pause) -> None:
    stage.kill_postgres()
    pause(event.seconds)


def kill_everything(stage: Stage, event: Event, pause: Pause) -> None:
    stage.kill_postgres()
    for part in stage.parts:
        part.kill()
    pause(event.seconds)


def restart_in_order(stage: Stage, event: Event, pause: Pause) -> None:
    for part in (stage.web, *stage.workers):
        part.stop()
        stage.mend()


def openfield_killed(stage: Stage, event: Event, pause: Pause) -> None:
    stage.sandbox.kill()
    pause(2 * event.seconds)


def openfield_hangs(stage: Stage, event: Event, pause: Pause) -> None:
    stage.openfield.fault("delay", times=None, seconds=3600)
    pause(2 * event.seconds)
    stage.openfield.clear_faults()


def openfield_fails_in_every_way(stage: Stage, event: Event, pause: Pause) -> None:
    for number, (chance, fault) in enumerate(MIX):
        stage.openfield.fault(**fault, times=None, chance=chance, seed=event.seed + number)
    pause(5 * event.seconds)
    stage.openfield.clear_faults()


def openfield_writes_nothing(stage: Stage, event: Event, pause: Pause) -> None:
    """People can log in meanwhile, and send again and again: one person's deliveries pile up."""
    for operation in WRITES:
        stage.openfield.fault("status", operation, times=None, status=500, chance=0.5, seed=event.seed)
        stage.openfield.fault("apply_then_drop", operation, times=None)
    pause(5 * event.seconds)
    stage.openfield.clear_faults()


def empty_queue(stage: Stage, event: Event, pause: Pause) -> None:
    stage.openfield.fault("status", times=None, chance=0.5, seed=event.seed)
    pause(event.seconds)
    stage.change("TRUNCATE procrastinate_jobs CASCADE")
    stage.openfield.clear_faults()


def rotate_keys(stage: Stage, event: Event, pause: Pause) -> None:
    """Workers first: they only read, so that nobody meets what he cannot open yet."""
    stage.rotate_keys()
    for part in (*stage.workers, stage.web):
        part.kill()
        stage.mend()


def switch_off(stage: Stage, event: Event, pause: Pause) -> None:
    stage.set_integration(enabled=False)
    pause(2 * event.seconds)
    stage.set_integration()


DEEDS: Mapping[str, Deed] = {
    "kill a web worker": kill_web_worker,
    "kill the web": kill_web,
    "kill a worker": kill_worker,
    "kill PostgreSQL": kill_postgres,
    "kill everything": kill_everything,
    "restart in order": restart_in_order,
    "Openfield killed": openfield_killed,
    "Openfield hangs": openfield_hangs,
    "Openfield fails in every way": openfield_fails_in_every_way,
    "Openfield writes nothing": openfield_writes_nothing,
    "queue emptied": empty_queue,
    "keys rotated": rotate_keys,
    "integration off": switch_off,
}
"""What is done; in the end `Stage.mend` starts what does not run."""


# The run ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Run:
    """People and deeds, until enough submissions are acknowledged."""

    stage: Stage
    seed: int
    submissions: int
    backlog: int
    history: History = field(default_factory=History)
    over: threading.Event = field(default_factory=threading.Event)
    done: Counter[str] = field(default_factory=Counter)
    """How often each deed was done."""
    began: float = field(default_factory=time.monotonic)
    _crowd: list[Future[None]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _newcomers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _waiting: list[tuple[float, int, Person, Iterator[float]]] = field(default_factory=list)
    """A heap of those who go on later: when, and a number that tells two of them apart."""

    @property
    def acknowledged(self) -> int:
        """How many submissions are, as yet."""
        return self.history.count(Outcome.ACKNOWLEDGED)

    def go(self, people: int) -> None:
        """Lets so many people take part at once while the plan is carried out; returns when all have ended.

        Raises:
            AssertionError: a part does not get ready any more.
        """
        pool = ThreadPoolExecutor(people)
        self._crowd = [pool.submit(self._take_part) for _ in range(people)]
        try:
            self._pile_up()
            for event in plan(self.seed, self.submissions - self.backlog):
                self._wait_for(self.backlog + event.after)
                self._do(event)
            self._wait_for(self.submissions)
        finally:
            self.over.set()
            pool.shutdown(wait=False)
        for each in self._crowd:
            each.result()
        for _, _, person, _ in self._waiting:
            person.leave()

    def _pile_up(self) -> None:
        """There is no Openfield before so many wait for it."""
        if self.backlog:
            self.stage.sandbox.kill()
            self._wait_for(self.backlog)
            self.say("Openfield is there")
            self.stage.mend()

    def _take_part(self) -> None:
        """One after the other, as long as it goes on: whoever is due to go on, or else somebody new."""
        while not self.over.is_set():
            person, life = self._next()
            pause = next(life, None)
            if pause is None:
                person.leave()
            else:
                with self._lock:
                    heapq.heappush(self._waiting, (time.monotonic() + pause, next(self._numbers), person, life))

    def _next(self) -> tuple[Person, Iterator[float]]:
        with self._lock:
            if self._waiting and self._waiting[0][0] <= time.monotonic():
                return heapq.heappop(self._waiting)[2:]
            number = next(self._newcomers)
        person = Person(
            f"p{number}", site=self.stage.url, campaign=CAMPAIGN, history=self.history, over=self.over,
            address=f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",
        )  # fmt: skip
        return person, Life(Random(f"{self.seed} {number}")).live(person)

    def _wait_for(self, acknowledged: int) -> None:
        while self.acknowledged < acknowledged:
            self.over.wait(0.1)
            for each in self._crowd:
                if each.done():
                    each.result()  # nobody leaves before it is over: there is a mistake in this program

    def _do(self, event: Event) -> None:
        self.say(event.deed)
        DEEDS[event.deed](self.stage, event, self.over.wait)
        self.stage.mend()
        self.done[event.deed] += 1

    def say(self, what: str) -> None:
        """A line with the time and how far it is."""
        click.echo(f"{time.monotonic() - self.began:7.1f} s  {self.acknowledged:6} acknowledged  {what}")

    def drain(self, seconds: float) -> float:
        """Waits until the outbox is empty, so long at most; gives how long it took."""
        began = time.monotonic()
        try:
            wait_until(lambda: not self.stage.is_open(), seconds)
        except AssertionError:
            self.say(f"the outbox is not empty after {seconds:.0f} s")
        return time.monotonic() - began

    def verdict(self) -> Verdict:
        """What has come of it."""
        states = self.stage.deliveries()
        reasons = self.stage.query("SELECT coalesce(reason, '') FROM delivery WHERE state = 'buried'")
        return judge(
            self.history,
            parties=self.stage.openfield.parties(),
            changes=self.stage.openfield.changes(),
            open=sum(states.values()) - states.get("delivered", 0) - states.get("buried", 0),
            buried=[reason for (reason,) in reasons],
        )


def report(run: Run, verdict: Verdict, *, lasted: float, drained: float) -> None:
    """Prints the table, and the cases."""
    told = {outcome.value: run.history.count(outcome) for outcome in Outcome}
    rows: list[tuple[str, object]] = [
        ("seed", run.seed),
        ("submitted", sum(told.values())),
        *told.items(),
        ("delivered", verdict.delivered),
        *((name, len(cases)) for name, cases in verdict.faults.items()),
        *sorted(run.done.items()),
        ("lasted", f"{lasted:.0f} s, {run.acknowledged / lasted:.1f} acknowledged a second"),
        ("drained in", f"{drained:.1f} s"),
    ]
    click.echo()
    for name, value in rows:
        click.echo(f"  {name:<30} {value}")
    for name, cases in verdict.faults.items():
        for case in cases[:SHOWN]:
            click.echo(f"{name}: {case}", err=True)
        if len(cases) > SHOWN:
            click.echo(f"{name}: and {len(cases) - SHOWN} more", err=True)


@click.command(context_settings={"show_default": True})
@click.option("--seed", type=int, default=lambda: randbelow(1 << 30), show_default="another one each time")
@click.option("--submissions", type=click.IntRange(1), default=10_000, help="How many must be acknowledged.")
@click.option(
    "--backlog", type=click.IntRange(0), default=0, help="So many of them wait at once, before anything else."
)
@click.option("--people", type=click.IntRange(1), default=32, help="How many take part at once.")
@click.option("--workers", type=click.IntRange(1), default=2, help="How many `flask worker` there are.")
@click.option("--embedded", is_flag=True, help="PostgreSQL is the embedded one, which the product starts again itself.")
@click.option("--ignore-idempotency", is_flag=True, help="Openfield takes no notice of Idempotency-Key.")
@click.option("--drain", type=float, default=900.0, help="Seconds that the outbox may take to empty itself in the end.")
@click.option("--keep", is_flag=True, help="Leave the folder, with the database and what the parts said.")
def main(seed: int, submissions: int, backlog: int, people: int, drain: float, **options: Any) -> None:
    """Kill everything while thousands take part, and look whether Openfield has it all."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    click.echo(f"seed {seed}: {submissions} submissions, {people} people at once")
    with Stage(**options) as stage:
        if options["keep"]:
            click.echo(f"what the parts say is in {stage.folder}")
        run = Run(stage, seed, submissions, min(backlog, submissions))
        run.go(people)
        lasted = time.monotonic() - run.began
        run.say("nothing is in the way any more")
        drained = run.drain(drain)
        verdict = run.verdict()
        report(run, verdict, lasted=lasted, drained=drained)
    raise SystemExit(0 if verdict.is_clean else 1)


if __name__ == "__main__":
    main()
