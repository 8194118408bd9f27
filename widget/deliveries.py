"""The outbox: what is to reach Openfield, and how far it has come.

The row is the truth. It is written in the participation's own transaction, together with the job that will look at
it; the job says when, never what. What holds:

1. A delivery is WAITING, SENDING (under a lease), DELIVERED or BURIED; only `claim` makes it SENDING.
2. An attempt is counted before the call, so that a row that kills its worker is not tried for ever.
3. Only the holder of the newest claim settles: a claim carries its attempt's number, and settling asks for it.
4. One person's deliveries go in order: a claim is refused while an older one of the same person is open.
5. The payload, with the password of a Create, is wiped when it is delivered.

Not here: the call itself (`participation.deliver`) and the queue's tasks (`jobs`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import procrastinate
from sqlalchemy import and_, delete, exists, or_, select, update
from sqlalchemy.orm import Session, aliased

from widget.models import Delivery, DeliveryState, Integration, Operation, Participation
from widget.vault import Vault

queue = procrastinate.App(connector=procrastinate.SyncPsycopgConnector())
"""Procrastinate's end of the queue; `jobs` registers what it does. Jobs are deferred on the session's connection."""

LEASE = timedelta(minutes=2)
"""Longer than the calls of one attempt together; after it, whoever held the row is taken for dead."""

GRACE = timedelta(seconds=15)
"""How long the immediate attempt has the row for itself before the queue looks at it."""

KEEP_TRYING = timedelta(days=7)
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 6 * 3600.0

LOOK_AGAIN = timedelta(seconds=5)
"""When a delivery can't be claimed though it is open: an older one of the same person, or another process, has it."""

DELIVER = "deliver"
"""The name of the queue's task; its one argument is `delivery_id`."""

OPEN = (DeliveryState.WAITING, DeliveryState.SENDING)


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to send one delivery, once. `payload` is as `enqueue` was given it."""

    delivery_id: UUID
    attempt: int
    operation: Operation
    integration: Integration
    payload: Any
    created_at: datetime


def enqueue(
    session: Session,
    vault: Vault,
    participation: Participation,
    *,
    integration_id: int,
    operation: Operation,
    person: str,
    payload: Any,
    now: datetime,
) -> UUID:
    """Writes the delivery and its job on the session's own connection; both are there after its commit, or neither.

    Args:
        person: what tells whose record it is: the PartyId for an Update, the e-mail address for a Create.
        payload: JSON; see `participation`.
    """
    delivery = Delivery(
        participation=participation,
        integration_id=integration_id,
        operation=operation,
        person_hash=vault.digest("person", str(integration_id), person.casefold()),
        state=DeliveryState.WAITING,
        created_at=now,
        due_at=now + GRACE,
        sealed_payload=vault.seal("delivery.payload", payload),
    )
    session.add(delivery)
    session.flush()
    _defer(session, delivery.id, delivery.due_at)
    return delivery.id


def claim(session: Session, vault: Vault, delivery_id: UUID, now: datetime) -> Claim | None:
    """Takes the delivery under a lease and counts the attempt. Commits.

    Returns:
        None when it is settled, somebody else's, not due yet (the first attempt is due at once), or an older one of
        the same person comes first.
    """
    older = aliased(Delivery)
    first = ~exists().where(
        older.integration_id == Delivery.integration_id,
        older.person_hash == Delivery.person_hash,
        older.state.in_(OPEN),
        or_(
            older.created_at < Delivery.created_at,
            and_(older.created_at == Delivery.created_at, older.id < Delivery.id),
        ),
    )
    free = or_(
        and_(Delivery.state == DeliveryState.WAITING, or_(Delivery.attempts == 0, Delivery.due_at <= now)),
        and_(Delivery.state == DeliveryState.SENDING, Delivery.leased_until < now),
    )
    statement = (
        update(Delivery)
        .where(Delivery.id == delivery_id, free, first)
        .values(state=DeliveryState.SENDING, attempts=Delivery.attempts + 1, leased_until=now + LEASE)
        .returning(Delivery)
        .execution_options(populate_existing=True)
    )
    delivery = session.scalars(statement).one_or_none()
    integration = delivery.integration if delivery else None  # read now: after the commit, no connection is to be held
    session.commit()
    if delivery is None or integration is None or delivery.sealed_payload is None:
        return None
    payload = vault.open("delivery.payload", delivery.sealed_payload)
    return Claim(delivery.id, delivery.attempts, delivery.operation, integration, payload, delivery.created_at)


def settle(session: Session, claim: Claim, now: datetime) -> None:
    """It is in Openfield; nothing of it waits any more. Commits."""
    _leave(session, claim, state=DeliveryState.DELIVERED, settled_at=now, reason=None, sealed_payload=None)
    session.commit()


def postpone(
    session: Session, claim: Claim, now: datetime, *, reason: str, retry_after: float | None = None, luck: Random
) -> datetime | None:
    """Tries again later, or buries it when it was tried for KEEP_TRYING. Commits.

    Returns:
        When the next attempt is due, or None when it is buried.
    """
    if now - claim.created_at >= KEEP_TRYING:
        bury(session, claim, now, reason=reason)
        return None
    pause = max(backoff(claim.attempt, luck), retry_after or 0.0)
    due_at = now + timedelta(seconds=min(pause, LONGEST_PAUSE))
    if _leave(session, claim, state=DeliveryState.WAITING, due_at=due_at, reason=reason):
        _defer(session, claim.delivery_id, due_at)
    session.commit()
    return due_at


def bury(session: Session, claim: Claim, now: datetime, *, reason: str) -> None:
    """Gives up until a person looks at it; what was to be sent is kept, sealed. Commits."""
    _leave(session, claim, state=DeliveryState.BURIED, settled_at=now, reason=reason)
    session.commit()


def withdraw(session: Session, claim: Claim) -> None:
    """It was refused while the participant waits to hear so: nothing of the participation is kept. Commits."""
    mine = select(Delivery.participation_id).where(Delivery.id == claim.delivery_id, Delivery.attempts == claim.attempt)
    session.execute(delete(Participation).where(Participation.id.in_(mine)))
    session.commit()


def look_again(session: Session, delivery_id: UUID, now: datetime) -> None:
    """Defers another look at a delivery that could not be claimed, if it is open: when it is due. Commits."""
    is_open = Delivery.state.in_(OPEN)
    due_at = session.scalar(select(Delivery.due_at).where(Delivery.id == delivery_id, is_open))
    if due_at is not None:
        _defer(session, delivery_id, max(due_at, now + LOOK_AGAIN))
    session.commit()


def backoff(attempt: int, luck: Random) -> float:
    """Seconds to wait after the `attempt`-th failure (1, 2, …): full jitter under 1 s, 2 s, 4 s … 6 h."""
    return luck.uniform(0, min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(attempt - 1, 20)))


def _leave(session: Session, claim: Claim, **values: Any) -> bool:
    """Ends the claim, if it is still the newest one."""
    statement = (
        update(Delivery)
        .where(Delivery.id == claim.delivery_id, Delivery.state == DeliveryState.SENDING)
        .where(Delivery.attempts == claim.attempt)
        .values(leased_until=None, **values)
        .returning(Delivery.id)
    )
    return session.scalar(statement) is not None


def _defer(session: Session, delivery_id: UUID, at: datetime) -> None:
    connection = session.connection().connection.driver_connection
    queue.configure_task(DELIVER, schedule_at=at, connection=connection).defer(delivery_id=str(delivery_id))
