"""The iframe's state, without cookies: a handle in the page, exchanged once for what it stands for.

A handle is 256 random bits. The database knows only its hash, bound to a campaign and an entrance; it is good for
IDLE, and a journey for LONGEST altogether. `use` spends it by one conditional UPDATE, so that of two posts with the
same handle one is worked on and the other is given the same answer again, or told that it came too late.

Not here: what a post does (`participation`) and how it is answered (`web.pages`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Event
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import and_, delete, insert, or_, select, update
from sqlalchemy.dialects.postgresql import insert as insert_or_skip
from sqlalchemy.orm import Session

from widget.models import Entrance, Visit
from widget.vault import Sealed, Vault, new_handle

IDLE = timedelta(minutes=30)
LONGEST = timedelta(hours=2)

ABANDONED = timedelta(seconds=30)
"""After so long without an answer, the process that worked on a post is taken for dead."""

PATIENCE = 12.0
"""Seconds that a repeated post waits for the answer that the first one is about to get."""

SENT_TWICE = timedelta(minutes=10)
"""Two posts without a handle that are alike within this time are one."""


@dataclass(frozen=True, slots=True)
class Body:
    """A post's fields: what tells one post from another."""

    fields: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, fields: Iterable[tuple[str, str]]) -> Body:
        """The body of these name/value pairs, whatever their order."""
        return cls(tuple(sorted(fields)))

    def digest(self, vault: Vault) -> bytes:
        """Keyed, since a password may be in it."""
        return vault.digest("body", *(part for pair in self.fields for part in pair))


@dataclass(frozen=True, slots=True)
class Ours:
    """The handle is spent, and this post is ours to answer."""

    visit: Visit


@dataclass(frozen=True, slots=True)
class Repeated:
    """The same post came before: this is the answer that it got, as `remember` was given it."""

    answer: Any


@dataclass(frozen=True, slots=True)
class Unanswered:
    """The same post is still being worked on, longer than PATIENCE."""


@dataclass(frozen=True, slots=True)
class Spent:
    """The handle was used before, by another post."""

    visit: Visit


@dataclass(frozen=True, slots=True)
class Expired:
    """The handle is too old, or none of this campaign's. `entrance` is known when it is merely too old."""

    entrance: Entrance | None = None


Use = Ours | Repeated | Unanswered | Spent | Expired


def begin(
    session: Session,
    vault: Vault,
    *,
    campaign_id: int,
    entrance: Entrance,
    integration_id: int | None,
    record: Any = None,
    now: datetime,
) -> str:
    """Opens the first visit of a journey and gives its handle. `record` is what log-in read, as JSON."""
    handle = new_handle()
    values = {
        "id": uuid4(),
        "handle_hash": _hash(vault, handle),
        "journey_id": uuid4(),
        "campaign_id": campaign_id,
        "integration_id": integration_id,
        "entrance": entrance,
        "sealed_record": None if record is None else vault.seal("visit.record", record),
        "began_at": now,
        "expires_at": now + IDLE,
    }
    session.execute(insert(Visit).values(values))
    return handle


def go_on(session: Session, vault: Vault, visit: Visit, now: datetime) -> str:
    """Opens the next visit of the same journey and gives its handle."""
    handle = new_handle()
    session.add(
        Visit(
            handle_hash=_hash(vault, handle),
            journey_id=visit.journey_id,
            campaign_id=visit.campaign_id,
            integration_id=visit.integration_id,
            entrance=visit.entrance,
            sealed_record=visit.sealed_record,
            began_at=visit.began_at,
            expires_at=min(now + IDLE, visit.began_at + LONGEST),
        )
    )
    session.flush()
    return handle


