"""How the outbox stands, for those who watch it: `flask deliveries`, `/metrics`.

Not here: anything that changes a delivery (`deliveries`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, text
from sqlalchemy.orm import Session, joinedload

from widget import circuit
from widget.circuit import Circuit
from widget.deliveries import DEAD_AFTER, is_open, literally
from widget.models import Campaign, Delivery, DeliveryState, Integration, Participation

_SIGNS_OF_LIFE = text("""
    SELECT count(*) FILTER (WHERE last_heartbeat > now() - make_interval(secs => :seconds)), max(last_heartbeat)
    FROM procrastinate_workers
""")


UNSETTLED = (DeliveryState.WAITING, DeliveryState.SENDING, DeliveryState.BURIED)


@dataclass(frozen=True, slots=True)
class Health:
    """How the outbox stands now.

    Attributes:
        backlog: how many, by the integration's name and the state; of waiting, sending and buried.
        oldest: seconds since the oldest open one was taken; 0.0 when none is open.
        circuits: how each integration's deliveries fare, by its name.
        troubles: what has to be mended before those of a paused integration go on, by its name.
        workers: how many are alive.
        heartbeat: seconds since the youngest sign of life of a worker; None when there never was one.
    """

    backlog: Mapping[tuple[str, str], int]
    oldest: float
    circuits: Mapping[str, Circuit]
    troubles: Mapping[str, str]
    workers: int
    heartbeat: float | None


def health(session: Session, now: datetime) -> Health:
    """How the outbox stands. Looks at what is unsettled only, however many have been delivered.

    Args:
        now: by `clock`.
    """
    integrations = session.scalars(select(Integration)).all()
    names = {integration.id: integration.name for integration in integrations}
    unsettled = Delivery.state != literally(DeliveryState.DELIVERED)
    counts = select(Delivery.integration_id, Delivery.state, func.count()).where(unsettled)
    oldest = session.scalar(select(func.min(Delivery.created_at)).where(is_open(Delivery)))
    alive, heartbeat = session.execute(_SIGNS_OF_LIFE, {"seconds": DEAD_AFTER}).one()
    backlog: dict[tuple[str, str], int] = {(name, state): 0 for name in names.values() for state in UNSETTLED}
    for integration_id, state, count in session.execute(counts.group_by(Delivery.integration_id, Delivery.state)):
        backlog[names[integration_id], state] = count
    return Health(
        backlog=backlog,
        oldest=max((now - oldest).total_seconds(), 0.0) if oldest else 0.0,
        circuits={integration.name: circuit.state(integration) for integration in integrations},
        troubles={integration.name: integration.trouble for integration in integrations if integration.trouble},
        workers=alive,
        heartbeat=None if heartbeat is None else max((now - heartbeat).total_seconds(), 0.0),
    )


def tally(session: Session) -> Mapping[str, Mapping[DeliveryState, int]]:
    """How many deliveries, by campaign and state. Counts every row: for a person, not for each minute."""
    statement = (
        select(Campaign.slug, Delivery.state, func.count())
        .select_from(Delivery)
        .join(Participation)
        .join(Campaign)
        .group_by(Campaign.slug, Delivery.state)
        .order_by(Campaign.slug)
    )
    counts: dict[str, dict[DeliveryState, int]] = {}
    for slug, state, count in session.execute(statement):
        counts.setdefault(slug, {})[state] = count
    return counts


def of(
    *,
    ids: Iterable[UUID] = (),
    state: str | None = None,
    campaign: str | None = None,
) -> list[ColumnElement[bool]]:
    """Conditions for `found` and `retry`: all that is given must hold.

    Args:
        ids: these only; none for all.
        campaign: its slug.
    """
    conditions: list[ColumnElement[bool]] = []
    if ids := list(ids):
        conditions.append(Delivery.id.in_(ids))
    if state is not None:
        conditions.append(Delivery.state == literally(DeliveryState(state)))
    if campaign is not None:
        mine = select(Participation.id).join(Campaign).where(Campaign.slug == campaign)
        conditions.append(Delivery.participation_id.in_(mine))
    return conditions


def found(session: Session, *conditions: ColumnElement[bool], limit: int) -> Sequence[Delivery]:
    """The newest deliveries that fit, with their participations and campaigns."""
    whole = joinedload(Delivery.participation).joinedload(Participation.campaign)
    return session.scalars(
        select(Delivery).where(*conditions).options(whole).order_by(Delivery.number.desc()).limit(limit)
    ).all()
