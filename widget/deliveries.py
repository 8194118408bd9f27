"""The outbox: what is to reach Openfield, and how far it has come.

A delivery's row is the truth. It is written in the participation's own transaction, together with the job that will
look at it; jobs say when, never what, and the sweep makes them anew when they are gone. What holds:

1. A delivery is WAITING, SENDING, DELIVERED or BURIED. Only `enqueue` and `claim` make it SENDING.
2. SENDING is a lease: at `due_at` it may be claimed again, whatever became of its holder.
3. An attempt is counted before the call. One that nobody ended is counted as a crash; after MAX_CRASHES in a row the
   row is buried instead of tried.
4. A claim carries its attempt's number, and ends the delivery's lease only while that is the newest one. A process that
   comes back late ends nothing.
5. One person's deliveries go in order of their numbers. Numbers are given, and deliveries claimed, under a lock of that
   person: none is claimed while an older one is open, or another is being sent. One that was buried is marked as
   superseded when a later one is delivered: tried again, it no longer overwrites anything.
6. What is to be sent is wiped when it is delivered; the password of a Create also when the time for trying is over.
7. Leases and due times are the database's clock (`clock`), the only one that all processes share.
8. A job is there for what is due and nothing else; when none is, because the queue was emptied or its worker died, the
   sweep defers one. There is at most one, since the queue locks it by the delivery's id.

Not here: the call itself (`participation.deliver`), the worker (`jobs`), whether an integration's deliveries may go at
all (`circuit`), what those who watch want to know (`backlog`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import procrastinate
from procrastinate.exceptions import AlreadyEnqueued
from procrastinate.jobs import DEFAULT_QUEUE, Job
from sqlalchemy import (
    ColumnElement,
    String,
    and_,
    bindparam,
    cast,
    column,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    table,
    text,
    update,
)
from sqlalchemy.orm import Session, aliased

from widget import circuit
from widget.db import unhurried
from widget.models import Delivery, DeliveryState, Integration, Operation, Participation
from widget.vault import Sealed, Vault

queue = procrastinate.App(connector=procrastinate.SyncPsycopgConnector())
"""Procrastinate's end of the queue; `jobs` registers what it does. Jobs are deferred on the session's connection."""

MARGIN = timedelta(seconds=15)
"""How much longer a lease is than the deadline of its attempt."""

KEEP_TRYING = timedelta(days=7)
FIRST_PAUSE = 1.0
GROWTH = 1.5
LONGEST_PAUSE = 6 * 3600.0
"""How a delivery's pauses grow, in seconds. Gently, since `circuit` is there for an Openfield that is down: what fails
now and then, because Openfield does, is not to wait for hours after it has come to its senses."""

MAX_CRASHES = 5

MAX_OPEN = 200
"""Of one person: each is looked at beside each other one of theirs."""

BATCH = 5000
"""How many jobs one sweep defers per integration."""

CANDIDATES = 200
"""Among how many the next probe is chosen."""

DELIVER = "deliver"
"""The name of the queue's task; its one argument is `delivery_id`."""

SWEEPING = 0x0F1E1D_5E
"""The advisory lock of the one sweep; any number that nobody else takes."""

DEAD_AFTER = 30.0
"""Seconds without a sign of life after which a worker's jobs are nobody's."""

OPEN = (DeliveryState.WAITING, DeliveryState.SENDING)

_AS_STORED = {"synchronize_session": False, "populate_existing": True}
"""For statements: what they return is as it is stored; what the session knew already is not brought up to date."""

_OTHER = aliased(Delivery)
"""Made once: making one takes a millisecond."""

_JOBS = table("procrastinate_jobs", column("queueing_lock"), column("status"))
_DROP_JOBS_OF_THE_DEAD = text("""
    DELETE FROM procrastinate_jobs AS job WHERE job.status = 'doing' AND NOT EXISTS (
        SELECT FROM procrastinate_workers AS worker
        WHERE worker.id = job.worker_id AND worker.last_heartbeat > now() - make_interval(secs => :seconds)
    )
""")
_IS_TO_DO = _JOBS.c.status == literal_column("'todo'")
_HAS_JOB = exists().where(_IS_TO_DO, _JOBS.c.queueing_lock == cast(Delivery.id, String))


