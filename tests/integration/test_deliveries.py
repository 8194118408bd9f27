"""The outbox: from the row that a participation leaves to the record in Openfield."""

from __future__ import annotations

import functools
import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import uuid4

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import event, select, text, update
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from tests import factories
from tests.conftest import Host, Http, Sandbox, Site
from tests.processes import wait_until
from tests.screens import Screen, visit
from widget import backlog, circuit, deliveries, jobs, participation
from widget.circuit import Circuit
from widget.config import Settings
from widget.deliveries import Claim
from widget.models import (
    Bucket,
    Delivery,
    DeliveryState,
    Entrance,
    Integration,
    Operation,
    Participation,
    Visit,
)
from widget.openfield import Clients
from widget.vault import Vault
from widget.wiring import Wiring

Campaign = Callable[..., str]

NEWCOMER = {
    "email": "dora@example.org",
    "username": "dora",
    "password": "dora-likes-fries",
    "civility": "MME",
    "firstname": "Dora",
    "lastname": "Dubois",
    "country": "BEL",
}


def left_waiting(http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, **fault: Any) -> Delivery:
    """Dora's Create, which did not go through at once."""
    form = visit(http, f"/c/{campaign()}").send("signup")
    details: dict[str, Any] = {"kind": "status", "status": 503, "times": 1} | fault
    sandbox.fault(**details)
    assert form.send("submit", NEWCOMER).step == "thanks"
    sandbox.clear_faults()
    return session.scalars(select(Delivery)).one()


def attempt(session: Session, wiring: Wiring, delivery: Delivery, now: datetime) -> Delivery:
    participation.deliver(session, wiring, delivery.id, deadline=5.0, now=now)
    session.refresh(delivery)
    return delivery


def claim(session: Session, wiring: Wiring, delivery: Delivery, now: datetime, limit: int = 32) -> Claim | None:
    return deliveries.claim(session, wiring.vault, delivery.id, now, deadline=5.0, limit=limit)


def sign_up(http: Http, person: dict[str, str], slug: str = "summer", **more: Any) -> Screen:
    return visit(http, f"/c/{slug}").send("signup").send("submit", person, **more)


def newcomer(number: int) -> dict[str, str]:
    return NEWCOMER | {"email": f"dora{number}@example.org", "username": f"dora{number}"}


def all_deliveries(session: Session) -> Sequence[Delivery]:
    statement = select(Delivery).order_by(Delivery.number).execution_options(populate_existing=True)
    return session.scalars(statement).all()


def the_integration(session: Session) -> Integration:
    return session.scalars(select(Integration).execution_options(populate_existing=True)).one()


WAITING_FOR_ADVICE = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
"""How many wait for an advisory lock."""


def jobs_of(session: Session) -> list[str]:
    found = session.scalars(text("SELECT args ->> 'delivery_id' FROM procrastinate_jobs ORDER BY id")).all()
    session.rollback()
    return list(found)


def test_the_row_and_its_job_are_committed_together_before_openfield_is_asked(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session
) -> None:
    campaign()
    sandbox.fault("delay", "Create", seconds=10)
    sender = threading.Thread(target=sign_up, args=(http, NEWCOMER))
    sender.start()
    wait_until(lambda: sandbox.calls("Create"))
    (delivery,) = all_deliveries(session)
    job = session.execute(text("SELECT args, scheduled_at, status, queueing_lock FROM procrastinate_jobs")).one()
    sandbox.clear_faults()
    sender.join()
    assert (delivery.state, delivery.attempts) == (DeliveryState.SENDING, 1)
    assert job == ({"delivery_id": str(delivery.id)}, delivery.due_at, "todo", str(delivery.id))


def test_a_refused_sign_up_leaves_no_row_behind(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session
) -> None:
    form = visit(http, f"/c/{campaign()}").send("signup")
    form.send("submit", {**NEWCOMER, "username": "alice"})
    assert session.scalars(select(Participation)).all() == []
    assert session.scalars(select(Delivery)).all() == []


