"""Clocks that are wrong: a process's own, an hour back and a day on; and the database's, which jumps."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from tests.conftest import Sandbox
from tests.processes import wait_until
from widget import campaigns, deliveries, participation, visits
from widget.models import Delivery, DeliveryState
from widget.participation import Prefill, Taken
from widget.profile import Profile, Variable
from widget.visits import Body, Ours
from widget.wiring import Wiring

AN_HOUR_BACK, A_DAY_ON = -timedelta(hours=1), timedelta(days=1)

ANNA = Profile.from_json(
    {
        "email": "anna@example.org",
        "username": "anna",
        "password": "anna-keeps-this-secret",
        "firstname": "Anna",
        "lastname": "Peeters",
        "country": "BEL",
    }
)


def sign_up(session: Session, wiring: Wiring, now: datetime) -> None:
    """Anna's journey, as a process does it that has this clock."""
    campaign = campaigns.find(session, "summer")
    assert campaign is not None
    integration = campaigns.integration_for(session, campaign)
    assert integration is not None
    handle = participation.start_signup(session, wiring, campaign, integration, now=now)
    use = visits.use(session, wiring.vault, handle, campaign_id=campaign.id, body=Body(()), now=now)
    assert isinstance(use, Ours)
    outcome = participation.take_part(
        session, wiring, campaign, use.visit, known=Prefill(None, Profile()), profile=ANNA, asked=list(Variable),
        decisions=(), now=now,
    )  # fmt: skip
    assert isinstance(outcome, Taken)


def the_delivery(session: Session) -> Delivery:
    return session.scalars(select(Delivery).execution_options(populate_existing=True)).one()


def deliver(wiring: Wiring, delivery_id: UUID, now: datetime) -> None:
    with wiring.database.session() as session:
        participation.deliver(session, wiring, delivery_id, deadline=5.0, now=now)


def accounts(sandbox: Sandbox) -> list[dict[str, Any]]:
    return [each for each in sandbox.parties() if each["Party"]["Email"] == ANNA.email]


@pytest.mark.parametrize("shift", [AN_HOUR_BACK, A_DAY_ON])
def test_a_web_process_whose_clock_is_wrong_delivers_at_once_and_leaves_the_rest_when_it_should(
    campaign: Callable[..., str], session: Session, wiring: Wiring, sandbox: Sandbox, shift: timedelta
) -> None:
    campaign()
    sandbox.fault("status", "Create", status=503)
    sign_up(session, wiring, datetime.now(UTC) + shift)
    delivery = the_delivery(session)
    now = deliveries.clock(session)
    assert abs(delivery.due_at - now) < timedelta(minutes=1)
    deliver(wiring, delivery.id, delivery.due_at)
    assert the_delivery(session).state is DeliveryState.DELIVERED
    assert len(accounts(sandbox)) == 1


def test_when_the_databases_clock_goes_an_hour_back_what_waits_goes_an_hour_later_and_is_not_lost(
    campaign: Callable[..., str], session: Session, wiring: Wiring, sandbox: Sandbox, now: datetime
) -> None:
    campaign()
    sandbox.fault("status", "Create", status=503)
    sign_up(session, wiring, now)
    delivery = the_delivery(session)
    session.commit()
    deliver(wiring, delivery.id, now + AN_HOUR_BACK)
    assert the_delivery(session).attempts == 1
    session.commit()
    deliver(wiring, delivery.id, delivery.due_at)
    assert the_delivery(session).state is DeliveryState.DELIVERED


def test_when_the_databases_clock_goes_a_day_on_two_send_at_once_and_openfield_has_it_once(
    campaign: Callable[..., str], session: Session, wiring: Wiring, sandbox: Sandbox, now: datetime
) -> None:
    """Every lease ends before its time: the first attempt is under way when the second one begins."""
    campaign()
    sandbox.fault("status", "Create", status=503)
    sign_up(session, wiring, now)
    delivery = the_delivery(session)
    session.commit()
    sandbox.fault("delay", "Create", seconds=3600)
    with ThreadPoolExecutor(1) as first:
        under_way = first.submit(deliver, wiring, delivery.id, delivery.due_at)
        wait_until(lambda: len(sandbox.calls("Create")) == 2)
        deliver(wiring, delivery.id, delivery.due_at + A_DAY_ON)
        sandbox.clear_faults()
        under_way.result()
    assert the_delivery(session).state is DeliveryState.DELIVERED
    assert len(accounts(sandbox)) == 1