class Crowded(Exception):
    """MAX_OPEN of one person are open: nobody submits so much who is one person."""


class Busy(Exception):
    """As many deliveries of the integration are under way as may be at once."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to send one delivery, once.

    Attributes:
        payload, password: as `enqueue` was given them.
        in_doubt: an earlier attempt may have taken effect.
        superseded: a later delivery of the same person is in Openfield already.
        is_probe: it goes to find out whether Openfield answers again.
    """

    delivery_id: UUID
    attempt: int
    operation: Operation
    integration: Integration
    payload: Any = field(repr=False)
    password: str | None = field(repr=False)
    give_up_at: datetime
    in_doubt: bool = False
    superseded: bool = False
    is_probe: bool = False


def clock(session: Session) -> datetime:
    """The time by the database's clock: when its transaction began."""
    return session.scalars(select(func.now())).one()


# From the participation to the claim -----------------------------------------------------------------------------


def enqueue(
    session: Session,
    vault: Vault,
    participation: Participation,
    integration: Integration,
    *,
    operation: Operation,
    person: Iterable[str],
    payload: Any,
    password: str | None,
    now: datetime,
    deadline: float,
    limit: int,
) -> Claim | None:
    """Writes the delivery and its job on the session's own connection; both are there after its commit, or neither.

    Args:
        person: what tells whose record it is, each with its kind: "party:…", "email:…", "username:…".
        payload: JSON; see `participation`.
        password: of a Create.
        now: by `clock`.
        deadline: seconds that the immediate attempt will take at most.
        limit: how many of the integration's deliveries may be under way at once.

    Returns:
        The claim for an immediate attempt, which the commit begins; None when it has to wait, because an older one of
        the same person is open, or the integration's deliveries are resting or many.

    Raises:
        Crowded: too many of the same person are open.
    """
    hashes = sorted({vault.digest("person", str(integration.id), each.casefold()) for each in person})
    _lock_person(session, hashes)
    same_person = (is_open(Delivery), Delivery.person_hashes.overlap(hashes))
    older = session.scalars(select(func.count()).select_from(Delivery).where(*same_person)).one()
    if older >= MAX_OPEN:
        raise Crowded
    may_go = circuit.is_flowing(integration) and not older and _under_way(session, integration.id, now) < limit
    delivery = Delivery(
        participation=participation,
        integration_id=integration.id,
        operation=operation,
        person_hashes=hashes,
        state=DeliveryState.SENDING if may_go else DeliveryState.WAITING,
        attempts=int(may_go),
        in_doubt=operation is Operation.CREATE and older > 0,  # the older one may have made the account
        created_at=now,
        due_at=now + _lease(deadline) if may_go else now,
        give_up_at=now + KEEP_TRYING,
        sealed_payload=vault.seal("delivery.payload", payload),
        sealed_password=None if password is None else vault.seal("delivery.password", password),
    )
    session.add(delivery)
    session.flush()
    _defer(session, [delivery.id], delivery.due_at)
    if not may_go:
        return None
    return Claim(delivery.id, 1, operation, integration, payload, password, delivery.give_up_at)


