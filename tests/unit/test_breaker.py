"""When calls to Openfield are spared."""

from __future__ import annotations

import pytest

from widget.openfield.breaker import Breaker, State
from widget.openfield.errors import Unavailable


class Clock:
    """Seconds that pass when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def _opened(clock: Clock) -> Breaker:
    breaker = Breaker(failures=3, rest=10, clock=clock)
    for _ in range(3):
        breaker.report(breaker.admit(), ok=False)
    assert breaker.state is State.OPEN
    return breaker


def test_a_breaker_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker(failures=3, clock=Clock())
    states = []
    for ok in (False, False, True, False, False, False):
        breaker.report(breaker.admit(), ok=ok)
        states.append(breaker.state)
    assert states == [State.CLOSED] * 5 + [State.OPEN]


def test_an_open_breaker_says_for_how_long() -> None:
    clock = Clock()
    breaker = _opened(clock)
    clock.now += 4
    with pytest.raises(Unavailable) as refusal:
        breaker.admit()
    assert refusal.value.retry_after == 6
    assert not refusal.value.maybe_applied


@pytest.mark.parametrize(("ok", "state"), [(True, State.CLOSED), (False, State.OPEN)])
def test_after_its_rest_one_trial_decides(ok: bool, state: State) -> None:
    clock = Clock()
    breaker = _opened(clock)
    clock.now += 10
    assert breaker.state is State.HALF_OPEN
    trial = breaker.admit()
    with pytest.raises(Unavailable):
        breaker.admit()
    breaker.report(trial, ok=ok)
    assert breaker.state is state


def test_calls_from_before_it_opened_do_not_close_it() -> None:
    clock = Clock()
    breaker = Breaker(failures=1, rest=10, clock=clock)
    slow, failing = breaker.admit(), breaker.admit()
    breaker.report(failing, ok=False)
    breaker.report(slow, ok=True)
    assert breaker.state is State.OPEN


def test_a_trial_that_is_never_reported_on_is_forgotten() -> None:
    clock = Clock()
    breaker = _opened(clock)
    clock.now += 10
    breaker.admit()
    clock.now += 10
    breaker.report(breaker.admit(), ok=True)
    assert breaker.state is State.CLOSED
