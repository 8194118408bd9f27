"""How quick the first screen stays while Openfield hangs, and how long participants then wait for their thanks.

    python -m benchmarks.first_screen

Three spells with the same watcher: nobody else is there; people sign up and log in while Openfield answers; the same
while it hangs. The second tells what their mere number costs, so that the third shows what the hang adds. Everybody
waits a little between two things that they do: clients that never wait would measure only that two cores are two cores.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import click

from benchmarks.load import Lap, Line
from benchmarks.product import (
    FIRST_SCREEN,
    LOGIN,
    SIGNUP,
    People,
    Product,
    handle,
    login_form,
    milliseconds,
    submit,
    table,
)
from widget.participation import LOGIN_DEADLINE, SUBMIT_DEADLINE

ONSET = 5.0
"""Seconds after the hang began in which nobody knows of it yet: calls are made, and wait."""

LOG_IN_EVERY = 4
"""Of so many clients, one logs in, again and again; the others sign up."""


@dataclass(slots=True)
class Crowd:
    """People who come and go, until it is over.

    Attributes:
        thanked: seconds until somebody was thanked.
        logged_in: seconds until a log-in was answered, one way or the other.
    """

    product: Product
    pause: float
    thanked: Lap = field(default_factory=Lap)
    logged_in: Lap = field(default_factory=Lap)
    failures: list[Exception] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def coming(self, clients: int, people: People, numbers: Iterator[int]) -> Iterator[None]:
        """So many at once, meanwhile."""
        threads = [
            threading.Thread(target=self._come, args=(line, people, numbers, not at % LOG_IN_EVERY), daemon=True)
            for at, line in enumerate(self.product.lines(clients))
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()
        if self.failures:
            raise self.failures[0]

    def _come(self, line: Line, people: People, numbers: Iterator[int], logs_in: bool) -> None:
        try:
            while not self._over.wait(self.pause):
                name = f"s{next(numbers)}"
                if logs_in:
                    self.logged_in.times.append(line.post(LOGIN, login_form(name)).seconds)
                else:
                    form = people.signup(name, handle(line.post(SIGNUP, "")))
                    self.thanked.times.append(submit(line, form))
        except Exception as error:  # noqa: BLE001 - a thread has nobody to raise it to; `coming` raises it
            self.failures.append(error)


def watch(line: Line, seconds: float, every: float) -> Lap:
    """The first screen's times: one request after the other, `every` seconds from the end of one to the next."""
    lap, pause, began = Lap(), threading.Event(), time.monotonic()
    while time.monotonic() - began < seconds:
        answer = line.get(FIRST_SCREEN)
        assert answer.status == 200, answer
        lap.times.append(answer.seconds)
        pause.wait(every)
    lap.seconds = time.monotonic() - began
    return lap


@click.command(context_settings={"show_default": True})
@click.option("--clients", type=click.IntRange(1), default=20, help="How many sign up and log in.")
@click.option("--pause", type=float, default=0.5, help="Seconds that each waits between two things.")
@click.option("--spell", type=float, default=20.0, help="Seconds that is measured each time.")
@click.option("--every", type=float, default=0.02, help="Seconds from one look at the first screen to the next.")
def main(clients: int, pause: float, spell: float, every: float) -> None:
    """Measure the first screen while Openfield hangs."""
    numbers = itertools.count()
    with Product() as product:
        people, watcher = People(product), product.lines(1)[0]
        watch(watcher, 3, every)
        idle = watch(watcher, spell, every)
        calm, hung = Crowd(product, pause), Crowd(product, pause)
        with calm.coming(clients, people, numbers):
            watch(watcher, 3, every)
            answering = watch(watcher, spell, every)
        with hung.coming(clients, people, numbers):
            watch(watcher, 3, every)
            product.meet("hang")
            onset = watch(watcher, ONSET, every)
            later = watch(watcher, max(ONSET, spell - ONSET), every)
        product.meet("answer")
    click.echo(
        f"{clients} clients, {pause} s between two things that each does; {os.cpu_count()} cores for all that runs\n"
    )
    spells = {
        "nobody else": idle,
        "people come, Openfield answers": answering,
        f"the first {ONSET:.0f} s of a hang": onset,
        "the hang goes on": later,
    }
    table(
        ("first screen", "looks", "p50 ms", "p99 ms", "max ms", "p50 of idle's", "p99 of idle's", "p99 of answering's"),
        [
            (
                name, f"{len(lap.times)}", *(milliseconds(lap, percent) for percent in (50, 99, 100)),
                *(f"{lap.within(percent) / idle.within(percent):.2f}" for percent in (50, 99)),
                f"{lap.within(99) / answering.within(99):.2f}",
            )
            for name, lap in spells.items()
        ],
    )  # fmt: skip
    table(
        ("people who wait", "of them", "p50 s", "p99 s", "max s", "deadline s", "max of it"),
        [
            _waits("for their thanks, Openfield answers", calm.thanked, SUBMIT_DEADLINE),
            _waits("for their thanks, Openfield hangs", hung.thanked, SUBMIT_DEADLINE),
            _waits("for a log-in, Openfield answers", calm.logged_in, LOGIN_DEADLINE),
            _waits("for a log-in, Openfield hangs", hung.logged_in, LOGIN_DEADLINE),
        ],
    )


def _waits(what: str, lap: Lap, deadline: float) -> tuple[str, ...]:
    times = (f"{lap.within(percent):.2f}" for percent in (50, 99, 100))
    return what, f"{len(lap.times)}", *times, f"{deadline:.0f}", f"{lap.within(100) / deadline:.2f}"


if __name__ == "__main__":
    main()