def claim(
    session: Session, vault: Vault, delivery_id: UUID, now: datetime, *, deadline: float, limit: int
) -> Claim | None:
    """Takes the delivery under a lease and counts the attempt. Commits.

    Args:
        now, deadline: as for `enqueue`.
        limit: as for `enqueue`. It is looked at without a lock, which would have all workers wait for each other's
            commits: where several claim in the same instant, they may exceed it by that many.

    Returns:
        None when it is not to be sent now: it is settled, somebody else's, not due, an older one of the same person
        comes first, the integration's deliveries are resting, or it was buried here, because each attempt broke off or
        its key is gone.

    Raises:
        Busy: `limit` are under way.
    """
    found = session.execute(select(Delivery.integration_id, Delivery.person_hashes).where(Delivery.id == delivery_id))
    whose = found.one_or_none()
    if whose is not None:
        _lock_person(session, whose.person_hashes)
    integration = None if whose is None else circuit.looked_at(session, whose.integration_id)
    if integration is None or not circuit.may_probe(integration, now):
        session.rollback()
        return None
    if _under_way(session, integration.id, now) >= limit:
        session.rollback()
        raise Busy
    broke_off = Delivery.state == DeliveryState.SENDING
    statement = (
        update(Delivery)
        .where(Delivery.id == delivery_id, is_open(Delivery), Delivery.due_at <= now, _is_first(now))
        .values(
            state=DeliveryState.SENDING,
            attempts=Delivery.attempts + 1,
            crashes=Delivery.crashes + cast(broke_off, Delivery.crashes.type),
            in_doubt=Delivery.in_doubt | broke_off,
            due_at=now + _lease(deadline),
        )
        .returning(Delivery)
        .execution_options(**_AS_STORED)
    )
    delivery = session.scalars(statement).one_or_none()
    taken = None
    if delivery is not None:
        taken = _taken(vault, delivery, now, is_probe=not circuit.is_flowing(integration))
        if taken is not None and taken.is_probe:
            integration.rests_until = delivery.due_at
    session.commit()
    return taken


def _taken(vault: Vault, delivery: Delivery, now: datetime, *, is_probe: bool) -> Claim | None:
    """The claim of a row that has just been taken, or None when it cannot be sent: then it is buried."""
    reason, payload, password = "", None, None
    if delivery.crashes >= MAX_CRASHES:
        reason = f"each of {MAX_CRASHES} attempts broke off: whoever made it did not live to say how it ended"
    try:
        payload = vault.open("delivery.payload", delivery.sealed_payload or b"")
        if delivery.sealed_password is not None:
            password = vault.open("delivery.password", delivery.sealed_password)
    except Sealed:
        reason = "it was sealed with a key that WIDGET_ENCRYPTION_KEYS does not have"
    if reason:
        delivery.state, delivery.settled_at, delivery.reason = DeliveryState.BURIED, now, reason
        return None
    return Claim(
        delivery.id, delivery.attempts, delivery.operation, delivery.integration, payload, password,
        delivery.give_up_at, delivery.in_doubt, delivery.superseded, is_probe,
    )  # fmt: skip


# How a claim ends ------------------------------------------------------------------------------------------------


def settle(session: Session, claim: Claim, now: datetime) -> bool:
    """It is in Openfield; nothing of it waits any more. Says whether the claim was still the newest one. Commits."""
    circuit.recovered(session, claim.integration.id)
    done = _leave(
        session, claim, state=DeliveryState.DELIVERED, settled_at=now, reason=None, sealed_payload=None,
        sealed_password=None,
    )  # fmt: skip
    if done is not None:
        earlier = (
            update(Delivery)
            .where(Delivery.state != literally(DeliveryState.DELIVERED), Delivery.number < done.number)
            .where(Delivery.person_hashes.overlap(done.person_hashes), ~Delivery.superseded)
        )
        session.execute(earlier.values(superseded=True).execution_options(**_AS_STORED))
        _defer_next(session, now, done)
    session.commit()
    return done is not None


def postpone(
    session: Session,
    claim: Claim,
    now: datetime,
    *,
    reason: str,
    pause: float,
    in_doubt: bool = False,
) -> None:
    """Tries again later, or buries it when the time for trying is over. Commits.

    Args:
        pause: seconds until it is due again.
        in_doubt: the attempt may have taken effect.
    """
    if now >= claim.give_up_at:
        bury(session, claim, now, reason=reason)
        return
    due_at = now + timedelta(seconds=min(pause, LONGEST_PAUSE))
    _leave(
        session, claim, state=DeliveryState.WAITING, due_at=due_at, reason=reason, in_doubt=claim.in_doubt or in_doubt
    )
    session.commit()


def bury(session: Session, claim: Claim, now: datetime, *, reason: str) -> None:
    """Gives up until a person looks at it; what was to be sent is kept, sealed. Commits."""
    buried = _leave(session, claim, state=DeliveryState.BURIED, settled_at=now, reason=reason)
    if buried is not None:
        _defer_next(session, now, buried)
    session.commit()


