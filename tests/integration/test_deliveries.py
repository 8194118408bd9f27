"""The outbox: from the row that a participation leaves to the record in Openfield."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from tests.conftest import Http, Sandbox
from tests.processes import wait_until
from tests.screens import visit
from widget import deliveries, jobs, participation
from widget.models import Bucket, Delivery, DeliveryState, Integration, Participation, Visit
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


def test_the_row_and_its_job_are_committed_together_with_the_participation(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    job = session.execute(text("SELECT args FROM procrastinate_jobs ORDER BY id")).first()
    assert job is not None
    assert job.args == {"delivery_id": str(delivery.id)}


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
    assert delivery.sealed_payload is None
    assert delivery.attempts == 2
    assert sandbox.party("dora")["Party"]["FirstName"] == "Dora"


def test_what_fails_has_a_job_for_when_it_is_due_again(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    session.execute(text("DELETE FROM procrastinate_jobs"))
    session.commit()
    sandbox.fault("status", "Create", status=503)
    attempt(session, wiring, delivery, now + timedelta(minutes=1))
    assert session.scalars(text("SELECT scheduled_at FROM procrastinate_jobs")).all() == [delivery.due_at]


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
    sandbox.fault("status", "Create", status=409)  # as a server says that does not know Idempotency-Key
    attempt(session, wiring, delivery, now + timedelta(minutes=1))
    assert delivery.state is DeliveryState.DELIVERED
    assert len([each for each in sandbox.parties() if each["Party"]["Email"] == NEWCOMER["email"]]) == 1


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
    assert attempt(session, wiring, delivery, now + timedelta(minutes=1)).state is DeliveryState.WAITING
    assert delivery.reason == "the integration is switched off"
    assert len(sandbox.calls()) == asked
    session.execute(update(Integration).values(enabled=True))
    session.commit()
    assert attempt(session, wiring, delivery, delivery.due_at).state is DeliveryState.DELIVERED


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


def test_one_persons_deliveries_go_in_order(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    alice = {"username": "alice", "password": "alice-likes-waffles"}
    old = visit(http, f"/c/{campaign()}").send("login", alice)
    new = visit(http, "/c/summer").send("login", alice)
    sandbox.fault("status", "Update", status=503)
    old.send("submit", firstname="Old")
    new.send("submit", firstname="New")
    sandbox.clear_faults()
    first, second = session.scalars(select(Delivery).order_by(Delivery.created_at)).all()
    assert (first.attempts, second.attempts) == (1, 0)

    later = now + timedelta(minutes=1)
    assert attempt(session, wiring, second, later).state is DeliveryState.WAITING
    assert attempt(session, wiring, first, later).state is DeliveryState.DELIVERED
    assert attempt(session, wiring, second, later).state is DeliveryState.DELIVERED
    assert sandbox.party("alice")["Party"]["FirstName"] == "New"


def test_a_worker_that_comes_back_late_settles_nothing(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    late = deliveries.claim(session, wiring.vault, delivery.id, now + timedelta(minutes=1))
    assert late is not None
    newer = deliveries.claim(session, wiring.vault, delivery.id, now + timedelta(minutes=4))
    assert newer is not None
    assert newer.attempt == late.attempt + 1
    deliveries.bury(session, late, now, reason="late")
    session.refresh(delivery)
    assert (delivery.state, delivery.reason) == (DeliveryState.SENDING, "Openfield is in trouble (create: 503)")
    deliveries.settle(session, newer, now)
    session.refresh(delivery)
    assert (delivery.state, delivery.reason) == (DeliveryState.DELIVERED, None)


def test_a_delivery_that_failed_for_a_week_is_buried(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    sandbox.fault("status", "Create", status=503)
    attempt(session, wiring, delivery, now + timedelta(days=7, seconds=1))
    assert delivery.state is DeliveryState.BURIED


def test_openfields_retry_after_is_honoured_whoever_looks_before(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring, now: datetime
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session, retry_after=300)
    assert delivery.due_at >= now + timedelta(seconds=300)
    session.execute(text("DELETE FROM procrastinate_jobs"))
    session.commit()
    assert attempt(session, wiring, delivery, now + timedelta(seconds=200)).attempts == 1
    assert session.scalars(text("SELECT scheduled_at FROM procrastinate_jobs")).all() == [delivery.due_at]
    assert attempt(session, wiring, delivery, delivery.due_at).state is DeliveryState.DELIVERED


def test_a_worker_delivers_what_is_due(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring
) -> None:
    delivery = left_waiting(http, campaign, sandbox, session)
    session.execute(text("UPDATE procrastinate_jobs SET scheduled_at = now()"))
    session.execute(update(Delivery).values(due_at=datetime.now(UTC)))
    session.commit()
    worker = threading.Thread(target=jobs.run_worker, args=(wiring,), kwargs={"wait": False})
    worker.start()
    worker.join()
    session.refresh(delivery)
    assert delivery.state is DeliveryState.DELIVERED
    assert sandbox.party("dora")


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


@pytest.mark.parametrize("attempt_number", [1, 2, 5, 16, 1000])
def test_the_pause_grows_with_full_jitter_up_to_six_hours(attempt_number: int) -> None:
    luck = Random(attempt_number)
    ceiling = min(6 * 3600, 2 ** (attempt_number - 1))
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