def handle_of_open_post(vault: Vault, campaign_id: int, sender: str, body: Body, now: datetime) -> str:
    """A handle for a post that carries none (the form alone): the same for the same post of the same sender.

    So a double click or a lost reply is one participation, though the page that everybody gets holds no token.
    """
    window = int(now.timestamp() // SENT_TWICE.total_seconds())
    parts = (str(campaign_id), sender, str(window), body.digest(vault).hex())
    return vault.digest("open post", *parts).hex()


def begin_open(session: Session, vault: Vault, *, campaign_id: int, handle: str, now: datetime) -> None:
    """Opens the visit of an open post, unless it is open already."""
    values = {
        "id": uuid4(),
        "handle_hash": _hash(vault, handle),
        "journey_id": uuid4(),
        "campaign_id": campaign_id,
        "entrance": Entrance.OPEN,
        "began_at": now,
        "expires_at": now + IDLE,
    }
    session.execute(insert_or_skip(Visit).values(values).on_conflict_do_nothing(index_elements=["handle_hash"]))


def use(
    session: Session,
    vault: Vault,
    handle: str,
    *,
    campaign_id: int,
    body: Body,
    now: datetime,
    patience: float = PATIENCE,
) -> Use:
    """Spends the handle for this post, or tells why not. Commits; `patience` is in seconds."""
    handle_hash, body_hash = _hash(vault, handle), body.digest(vault)
    mine = and_(Visit.handle_hash == handle_hash, Visit.campaign_id == campaign_id)
    abandoned = and_(Visit.body_hash == body_hash, Visit.sealed_answer.is_(None), Visit.used_at < now - ABANDONED)
    spend = (
        update(Visit)
        .where(mine, or_(and_(Visit.used_at.is_(None), Visit.expires_at > now), abandoned))
        .values(used_at=now, body_hash=body_hash)
        .returning(Visit)
    )
    visit = session.scalars(spend).one_or_none()
    session.commit()
    if visit is not None:
        return Ours(visit)
    visit = session.scalars(select(Visit).where(mine)).one_or_none()
    if visit is None:
        return Expired()
    if visit.used_at is None:
        return Expired(visit.entrance)
    if visit.body_hash != body_hash:
        return Spent(visit)
    return _answer(session, vault, visit, patience)


def _answer(session: Session, vault: Vault, visit: Visit, patience: float) -> Use:
    pause, waited = Event(), 0.0
    while visit.sealed_answer is None:
        if waited >= patience:
            return Unanswered()
        session.commit()
        pause.wait(0.1)
        waited += 0.1
        session.refresh(visit)
    return Repeated(vault.open("visit.answer", visit.sealed_answer))


def remember(session: Session, vault: Vault, visit_id: UUID, answer: Any) -> None:
    """Keeps the answer (JSON) for a repeat of the post that used the visit. Commits."""
    sealed = vault.seal("visit.answer", answer)
    session.execute(update(Visit).where(Visit.id == visit_id).values(sealed_answer=sealed))
    session.commit()


def abandon(session: Session, visit_id: UUID, now: datetime) -> None:
    """Gives up on a post that could not be answered: the same post again is worked on anew, at once. Commits."""
    session.execute(update(Visit).where(Visit.id == visit_id).values(used_at=now - 2 * ABANDONED))
    session.commit()


def keep_typed(vault: Vault, campaign_id: int, typed: dict[str, str]) -> str:
    """What was typed, sealed for a hidden field, so that logging in again does not lose it. '' for nothing."""
    return vault.seal("typed", [campaign_id, typed]).decode() if typed else ""


def typed_before(vault: Vault, campaign_id: int, token: str) -> dict[str, str] | None:
    """What `keep_typed` kept for this campaign, within LONGEST; None when there is nothing, or nothing of ours."""
    try:
        sealed_for, typed = vault.open("typed", token.encode(), max_age=int(LONGEST.total_seconds()))
    except (Sealed, UnicodeEncodeError):
        return None
    return typed if sealed_for == campaign_id else None


def record_of(vault: Vault, visit: Visit) -> Any:
    """The record that log-in read, as JSON; None for the other entrances."""
    return None if visit.sealed_record is None else vault.open("visit.record", visit.sealed_record)


def forget(session: Session, now: datetime) -> int:
    """Deletes the visits that expired LONGEST ago or earlier, with what they know; gives how many. Commits."""
    gone = session.scalars(delete(Visit).where(Visit.expires_at < now - LONGEST).returning(Visit.id)).all()
    session.commit()
    return len(gone)


def _hash(vault: Vault, handle: str) -> bytes:
    return vault.digest("handle", handle)