def withdraw(session: Session, claim: Claim) -> bool:
    """It was refused while the participant waits to hear so: nothing of the participation is kept. Commits.

    Returns:
        Whether it was still ours to withdraw. Where the lease has ended it is on its way, or somebody was thanked.
    """
    mine = (
        select(Delivery.participation_id)
        .where(Delivery.id == claim.delivery_id, Delivery.attempts == claim.attempt)
        .where(Delivery.state == DeliveryState.SENDING, Delivery.due_at > func.now())
    )
    gone = session.scalar(delete(Participation).where(Participation.id.in_(mine)).returning(Participation.id))
    if gone is not None:
        _drop_job(session, claim.delivery_id)
    session.commit()
    return gone is not None


def backoff(attempt: int, luck: Random) -> float:
    """Seconds to wait after the `attempt`-th failure (1, 2, …): full jitter under 1 s, 1.5 s, 2.25 s … 6 h."""
    return luck.uniform(0, min(LONGEST_PAUSE, FIRST_PAUSE * GROWTH ** min(attempt - 1, 40)))


def _leave(session: Session, claim: Claim, **values: Any) -> Delivery | None:
    """Ends the claim, if it is still the newest one."""
    statement = (
        update(Delivery)
        .where(Delivery.id == claim.delivery_id, Delivery.state == DeliveryState.SENDING)
        .where(Delivery.attempts == claim.attempt)
        .values(crashes=0, **values)
        .returning(Delivery)
        .execution_options(**_AS_STORED)
    )
    left = session.scalars(statement).one_or_none()
    if left is not None:
        _drop_job(session, claim.delivery_id)
    return left


# What keeps them going -------------------------------------------------------------------------------------------


def sweep(session: Session, now: datetime) -> None:
    """Defers a job for whatever is due and has none, and gives up what has been tried for long enough. Commits.

    Several at once are one: the others find that it is being done.
    """
    if not session.scalar(select(func.pg_try_advisory_xact_lock(SWEEPING))):
        session.rollback()
        return
    session.execute(_DROP_JOBS_OF_THE_DEAD, {"seconds": DEAD_AFTER})
    over = or_(Delivery.state == literally(DeliveryState.WAITING), Delivery.due_at <= now)
    session.execute(
        update(Delivery)
        .where(Delivery.id.in_(_some(is_open(Delivery), over, Delivery.give_up_at <= now)))
        .values(state=DeliveryState.BURIED, settled_at=now, reason=func.coalesce(Delivery.reason, "it waited too long"))
        .execution_options(**_AS_STORED)
    )
    kept = Delivery.sealed_password.is_not(None)
    session.execute(
        update(Delivery)
        .where(
            Delivery.id.in_(_some(Delivery.state == literally(DeliveryState.BURIED), Delivery.give_up_at <= now, kept))
        )
        .values(sealed_password=None)
        .execution_options(**_AS_STORED)
    )
    for integration in session.scalars(select(Integration)).all():
        if circuit.may_probe(integration, now):
            mine = (Delivery.integration_id == integration.id, Delivery.give_up_at > now)
            due = select(Delivery.id, Delivery.attempts).where(*mine, _is_next(now), ~_HAS_JOB)
            found = session.execute(due.limit(BATCH if circuit.is_flowing(integration) else CANDIDATES)).all()
            if not circuit.is_flowing(integration):
                # What was tried often may be what Openfield does not take.
                found = sorted(found, key=lambda each: each.attempts)[:1]
            _defer(session, [each.id for each in found])
    session.commit()


def _some(*conditions: ColumnElement[bool]) -> Any:
    """So many that a sweep stays short, and none that somebody is changing: the next sweep takes the others."""
    return select(Delivery.id).where(*conditions).limit(BATCH).with_for_update(skip_locked=True)