def test_what_waits_is_delivered_later_and_wiped(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    assert attempt(session, wiring, delivery, now + timedelta(minutes=1)).state is DeliveryState.DELIVERED
    assert (delivery.sealed_payload, delivery.sealed_password) == (None, None)
    assert delivery.attempts == 2
    assert sandbox.party("dora")["Party"]["FirstName"] == "Dora"


def test_what_fails_has_a_job_as_soon_as_it_is_due_and_never_two(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session, retry_after=60)
    deliveries.sweep(session, delivery.due_at - timedelta(seconds=1))
    assert jobs_of(session) == []
    for _ in range(2):
        deliveries.sweep(session, delivery.due_at)
    assert jobs_of(session) == [str(delivery.id)]


def test_what_is_delivered_at_once_leaves_no_job_behind(http: Http, campaign: Campaign, session: Session) -> None:
    campaign()
    assert sign_up(http, NEWCOMER).step == "thanks"
    assert [each.state for each in all_deliveries(session)] == [DeliveryState.DELIVERED]
    assert jobs_of(session) == []


def test_the_job_of_a_worker_that_died_is_dropped_and_the_delivery_taken_up_again(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    deliveries.sweep(session, now + timedelta(minutes=1))
    dead, alive = session.scalars(
        text(
            "INSERT INTO procrastinate_workers (last_heartbeat)"
            " VALUES (now() - interval '31 seconds'), (now()) RETURNING id"
        )
    ).all()
    session.execute(text("UPDATE procrastinate_jobs SET status = 'doing', worker_id = :dead"), {"dead": dead})
    session.execute(
        text(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, status, worker_id)"
            " VALUES ('default', 'other', 'doing', :alive)"
        ),
        {"alive": alive},
    )
    session.commit()
    held = claim(session, wiring, delivery, now + timedelta(minutes=1))
    assert held is not None
    deliveries.sweep(session, now + timedelta(minutes=1))
    assert jobs_of(session) == [None]
    deliveries.sweep(session, now + timedelta(minutes=2))
    assert jobs_of(session) == [None, str(delivery.id)]
    assert attempt(session, wiring, delivery, now + timedelta(minutes=2)).state is DeliveryState.DELIVERED


def test_delivering_twice_happens_once(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    for _ in range(3):
        attempt(session, wiring, delivery, now + timedelta(minutes=1))
    assert delivery.attempts == 2
    assert [call["status"] for call in sandbox.calls("Create")] == [503, 201]


def test_two_workers_at_once_send_it_once(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    start = threading.Barrier(4)

    def work() -> None:
        with wiring.database.session() as own:
            start.wait()
            participation.deliver(own, wiring, delivery.id, deadline=5.0, now=now + timedelta(minutes=1))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [call["status"] for call in sandbox.calls("Create")] == [503, 201]


def test_a_create_that_was_applied_but_never_answered_is_recognised_as_ours(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session, kind="apply_then_drop", operation="Create")
    assert delivery.in_doubt
    assert delivery.due_at - delivery.created_at >= timedelta(seconds=participation.DOUBT)
    before = sandbox.party("dora")
    attempt(session, wiring, delivery, now + timedelta(minutes=1))
    assert delivery.state is DeliveryState.DELIVERED
    assert sandbox.party("dora") == before
    assert [call["operation"] for call in sandbox.calls()] == ["Create", "Authenticate"]


def test_a_create_whose_sender_died_is_asked_about_before_it_is_sent_again(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    assert claim(session, wiring, delivery, now + timedelta(minutes=1)) is not None
    assert attempt(session, wiring, delivery, now + timedelta(minutes=2)).state is DeliveryState.DELIVERED
    assert [call["operation"] for call in sandbox.calls()] == ["Create", "Authenticate", "Create"]


def test_a_create_in_doubt_with_opt_ins_is_made_sure_of_by_an_update(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    campaign()
    sandbox.fault("apply_then_drop", "Create")
    assert sign_up(http, NEWCOMER, optin_partners="y").step == "thanks"
    (delivery,) = all_deliveries(session)
    assert attempt(session, wiring, delivery, now + timedelta(minutes=1)).state is DeliveryState.DELIVERED
    assert [each["ServiceId"] for each in sandbox.party("dora")["Services"]] == ["Partners"]


def test_a_create_that_meets_the_persons_own_old_account_becomes_an_update(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    form = visit(http, f"/c/{campaign()}").send("signup")
    sandbox.fault("status", "Create", status=429)
    alice = {**NEWCOMER, "username": "alice", "password": "alice-likes-waffles", "email": "alice@example.org"}
    assert form.send("submit", alice, optin_partners="y").step == "thanks"
    delivery = session.scalars(select(Delivery)).one()
    assert attempt(session, wiring, delivery, now + timedelta(minutes=1)).state is DeliveryState.DELIVERED
    record = sandbox.party("alice")
    assert record["Party"]["LastName"] == NEWCOMER["lastname"]
    assert record["Party"]["LoyaltyTier"] == "gold"
    assert "Partners" in {service["ServiceId"] for service in record["Services"]}


def test_a_create_that_meets_somebody_elses_account_is_buried(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    form = visit(http, f"/c/{campaign()}").send("signup")
    sandbox.fault("status", "Create", status=503)
    assert form.send("submit", {**NEWCOMER, "username": "alice"}).step == "thanks"
    delivery = session.scalars(select(Delivery)).one()
    assert attempt(session, wiring, delivery, now + timedelta(minutes=1)).state is DeliveryState.BURIED
    assert sandbox.calls("Update") == []


def test_what_waits_for_an_integration_that_was_switched_off_stays_here(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    asked = len(sandbox.calls())
    session.execute(update(Integration).values(enabled=False))
    session.commit()
    later = now + timedelta(minutes=1)
    deliveries.sweep(session, later)
    assert jobs_of(session) == []
    assert attempt(session, wiring, delivery, later).attempts == 1
    assert len(sandbox.calls()) == asked
    session.execute(update(Integration).values(enabled=True))
    session.commit()
    deliveries.sweep(session, later)
    assert jobs_of(session) == [str(delivery.id)]
    assert attempt(session, wiring, delivery, later).state is DeliveryState.DELIVERED


def test_a_profile_that_is_refused_later_is_buried_with_its_reason(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    sandbox.fault("status", "Create", status=422)
    attempt(session, wiring, delivery, now + timedelta(minutes=1))
    assert delivery.state is DeliveryState.BURIED
    assert delivery.reason
    assert delivery.sealed_payload is not None


def test_a_conflict_is_settled_by_laying_the_changes_on_what_is_there_now(
    http: Http, campaign: Campaign, sandbox: Sandbox
) -> None:
    form = visit(http, f"/c/{campaign()}").send("login", username="alice", password="alice-likes-waffles")
    other = visit(http, "/c/summer").send("login", username="alice", password="alice-likes-waffles")
    assert other.send("submit", locality="Gent").step == "thanks"
    assert form.send("submit", firstname="Alicia").step == "thanks"
    party = sandbox.party("alice")["Party"]
    assert (party["FirstName"], party["Address"]["City"]) == ("Alicia", "Gent")
    assert [call["status"] for call in sandbox.calls("Update")] == [200, 409, 200]


# One person's order ------------------------------------------------------------------------------------------------


def two_of_alice(http: Http, campaign: Campaign, sandbox: Sandbox, session: Session) -> tuple[Delivery, Delivery]:
    """Alice's first, which failed at once, and her second, which has to wait for it."""
    alice = {"username": "alice", "password": "alice-likes-waffles"}
    old = visit(http, f"/c/{campaign()}").send("login", alice)
    new = visit(http, "/c/summer").send("login", alice)
    sandbox.fault("status", "Update", status=503)
    assert old.send("submit", firstname="Old", locality="Gent", optin_newsletter="y").step == "thanks"
    sandbox.clear_faults()
    assert new.send("submit", firstname="New").step == "thanks"
    first, second = all_deliveries(session)
    return first, second


def test_one_persons_deliveries_go_in_order(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    first, second = two_of_alice(http, campaign, sandbox, session)
    assert (first.attempts, second.attempts) == (1, 0)
    later = now + timedelta(minutes=1)
    assert attempt(session, wiring, second, later).state is DeliveryState.WAITING
    assert attempt(session, wiring, first, later).state is DeliveryState.DELIVERED
    assert attempt(session, wiring, second, later).state is DeliveryState.DELIVERED
    assert sandbox.party("alice")["Party"]["FirstName"] == "New"


@pytest.mark.parametrize("refused", [False, True])
def test_the_next_one_of_a_person_has_its_job_as_soon_as_the_one_before_has_ended(
    http: Http,
    campaign: Campaign,
    sandbox: Sandbox,
    session: Session,
    wiring: Wiring,
    now: datetime,
    refused: bool,
) -> None:
    first, second = two_of_alice(http, campaign, sandbox, session)
    session.execute(text("DELETE FROM procrastinate_jobs"))
    session.commit()
    later = now + timedelta(minutes=1)
    deliveries.sweep(session, later)
    assert jobs_of(session) == [str(first.id)]
    if refused:
        sandbox.fault("status", "Update", status=422)
    attempt(session, wiring, first, later)
    assert jobs_of(session) == [str(second.id)]


def test_a_person_is_known_again_by_the_account_that_an_earlier_sign_up_made(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    first = left_waiting(http, campaign, sandbox, session, kind="apply_then_drop", operation="Create")
    dora = {"username": "dora", "password": NEWCOMER["password"]}
    assert visit(http, "/c/summer").send("login", dora).send("submit", firstname="Doralinde").step == "thanks"
    _, second = all_deliveries(session)
    later = now + timedelta(minutes=1)
    assert (second.operation, second.attempts) == (Operation.UPDATE, 0)
    assert attempt(session, wiring, second, later).state is DeliveryState.WAITING
    sandbox.fault("status", "Create", status=409)
    assert attempt(session, wiring, first, later).state is DeliveryState.DELIVERED
    assert attempt(session, wiring, second, later).state is DeliveryState.DELIVERED
    assert sandbox.party("dora")["Party"]["FirstName"] == "Doralinde"


def test_two_sign_ups_of_one_person_make_one_account_with_the_newer_data(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    first = left_waiting(http, campaign, sandbox, session)
    assert sign_up(http, NEWCOMER | {"firstname": "Doralinde"}).step == "thanks"
    _, second = all_deliveries(session)
    assert second.in_doubt
    later = now + timedelta(minutes=1)
    assert attempt(session, wiring, first, later).state is DeliveryState.DELIVERED
    assert attempt(session, wiring, second, later).state is DeliveryState.DELIVERED
    assert len(sandbox.calls("Create")) == 2
    doras = [each for each in sandbox.parties() if each["Party"].get("Email") == NEWCOMER["email"]]
    assert [each["Party"]["FirstName"] for each in doras] == ["Doralinde"]


def test_those_of_different_people_do_not_wait_for_each_other(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session
) -> None:
    left_waiting(http, campaign, sandbox, session)
    assert sign_up(http, newcomer(2)).step == "thanks"
    assert [each.state for each in all_deliveries(session)] == [DeliveryState.WAITING, DeliveryState.DELIVERED]


def test_numbers_of_one_person_are_given_in_the_order_in_which_they_can_be_seen(
    http: Http, campaign: Campaign, sandbox: Sandbox, wiring: Wiring, session: Session, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)

    def enqueue(own: Session, person: str) -> Claim | None:
        kept = Participation(
            journey_id=uuid4(), campaign_id=delivery.participation.campaign_id, entrance=Entrance.SIGNUP, language="en",
            taken_at=now, sealed_profile=b"",
        )  # fmt: skip
        own.add(kept)
        return deliveries.enqueue(
            own, wiring.vault, kept, own.get_one(Integration, delivery.integration_id), operation=Operation.CREATE,
            person=[person], payload={}, password=None, now=now, deadline=5.0, limit=32,
        )  # fmt: skip

    outcomes: list[Claim | None] = []

    def second() -> None:
        with wiring.database.session() as own:
            outcomes.append(enqueue(own, "email:eve@example.org"))
            own.commit()

    waiting = threading.Thread(target=second)
    with wiring.database.session() as own:
        assert enqueue(own, "email:Eve@example.org") is not None
        waiting.start()
        wait_until(lambda: session.scalar(WAITING_FOR_ADVICE))
        assert outcomes == []
        own.commit()
    waiting.join()
    assert outcomes == [None]


# Settling ----------------------------------------------------------------------------------------------------------


def test_a_worker_that_comes_back_late_settles_nothing(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    late = claim(session, wiring, delivery, now + timedelta(minutes=1))
    assert late is not None
    newer = claim(session, wiring, delivery, now + timedelta(minutes=2))
    assert newer is not None
    assert newer.attempt == late.attempt + 1
    deliveries.bury(session, late, now, reason="late")
    deliveries.postpone(session, late, now, reason="late", pause=0.0)
    session.refresh(delivery)
    assert (delivery.state, delivery.reason) == (DeliveryState.SENDING, "Openfield is in trouble (create: 503)")
    deliveries.settle(session, newer, now)
    session.refresh(delivery)
    assert (delivery.state, delivery.reason) == (DeliveryState.DELIVERED, None)


def test_a_row_whose_attempts_all_break_off_is_buried_instead_of_tried_for_ever(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    for minute in range(1, deliveries.MAX_CRASHES + 1):
        assert claim(session, wiring, delivery, now + timedelta(minutes=minute)) is not None
    assert claim(session, wiring, delivery, now + timedelta(minutes=10)) is None
    session.refresh(delivery)
    assert delivery.state is DeliveryState.BURIED
    assert "broke off" in (delivery.reason or "")
    deliveries.retry(session, now, *backlog.of(ids=[delivery.id]))
    assert attempt(session, wiring, delivery, now + timedelta(minutes=11)).state is DeliveryState.DELIVERED


def test_attempts_that_broke_off_now_and_then_bury_nothing(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    for minute in range(1, 4 * deliveries.MAX_CRASHES, 2):
        assert claim(session, wiring, delivery, now + timedelta(minutes=minute)) is not None
        held = claim(session, wiring, delivery, now + timedelta(minutes=minute + 1))
        assert held is not None
        deliveries.postpone(session, held, now, reason="not now", pause=0.0)


def test_what_was_sealed_with_a_key_that_is_gone_is_buried_and_goes_when_the_key_is_back(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    stranger = replace(wiring, vault=Vault([Fernet.generate_key().decode()], "the same secret or another one"))
    assert attempt(session, stranger, delivery, now + timedelta(minutes=1)).state is DeliveryState.BURIED
    assert "WIDGET_ENCRYPTION_KEYS" in (delivery.reason or "")
    deliveries.retry(session, now, *backlog.of(state=DeliveryState.BURIED))
    assert attempt(session, wiring, delivery, now + timedelta(minutes=1)).state is DeliveryState.DELIVERED


# Giving up, and trying again ----------------------------------------------------------------------------------------


def test_a_delivery_that_failed_for_a_week_is_buried(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    sandbox.fault("status", "Create", status=503)
    attempt(session, wiring, delivery, now + timedelta(days=7, seconds=1))
    assert delivery.state is DeliveryState.BURIED


def test_what_was_never_tried_for_a_week_is_buried_too_and_its_password_wiped(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    session.execute(update(Integration).values(enabled=False))
    session.commit()
    deliveries.sweep(session, now + timedelta(days=6))
    (delivery,) = all_deliveries(session)
    assert (delivery.state, delivery.sealed_password is None) == (DeliveryState.WAITING, False)
    deliveries.sweep(session, now + timedelta(days=7, minutes=1))
    (delivery,) = all_deliveries(session)
    assert (delivery.state, delivery.sealed_password) == (DeliveryState.BURIED, None)
    assert delivery.sealed_payload is not None


def test_a_pause_does_not_outlast_the_time_for_trying(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    later = delivery.give_up_at - timedelta(minutes=1)
    sandbox.fault("status", "Create", status=503, retry_after=6 * 3600)
    attempt(session, wiring, delivery, later)
    deliveries.sweep(session, later + timedelta(minutes=2))
    (delivery,) = all_deliveries(session)
    assert (delivery.state, delivery.sealed_password) == (DeliveryState.BURIED, None)


def test_the_password_of_a_refused_profile_is_kept_as_long_as_it_could_be_tried_again(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    sandbox.fault("status", "Create", status=422)
    attempt(session, wiring, delivery, now + timedelta(minutes=1))
    deliveries.sweep(session, now + timedelta(days=6))
    session.refresh(delivery)
    assert delivery.sealed_password is not None
    deliveries.sweep(session, now + timedelta(days=7, minutes=1))
    session.refresh(delivery)
    assert delivery.sealed_password is None


def test_a_retry_by_hand_tries_what_is_buried_for_the_whole_time_anew(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    sandbox.fault("status", "Create", status=422)
    attempt(session, wiring, delivery, now + timedelta(minutes=1))
    later = now + timedelta(days=5)
    assert deliveries.retry(session, later, *backlog.of(state=DeliveryState.BURIED, campaign="other")) == 0
    assert deliveries.retry(session, later, *backlog.of(state=DeliveryState.BURIED, campaign="summer")) == 1
    session.refresh(delivery)
    assert delivery.state is DeliveryState.WAITING
    assert delivery.give_up_at == later + timedelta(days=7)
    assert jobs_of(session) == [str(delivery.id)]
    assert attempt(session, wiring, delivery, later).state is DeliveryState.DELIVERED
    assert deliveries.retry(session, later) == 0


def test_a_buried_one_that_is_retried_does_not_overwrite_what_was_delivered_since(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    first, second = two_of_alice(http, campaign, sandbox, session)
    later = now + timedelta(minutes=1)
    sandbox.fault("status", "Update", status=422)
    assert attempt(session, wiring, first, later).state is DeliveryState.BURIED
    assert attempt(session, wiring, second, later).state is DeliveryState.DELIVERED
    deliveries.retry(session, later, *backlog.of(ids=[first.id]))
    assert attempt(session, wiring, first, later).state is DeliveryState.DELIVERED
    record = sandbox.party("alice")
    assert record["Party"]["FirstName"] == "New"
    assert "Newsletter" in {service["ServiceId"] for service in record["Services"]}


def test_a_buried_one_that_is_retried_does_not_overtake_one_that_is_being_sent(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    first, second = two_of_alice(http, campaign, sandbox, session)
    later = now + timedelta(minutes=1)
    sandbox.fault("status", "Update", status=422)
    attempt(session, wiring, first, later)
    being_sent = claim(session, wiring, second, later)
    assert being_sent is not None
    deliveries.retry(session, later, *backlog.of(ids=[first.id]))
    assert claim(session, wiring, first, later) is None
    deliveries.settle(session, being_sent, later)
    late = claim(session, wiring, first, later)
    assert late is not None
    assert late.superseded


def test_openfields_retry_after_is_honoured_whoever_looks_before(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session, retry_after=300)
    assert delivery.due_at >= now + timedelta(seconds=300)
    assert attempt(session, wiring, delivery, now + timedelta(seconds=200)).attempts == 1
    assert attempt(session, wiring, delivery, delivery.due_at).state is DeliveryState.DELIVERED


# When Openfield is down ---------------------------------------------------------------------------------------------


def test_when_openfield_keeps_failing_all_deliveries_rest_and_nobody_waits_for_it(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    campaign()
    sandbox.fault("status", "Create", status=503, times=None)
    for number in range(circuit.FAILURES):
        assert sign_up(http, newcomer(number)).step == "thanks"
    integration = the_integration(session)
    assert circuit.state(integration) is Circuit.RESTING
    assert integration.rests_until is not None
    asked = len(sandbox.calls())
    assert sign_up(http, newcomer(10)).step == "thanks"
    assert len(sandbox.calls()) == asked
    *_, last = all_deliveries(session)
    assert (last.state, last.attempts) == (DeliveryState.WAITING, 0)
    before = integration.rests_until - timedelta(seconds=0.1)
    assert attempt(session, wiring, last, before).attempts == 0
    session.execute(text("DELETE FROM procrastinate_jobs"))
    session.commit()
    deliveries.sweep(session, before)
    assert jobs_of(session) == []


def test_after_a_rest_one_probes_and_its_success_lets_all_flow(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    campaign()
    sandbox.fault("status", "Create", status=503, times=None)
    for number in range(circuit.FAILURES + 2):
        sign_up(http, newcomer(number))
    session.execute(text("DELETE FROM procrastinate_jobs"))
    session.commit()
    later = now + timedelta(minutes=1)
    deliveries.sweep(session, later)
    (probe,) = jobs_of(session)
    probing, *others = sorted(all_deliveries(session), key=lambda each: str(each.id) != probe)

    held = claim(session, wiring, probing, later)
    assert held is not None
    assert held.is_probe
    assert claim(session, wiring, others[0], later) is None
    sandbox.clear_faults()
    deliveries.settle(session, held, later)
    assert circuit.state(the_integration(session)) is Circuit.FLOWING
    deliveries.sweep(session, later)
    assert sorted(jobs_of(session)) == sorted(str(each.id) for each in others)


def test_a_probe_that_fails_makes_the_next_rest_longer(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    campaign()
    sandbox.fault("status", "Create", status=503, times=None)
    for number in range(circuit.FAILURES):
        sign_up(http, newcomer(number))
    worker = wiring.for_worker(1)
    rests = []
    later = now
    for _ in range(9):
        later += timedelta(minutes=10)
        attempt(session, worker, all_deliveries(session)[0], later)
        ends_at = the_integration(session).rests_until
        assert ends_at is not None
        rests.append((ends_at - later).total_seconds())
    worker.clients.close()
    assert rests[0] < 3
    assert 30 <= rests[-1] <= 61
    assert all(short < 2.1 * 2 * before for before, short in itertools.pairwise(rests))


def test_what_fails_while_all_rest_already_does_not_make_the_rest_longer(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    campaign()
    integration = the_integration(session)
    for _ in range(50):
        circuit.failed(session, integration.id, now, was_probe=False, retry_after=0.0, luck=Random(1))
    session.commit()
    assert the_integration(session).failures == circuit.FAILURES


def test_wrong_settings_pause_the_integration_and_are_said_once(
    http: Http,
    campaign: Campaign,
    sandbox: Sandbox,
    session: Session,
    wiring: Wiring,
    now: datetime,
    caplog: pytest.LogCaptureFixture,
) -> None:
    campaign()
    sandbox.fault("unknown_tenant", "Create", times=None)
    for number in range(3):
        assert sign_up(http, newcomer(number)).step == "thanks"
    assert circuit.state(the_integration(session)) is Circuit.PAUSED
    first, *others = all_deliveries(session)
    assert [each.attempts for each in others] == [0, 0]
    attempt(session, wiring, first, now + timedelta(minutes=6))
    assert first.attempts == 2
    assert first.state is DeliveryState.WAITING
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert said == ["deliveries are paused: Openfield does not know idTenant or IdApplication (create: 403)"]

    sandbox.clear_faults()
    assert attempt(session, wiring, first, now + timedelta(minutes=12)).state is DeliveryState.DELIVERED
    assert circuit.state(the_integration(session)) is Circuit.FLOWING


def test_changing_the_settings_ends_the_pause(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, settings: Settings, host: Host, now: datetime
) -> None:
    campaign()
    sandbox.fault("unknown_tenant", "Create")
    sign_up(http, NEWCOMER)
    assert circuit.state(the_integration(session)) is Circuit.PAUSED
    campaign()
    assert circuit.state(the_integration(session)) is Circuit.PAUSED
    campaign(kinds={"integration": [factories.integration(sandbox.url, id_application="other")]})
    assert circuit.state(the_integration(session)) is Circuit.FLOWING


def test_no_more_deliveries_of_an_integration_are_under_way_than_the_limit(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    campaign()
    sandbox.fault("status", "Create", status=503, times=4)
    for number in range(4):
        sign_up(http, newcomer(number))
    later = now + timedelta(minutes=1)
    one, two, three, four = all_deliveries(session)
    held = claim(session, wiring, one, later, limit=2)
    assert held is not None
    assert claim(session, wiring, two, later, limit=2) is not None
    with pytest.raises(deliveries.Busy):
        claim(session, wiring, three, later, limit=2)
    deliveries.settle(session, held, later)
    assert claim(session, wiring, three, later, limit=2) is not None
    assert claim(session, wiring, four, later + timedelta(minutes=1), limit=2) is not None


def test_a_submit_that_finds_the_limit_reached_is_thanked_and_waits(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, site: Site
) -> None:
    campaign()
    wiring = site.app.extensions["widget"]
    site.app.extensions["widget"] = replace(wiring, settings=replace(wiring.settings, deliveries_at_once=1))
    sandbox.fault("delay", "Create", seconds=5)
    slow = threading.Thread(target=sign_up, args=(http, newcomer(1)))
    slow.start()
    wait_until(lambda: sandbox.calls("Create"))
    with Http(site.url) as other:
        assert sign_up(other, newcomer(2)).step == "thanks"
    sandbox.clear_faults()
    slow.join()
    assert len(sandbox.calls("Create")) == 1
    assert [each.attempts for each in all_deliveries(session)] == [1, 0]


# Who must not suffer from others -------------------------------------------------------------------------------------


def test_records_that_openfield_does_not_let_in_hold_up_nobody(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    campaign()
    for number in range(3):
        sandbox.fault("status", "Create", status=403)
        assert sign_up(http, newcomer(number) | {"firstname": "<script>"}).step == "thanks"
    assert circuit.state(the_integration(session)) is Circuit.FLOWING
    later = now
    for number in range(3, 9):
        later += timedelta(hours=1)
        sandbox.fault("status", "Create", status=403)
        odd = all_deliveries(session)[number % 3]
        assert attempt(session, wiring, odd, later).state is DeliveryState.WAITING
        assert sign_up(http, newcomer(number)).step == "thanks"
        *_, good = all_deliveries(session)
        assert good.state is DeliveryState.DELIVERED


def test_a_path_at_which_openfield_has_nothing_pauses_after_a_few_and_a_new_one_probes(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    campaign()
    sandbox.fault("status", "Create", status=404, times=circuit.FAILURES)
    for number in range(circuit.FAILURES + 1):
        assert sign_up(http, newcomer(number)).step == "thanks"
    integration = the_integration(session)
    assert circuit.state(integration) is Circuit.PAUSED
    assert "nothing at the operation's path" in (integration.trouble or "")
    *_, newest = all_deliveries(session)
    session.execute(text("DELETE FROM procrastinate_jobs"))
    session.commit()
    deliveries.sweep(session, now + timedelta(minutes=2))
    assert jobs_of(session) == [str(newest.id)]


def test_a_call_that_was_made_with_other_settings_says_nothing_about_the_new_ones(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    later = now + timedelta(minutes=1)
    sandbox.fault("delay", "Create", seconds=10)
    sandbox.fault("unknown_tenant", "Create")
    with wiring.database.session() as own:
        arguments: dict[str, Any] = {"deadline": 8.0, "now": later}
        calling = threading.Thread(target=participation.deliver, args=(own, wiring, delivery.id), kwargs=arguments)
        calling.start()
        wait_until(lambda: len(sandbox.calls("Create")) > 1)
        campaign(kinds={"integration": [factories.integration(sandbox.url, operations={"get": "Party/Read"})]})
        sandbox.clear_faults()
        calling.join()
    assert circuit.state(the_integration(session)) is Circuit.FLOWING


def test_sign_ups_guess_at_a_password_no_more_often_than_log_ins_may(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    campaign()
    circuit.misconfigured(session, the_integration(session).id, now, "so that nobody is asked at once", Random(1))
    session.commit()
    for number in range(participation.PER_ACCOUNT.burst + 4):
        guess = {"username": "alice", "email": "eve@example.org", "password": f"guess-{number}-guess"}
        assert sign_up(http, NEWCOMER | guess).step == "thanks"
    circuit.resume(session, the_integration(session).id)
    session.commit()
    for each in all_deliveries(session):
        attempt(session, wiring, each, now + timedelta(minutes=1))
    assert len(sandbox.calls("Authenticate")) == participation.PER_ACCOUNT.burst
    waiting = [each for each in all_deliveries(session) if each.state is DeliveryState.WAITING]
    assert "too many tries" in (waiting[0].reason or "")


def test_nobody_is_thanked_for_more_than_one_person_would_send(
    http: Http,
    campaign: Campaign,
    sandbox: Sandbox,
    session: Session,
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deliveries, "MAX_OPEN", 2)
    left_waiting(http, campaign, sandbox, session, retry_after=600)
    assert sign_up(http, NEWCOMER).step == "thanks"
    refused = sign_up(http, NEWCOMER)
    assert refused.status == 503
    assert len(all_deliveries(session)) == 2
    assert sign_up(http, newcomer(2)).step == "thanks"


def test_a_probe_to_which_openfield_says_anything_lets_all_flow(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    campaign()
    integration = the_integration(session)
    sandbox.fault("apply_then_drop", "Create")
    assert sign_up(http, NEWCOMER).step == "thanks"
    (delivery,) = all_deliveries(session)
    for fault, details in (("lock", {}), ("status", {"status": 422})):
        for _ in range(circuit.FAILURES):
            circuit.failed(session, integration.id, now, was_probe=False, retry_after=0.0, luck=Random(1))
        session.commit()
        sandbox.fault(fault, "Authenticate", **details)
        later = max(now, delivery.due_at) + timedelta(minutes=1)
        attempt(session, wiring, delivery, later)
        assert circuit.state(the_integration(session)) is Circuit.FLOWING
    assert delivery.state is DeliveryState.BURIED


def test_calls_that_were_never_made_do_not_count_against_openfield(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    crowded = replace(wiring, clients=Clients(wiring.settings.private_hosts, failures=1))
    client = crowded.openfield(the_integration(session))
    client.breaker.report(client.breaker.admit(), ok=False)
    before = the_integration(session).failures
    attempt(session, crowded, delivery, now + timedelta(minutes=1))
    crowded.clients.close()
    assert delivery.reason == "Openfield has been failing, and is given a rest"
    assert the_integration(session).failures == before


def test_two_workers_that_find_the_rest_over_send_one_probe(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    campaign()
    sandbox.fault("status", "Create", status=503, times=None)
    for number in range(circuit.FAILURES + 3):
        sign_up(http, newcomer(number))
    rows, later = all_deliveries(session), now + timedelta(minutes=1)
    session.expunge_all()
    start = threading.Barrier(len(rows))
    claims: list[Claim | None] = []

    def work(delivery: Delivery) -> None:
        with wiring.database.session() as own:
            start.wait()
            claims.append(claim(own, wiring, delivery, later))

    threads = [threading.Thread(target=work, args=(each,)) for each in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(each is not None for each in claims) == 1


# At the same time ----------------------------------------------------------------------------------------------------


def test_a_retry_beside_a_claim_does_not_let_two_of_one_person_go_at_once(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    first, second = two_of_alice(http, campaign, sandbox, session)
    later = now + timedelta(minutes=1)
    sandbox.fault("status", "Update", status=422)
    assert attempt(session, wiring, first, later).state is DeliveryState.BURIED
    session.rollback()
    claims: list[Claim | None] = []

    def claim_first() -> None:
        with wiring.database.session() as own:
            deliveries.retry(own, later, *backlog.of(ids=[first.id]))
            claims.append(claim(own, wiring, first, later))

    other = threading.Thread(target=claim_first)

    def meanwhile(_: Session) -> None:
        other.start()
        wait_until(lambda: session.scalar(WAITING_FOR_ADVICE))

    with wiring.database.session() as own:
        event.listen(own, "before_commit", meanwhile, once=True)
        assert claim(own, wiring, second, later) is not None
    other.join()
    assert claims == [None]


def test_a_refusal_that_comes_after_the_lease_withdraws_nothing(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    earlier = now - timedelta(minutes=10)
    session.execute(update(Delivery).values(due_at=earlier))
    session.commit()
    late = claim(session, wiring, delivery, earlier)
    assert late is not None
    assert not deliveries.withdraw(session, late)
    newer = claim(session, wiring, delivery, now + timedelta(minutes=1))
    assert newer is not None
    assert not deliveries.withdraw(session, late)
    assert deliveries.withdraw(session, newer)
    assert all_deliveries(session) == []
    assert session.scalars(select(Participation)).all() == []


def test_a_lease_is_longer_than_the_attempt(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    later = now + timedelta(minutes=1)
    assert claim(session, wiring, delivery, later) is not None
    session.refresh(delivery)
    assert delivery.due_at == later + timedelta(seconds=5) + deliveries.MARGIN
    session.execute(update(Delivery).values(give_up_at=later))
    session.commit()
    deliveries.sweep(session, later + timedelta(seconds=1))
    session.refresh(delivery)
    assert delivery.state is DeliveryState.SENDING


def test_a_doubt_outlives_a_failure_that_leaves_none(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session, kind="apply_then_drop", operation="Create")
    sandbox.fault("status", "Authenticate", status=429)
    attempt(session, wiring, delivery, now + timedelta(minutes=1))
    assert delivery.in_doubt


def test_a_sweep_gives_up_no_more_at_once_than_it_has_time_for(
    http: Http,
    campaign: Campaign,
    sandbox: Sandbox,
    session: Session,
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    campaign()
    sandbox.fault("status", "Create", status=503, times=None)
    for number in range(3):
        sign_up(http, newcomer(number))
    monkeypatch.setattr(deliveries, "BATCH", 2)
    states = []
    for _ in range(2):
        deliveries.sweep(session, now + timedelta(days=8))
        states.append(sorted(each.state for each in all_deliveries(session)))
    assert states == [["buried", "buried", "waiting"], ["buried", "buried", "buried"]]


# The worker ---------------------------------------------------------------------------------------------------------


def test_a_worker_delivers_what_is_due(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    session.execute(update(Delivery).values(due_at=datetime.now(UTC)))
    session.commit()
    run_worker(wiring)
    session.refresh(delivery)
    assert delivery.state is DeliveryState.DELIVERED
    assert sandbox.party("dora")
    assert jobs_of(session) == []


def test_a_worker_needs_nothing_of_the_queue_to_find_what_is_due(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    session.execute(text("TRUNCATE procrastinate_jobs, procrastinate_workers CASCADE"))
    session.execute(update(Delivery).values(due_at=datetime.now(UTC)))
    session.commit()
    run_worker(wiring)
    session.refresh(delivery)
    assert delivery.state is DeliveryState.DELIVERED


def test_a_delivery_that_meets_a_mistake_of_ours_is_left_to_its_lease(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    payload = wiring.vault.seal("delivery.payload", {"of": "a version to come"})
    session.execute(update(Delivery).values(sealed_payload=payload, due_at=datetime.now(UTC)))
    session.commit()
    run_worker(wiring)
    session.refresh(delivery)
    assert (delivery.state, delivery.attempts) == (DeliveryState.SENDING, 2)
    assert jobs_of(session) == []


def run_worker(wiring: Wiring) -> None:
    """Until nothing is due."""
    worker = threading.Thread(target=jobs.run_worker, args=(wiring,), kwargs={"wait": False})
    worker.start()
    worker.join()


def test_the_purge_deletes_what_has_done_its_work_and_nothing_else(
    http: Http, campaign: Campaign, session: Session, wiring: Wiring, now: datetime
) -> None:
    first = visit(http, f"/c/{campaign()}")
    form = first.send("signup")
    first.send("login", username="nobody", password="wrong")
    jobs.purge(wiring)
    assert form.send("submit", NEWCOMER).step == "thanks"
    assert session.scalars(select(Visit)).all()
    assert session.scalars(select(Bucket)).all()

    session.execute(update(Visit).values(expires_at=now - timedelta(hours=2, seconds=1)))
    session.execute(update(Bucket).values(filled_at=now - timedelta(days=1, seconds=1)))
    session.commit()
    jobs.purge(wiring)
    assert session.scalars(select(Visit)).all() == []
    assert session.scalars(select(Bucket)).all() == []
    assert session.scalars(select(Participation)).all()


@pytest.mark.parametrize("attempt_number", [1, 2, 5, 16, 26, 1000])
def test_the_pause_grows_with_full_jitter_up_to_six_hours(attempt_number: int) -> None:
    luck = Random(attempt_number)
    ceiling = min(6 * 3600, 1.5 ** min(attempt_number - 1, 99))
    pauses = [deliveries.backoff(attempt_number, luck) for _ in range(200)]
    assert all(0 <= pause <= ceiling for pause in pauses)
    assert max(pauses) > 0.8 * ceiling
    assert min(pauses) < 0.2 * ceiling


@pytest.mark.parametrize("operation", ["Authenticate", "Create", "Update"])
def test_no_connection_to_the_database_is_held_while_openfield_is_asked(
    http: Http, campaign: Campaign, sandbox: Sandbox, wiring: Wiring, operation: str
) -> None:
    first = visit(http, f"/c/{campaign()}")
    alice = {"username": "alice", "password": "alice-likes-waffles"}
    send: Callable[[], object] = {
        "Authenticate": functools.partial(first.send, "login", alice),
        "Create": functools.partial(first.send("signup").send, "submit", NEWCOMER),
        "Update": functools.partial(first.send("login", alice).send, "submit"),
    }[operation]
    before = len(sandbox.calls(operation))
    sandbox.fault("delay", operation, seconds=3)
    sender = threading.Thread(target=send)
    sender.start()
    wait_until(lambda: len(sandbox.calls(operation)) > before)
    pool = wiring.database.engine.pool
    assert isinstance(pool, QueuePool)
    held = pool.checkedout()
    sandbox.clear_faults()
    sender.join()
    assert held == 0
