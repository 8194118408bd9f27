"""Handles: spent once, bound, expiring; what two posts at once get."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from widget import campaigns, visits
from widget.models import Entrance, Visit
from widget.visits import Body, Expired, Ours, Repeated, Spent, Unanswered, Use
from widget.wiring import Wiring

BODY = Body.of([("firstname", "Dora"), ("lastname", "Dubois")])
OTHER = Body.of([("firstname", "Eve")])


@pytest.fixture
def campaign_id(campaign: Callable[..., str], session: Session) -> int:
    found = campaigns.find(session, campaign())
    assert found is not None
    return found.id


def begun(session: Session, wiring: Wiring, campaign_id: int, now: datetime) -> str:
    handle = visits.begin(
        session, wiring.vault, campaign_id=campaign_id, entrance=Entrance.SIGNUP, integration_id=None, now=now
    )
    session.commit()
    return handle


def use(session: Session, wiring: Wiring, handle: str, campaign_id: int, now: datetime, body: Body = BODY) -> Use:
    return visits.use(session, wiring.vault, handle, campaign_id=campaign_id, body=body, now=now, patience=0.0)


def test_a_handle_is_spent_once(session: Session, wiring: Wiring, campaign_id: int, now: datetime) -> None:
    handle = begun(session, wiring, campaign_id, now)
    assert isinstance(use(session, wiring, handle, campaign_id, now), Ours)
    assert isinstance(use(session, wiring, handle, campaign_id, now, OTHER), Spent)
    assert isinstance(use(session, wiring, handle, campaign_id, now), Unanswered)


def test_of_many_posts_at_once_one_is_worked_on(
    wiring: Wiring, session: Session, campaign_id: int, now: datetime
) -> None:
    handle = begun(session, wiring, campaign_id, now)
    outcomes: list[Use] = []

    def post() -> None:
        with wiring.database.session() as own:
            outcomes.append(use(own, wiring, handle, campaign_id, now))

    threads = [threading.Thread(target=post) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Ours"] + ["Unanswered"] * 7


def test_a_repeat_waits_for_the_answer_of_the_first(
    wiring: Wiring, session: Session, campaign_id: int, now: datetime
) -> None:
    handle = begun(session, wiring, campaign_id, now)
    first = use(session, wiring, handle, campaign_id, now)
    assert isinstance(first, Ours)
    outcomes: list[Use] = []

    def repeat() -> None:
        with wiring.database.session() as own:
            outcomes.append(
                visits.use(own, wiring.vault, handle, campaign_id=campaign_id, body=BODY, now=now, patience=10.0)
            )

    thread = threading.Thread(target=repeat)
    thread.start()
    visits.remember(session, wiring.vault, first.visit.id, [200, "<p>thanks"])
    thread.join()
    assert outcomes == [Repeated([200, "<p>thanks"])]


def test_what_a_dead_process_left_is_taken_up_by_the_same_post_only(
    session: Session, wiring: Wiring, campaign_id: int, now: datetime
) -> None:
    handle = begun(session, wiring, campaign_id, now)
    use(session, wiring, handle, campaign_id, now)
    later = now + timedelta(seconds=31)
    assert isinstance(use(session, wiring, handle, campaign_id, later, OTHER), Spent)
    assert isinstance(use(session, wiring, handle, campaign_id, later), Ours)


def test_a_handle_expires(session: Session, wiring: Wiring, campaign_id: int, now: datetime) -> None:
    handle = begun(session, wiring, campaign_id, now)
    assert use(session, wiring, handle, campaign_id, now + timedelta(minutes=30)) == Expired(Entrance.SIGNUP)


def test_a_handle_is_bound_to_its_campaign(session: Session, wiring: Wiring, campaign_id: int, now: datetime) -> None:
    handle = begun(session, wiring, campaign_id, now)
    assert use(session, wiring, handle, campaign_id + 1, now) == Expired()
    assert isinstance(use(session, wiring, handle, campaign_id, now), Ours)


def test_the_next_visit_belongs_to_the_same_journey_and_ends_with_it(
    session: Session, wiring: Wiring, campaign_id: int, now: datetime
) -> None:
    handle = begun(session, wiring, campaign_id, now)
    spent = use(session, wiring, handle, campaign_id, now)
    assert isinstance(spent, Ours)
    late = now + timedelta(minutes=110)
    following = visits.go_on(session, wiring.vault, spent.visit, late)
    used = use(session, wiring, following, campaign_id, late)
    assert isinstance(used, Ours)
    assert used.visit.journey_id == spent.visit.journey_id
    assert used.visit.expires_at == now + timedelta(hours=2)
    assert following != handle


def test_nothing_that_was_typed_can_be_read_in_the_row(
    session: Session, wiring: Wiring, campaign_id: int, now: datetime
) -> None:
    handle = begun(session, wiring, campaign_id, now)
    used = use(session, wiring, handle, campaign_id, now, Body.of([("password", "c4n4ry")]))
    assert isinstance(used, Ours)
    visits.remember(session, wiring.vault, used.visit.id, "c4n4ry")
    row = session.execute(select(Visit.__table__)).one()
    assert "c4n4ry" not in str(row)
    assert handle not in str(row)


def test_the_same_open_post_has_the_same_handle_for_its_sender_and_campaign(wiring: Wiring, now: datetime) -> None:
    def handle(campaign_id: int = 1, sender: str = "here", body: Body = BODY, now: datetime = now) -> str:
        return visits.handle_of_open_post(wiring.vault, campaign_id, sender, body, now)

    others = [
        handle(campaign_id=2),
        handle(sender="there"),
        handle(body=OTHER),
        handle(now=now + timedelta(hours=1)),
    ]
    assert handle() == handle()
    assert len({handle(), *others}) == 5


def test_what_was_typed_is_kept_for_its_campaign_and_two_hours(wiring: Wiring) -> None:
    token = visits.keep_typed(wiring.vault, 1, {"firstname": "Dora"})
    assert "Dora" not in token
    assert visits.typed_before(wiring.vault, 1, token) == {"firstname": "Dora"}
    assert visits.typed_before(wiring.vault, 2, token) is None
    assert visits.typed_before(wiring.vault, 1, token[:-4] + "AAA=") is None
    assert visits.typed_before(wiring.vault, 1, "Ω") is None
    assert visits.keep_typed(wiring.vault, 1, {}) == ""