def retry(session: Session, now: datetime, *conditions: ColumnElement[bool]) -> int:
    """Tries what waits or is buried again, now and for the whole time anew; the integrations' rests end. Commits.

    Args:
        conditions: which ones; see `backlog.of`.

    Returns:
        How many.
    """
    unsettled = Delivery.state.in_([literally(DeliveryState.WAITING), literally(DeliveryState.BURIED)])
    affected = select(Delivery.integration_id).where(unsettled, *conditions).distinct()
    unhurried(session)
    for integration_id in sorted(session.scalars(affected)):
        circuit.resume(session, integration_id)
    statement = (
        update(Delivery)
        .where(unsettled, *conditions)
        .values(state=DeliveryState.WAITING, due_at=now, give_up_at=now + KEEP_TRYING, settled_at=None, crashes=0)
        .returning(Delivery.id)
        .execution_options(**_AS_STORED)
    )
    retried = session.scalars(statement).all()
    session.commit()
    sweep(session, now)
    return len(retried)


def is_open(delivery: Any) -> ColumnElement[bool]:
    """Whether it is still on its way."""
    condition: ColumnElement[bool] = delivery.state.in_([literally(state) for state in OPEN])
    return condition


def literally(state: DeliveryState) -> Any:
    """The state written out, so that the planner sees which partial index fits."""
    return bindparam(None, state, Delivery.state.type, literal_execute=True)


def _is_first(now: datetime) -> ColumnElement[bool]:
    """No older one of the same person is open, and no other is being sent (a retry by hand may make one older)."""
    before = _OTHER.number < Delivery.number
    being_sent = (_OTHER.state == literally(DeliveryState.SENDING)) & (_OTHER.due_at > now)
    same_person = _OTHER.person_hashes.overlap(Delivery.person_hashes) & (_OTHER.id != Delivery.id)
    return ~exists().where(is_open(_OTHER), same_person, or_(before, being_sent))


def _under_way(session: Session, integration_id: int, now: datetime) -> int:
    statement = select(func.count()).where(
        Delivery.integration_id == integration_id,
        Delivery.state == literally(DeliveryState.SENDING),
        Delivery.due_at > now,
    )
    return session.scalars(statement).one()


def _lease(deadline: float) -> timedelta:
    return timedelta(seconds=deadline) + MARGIN


def _lock_person(session: Session, hashes: Iterable[bytes]) -> None:
    """Until the transaction's end nobody else enqueues or claims anything of this person's.

    Taken before any row is looked at or locked: what is seen afterwards is what others have committed.
    """
    keys = sorted(int.from_bytes(each[:8], signed=True) for each in hashes)
    session.execute(select(*(func.pg_advisory_xact_lock(key) for key in keys)))


def _is_next(now: datetime) -> ColumnElement[bool]:
    """It is due, and may be claimed as far as its person's order goes."""
    return and_(is_open(Delivery), Delivery.due_at <= now, _is_first(now))


def _defer_next(session: Session, now: datetime, before: Delivery) -> None:
    """Defers a job for what waited for this one of the same person to end.

    In two steps, since the planner takes a person's few deliveries for a hundredth of the table.
    """
    same_person = select(Delivery.id).where(is_open(Delivery), Delivery.person_hashes.overlap(before.person_hashes))
    if ids := session.scalars(same_person).all():
        _defer(session, session.scalars(select(Delivery.id).where(Delivery.id.in_(ids), _is_next(now))).all())


def _defer(session: Session, ids: Sequence[UUID], at: datetime | None = None) -> None:
    if not ids:
        return
    jobs = [
        Job(
            id=None, lock=None, queue=DEFAULT_QUEUE, task_name=DELIVER, queueing_lock=str(each), scheduled_at=at,
            task_kwargs={"delivery_id": str(each)},
        )
        for each in ids
    ]  # fmt: skip
    try:
        with session.begin_nested():  # it sets its savepoint on what is asked for its connection inside
            connection = session.connection().connection.driver_connection
            queue.job_manager.batch_defer_jobs(jobs, connection=connection)
    except AlreadyEnqueued:
        pass  # by somebody else, in this instant; what is still without a job is the next sweep's


def _drop_job(session: Session, delivery_id: UUID) -> None:
    session.execute(delete(_JOBS).where(_IS_TO_DO, _JOBS.c.queueing_lock == str(delivery_id)))
