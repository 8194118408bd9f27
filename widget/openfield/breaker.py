"""A circuit breaker: after several failures in a row, spares Openfield and the participant a call that would fail too.

Not here: what counts as a failure (`client` reports). These lines are our own because pybreaker holds its lock while
the call is under way, which makes calls wait for each other; here the lock is held for an instant before and after.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import StrEnum

from widget.openfield.errors import NotAsked


class State(StrEnum):
    """What the breaker does with the next call."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"
    """It lets one call try, and decides by its outcome."""


class Breaker:
    """Safe to use from several threads.

    Args:
        failures: how many in a row open it; infinity for never.
        rest: seconds until it lets one call try. A trial that is never reported on is forgotten after as many.
        clock: seconds that only grow.
    """

    def __init__(self, failures: float = 5, rest: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = failures
        self._rest = rest
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._rests_until = 0.0
        self._era = 0
        """Grows when the breaker opens, closes or tries: the outcome of a call admitted before then decides nothing."""

    @property
    def state(self) -> State:
        """Its state now."""
        with self._lock:
            return self._state()

    def _state(self) -> State:
        if self._failures < self._limit:
            return State.CLOSED
        return State.OPEN if self._clock() < self._rests_until else State.HALF_OPEN

    def admit(self) -> int:
        """Lets a call through; what it returns goes with the report on it.

        Raises:
            NotAsked: the breaker is open. `retry_after` says for how long.
        """
        with self._lock:
            state = self._state()
            if state is State.OPEN:
                wait = self._rests_until - self._clock()
                raise NotAsked("Openfield has been failing, and is given a rest", retry_after=wait)
            if state is State.HALF_OPEN:
                self._rest_again()
            return self._era

    def report(self, admission: int, *, ok: bool) -> None:
        """Says how an admitted call ended."""
        with self._lock:
            if admission != self._era:
                return
            if ok:
                self._era += self._failures >= self._limit
                self._failures = 0
                return
            self._failures += 1
            if self._failures >= self._limit:
                self._rest_again()

    def _rest_again(self) -> None:
        self._era += 1
        self._rests_until = self._clock() + self._rest
