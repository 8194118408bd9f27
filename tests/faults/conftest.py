"""What fault tests stand on: a stage that they share, and people who take part on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.faults.history import History, judge
from tests.faults.people import Person
from tests.faults.stage import CAMPAIGN, Stage
from tests.processes import wait_until


@pytest.fixture(scope="session")
def _stage() -> Iterator[Stage]:
    with Stage(ignore_idempotency=True) as stage:
        yield stage


@pytest.fixture
def stage(_stage: Stage) -> Stage:
    """All of it runs, Openfield takes no notice of Idempotency-Key, and nobody has taken part or logged in yet."""
    _stage.mend()
    _stage.openfield.clear_faults()
    _stage.openfield.reset()
    _stage.change("TRUNCATE participation, visit, bucket, procrastinate_jobs CASCADE")
    _stage.change("UPDATE integration SET failures = 0, rests_until = NULL, trouble = NULL")
    return _stage


@pytest.fixture
def history() -> History:
    """Nobody has sent anything yet."""
    return History()


@pytest.fixture
def person(stage: Stage, history: History) -> Iterator[Callable[[str], Person]]:
    """`person("anna")` has never been here; their history is `history`."""
    people: list[Person] = []

    def come(name: str) -> Person:
        address = f"10.0.0.{len(people)}"
        people.append(Person(name, site=stage.url, campaign=CAMPAIGN, address=address, history=history))
        return people[-1]

    yield come
    for each in people:
        each.leave()


@pytest.fixture
def all_arrives(stage: Stage, history: History) -> Callable[[], None]:
    """`all_arrives()` waits until nothing is on its way any more; then the verdict must be clean."""

    def check() -> None:
        wait_until(lambda: not stage.is_open(), 60)
        buried = stage.deliveries().get("buried", 0)
        verdict = judge(
            history,
            parties=stage.openfield.parties(),
            changes=stage.openfield.changes(),
            buried=["a delivery was given up"] * buried,
        )
        assert verdict.is_clean, str(verdict)

    return check
