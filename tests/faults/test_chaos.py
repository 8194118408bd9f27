"""What a seed of `make chaos` fixes: the plan, and what everybody does."""

from __future__ import annotations

from random import Random

import pytest

from tests.faults.chaos import DEEDS, plan
from tests.faults.people import Life


@pytest.mark.parametrize("submissions", [1, 300, 10_000])
def test_a_plan_has_every_deed_in_time_for_the_end(submissions: int) -> None:
    events = plan(7, submissions)
    assert {event.deed for event in events} == set(DEEDS)
    assert [event.after for event in events] == sorted(event.after for event in events)
    assert events[-1].after <= submissions


def test_no_deed_comes_twice_before_all_have_come_once() -> None:
    first = [event.deed for event in plan(7, 10_000)][: len(DEEDS)]
    assert sorted(first) == sorted(DEEDS)


def test_a_seed_makes_the_same_plan_and_another_one_another() -> None:
    assert plan(7, 1000) == plan(7, 1000)
    assert plan(7, 1000) != plan(8, 1000)


def test_a_fifth_come_back_and_a_seed_gives_everybody_the_same_life() -> None:
    lives = [vars(Life(Random(f"7 {number}"))) for number in range(1000)]
    assert lives == [vars(Life(Random(f"7 {number}"))) for number in range(1000)]
    assert sum(bool(life["visits"]) for life in lives) / 1000 == pytest.approx(0.2, abs=0.05)
