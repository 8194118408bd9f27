"""Whether an integration's deliveries may go now: one circuit for all processes, in the integration's own row.

After FAILURES attempts in a row that found Openfield unavailable, its deliveries rest, whoever has them, so that
workers neither hammer a server in trouble nor use up the attempts of thousands of rows that would all fail. After each
rest one delivery probes, one that was tried as little as possible: its success lets everything flow again, its failure
makes the next rest longer. Settings that cannot work (Misconfigured) begin a rest at once and are told once; changing
them, or a retry by hand, ends it. Where it may be about one record after all, it takes FAILURES in a row as well.

Not here: the breaker in front of calls that somebody waits for, which is each process's own (`openfield.breaker`).
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from enum import StrEnum
from random import Random

from sqlalchemy import update
from sqlalchemy.orm import Session

from widget.models import Integration

FAILURES = 5
"""In a row; the last one begins a rest."""

FIRST_REST = 1.0
LONGEST_REST = 60.0
"""Seconds, and the longest for which everything rests because one answer asked so (Retry-After)."""

log = logging.getLogger(__name__)


class Circuit(StrEnum):
    """How an integration's deliveries fare."""

    FLOWING = "flowing"
    RESTING = "resting"
    """Openfield has been failing; a probe now and then finds out when it is back."""
    PAUSED = "paused"
    """The settings are wrong, until somebody mends them."""
    OFF = "off"
    """The integration is switched off."""


def state(integration: Integration) -> Circuit:
    """How its deliveries fare now."""
    if not integration.enabled:
        return Circuit.OFF
    if integration.trouble is not None:
        return Circuit.PAUSED
    return Circuit.RESTING if integration.failures >= FAILURES else Circuit.FLOWING


def is_flowing(integration: Integration) -> bool:
    """Whether everything may go."""
    return state(integration) is Circuit.FLOWING


def may_probe(integration: Integration, now: datetime) -> bool:
    """Whether one delivery may go to find out: its rest is over."""
    return integration.enabled and (integration.rests_until is None or integration.rests_until <= now)


def looked_at(session: Session, integration_id: int) -> Integration:
    """The integration as it is now; `locked` unless it is flowing, so that only one delivery probes."""
    integration = _as_stored(session, integration_id)
    return integration if is_flowing(integration) else locked(session, integration_id)


def locked(session: Session, integration_id: int) -> Integration:
    """The integration as it is now. Until the transaction's end nobody else decides anything about its circuit.

    Whoever also changes a delivery's row in that transaction does so after this.
    """
    return session.get_one(Integration, integration_id, populate_existing=True, with_for_update={"key_share": True})


def failed(
    session: Session,
    integration_id: int,
    now: datetime,
    *,
    was_probe: bool,
    retry_after: float,
    luck: Random,
    trouble: str | None = None,
) -> None:
    """Openfield was unavailable, or would not let one record in.

    What went out before a rest began says nothing about what comes after it, unless it was the probe.

    Args:
        retry_after: seconds that Openfield asks for; 0.0 when it asks for none.
        trouble: what has to be mended, if it comes to a rest.
    """
    for look in (_as_stored, locked):  # what fails together with many others needs no lock to see that they rest
        integration = look(session, integration_id)
        if not was_probe and not may_probe(integration, now):
            return
    integration.failures += 1
    if integration.failures >= FAILURES:
        rest = max(pause(integration.failures, luck), min(retry_after, LONGEST_REST))
        integration.rests_until = now + timedelta(seconds=rest)
        if trouble is not None:
            _pause(integration, trouble)
        elif integration.failures == FAILURES:
            log.warning("deliveries rest: Openfield has been failing", extra={"integration": integration.name})


def misconfigured(session: Session, integration_id: int, now: datetime, reason: str, luck: Random) -> None:
    """Nothing will get through before somebody changes the settings. Says so in the log, once."""
    integration = locked(session, integration_id)
    _pause(integration, reason)
    integration.failures = max(integration.failures + 1, FAILURES)
    integration.rests_until = now + timedelta(seconds=pause(integration.failures, luck))


def _pause(integration: Integration, reason: str) -> None:
    if integration.trouble is None:
        log.error("deliveries are paused: %s", reason, extra={"integration": integration.name})
    integration.trouble = reason


def recovered(session: Session, integration_id: int) -> None:
    """Openfield answered as it should. Costs nothing when it did so before."""
    if _reset(session, integration_id):
        log.info("Openfield answers deliveries again", extra={"integration_id": integration_id})


def resume(session: Session, integration_id: int) -> None:
    """Ends a rest or a pause, because the settings have changed or a person wants to see what happens."""
    _reset(session, integration_id)


def pause(failures: int, luck: Random) -> float:
    """Seconds to rest after the `failures`-th failure (FAILURES, FAILURES + 1, …): 1 s, 2 s, 4 s … 60 s, half of it
    by chance."""
    longest = min(LONGEST_REST, FIRST_REST * 2.0 ** min(failures - FAILURES, 20))
    return luck.uniform(longest / 2, longest)


def _as_stored(session: Session, integration_id: int) -> Integration:
    return session.get_one(Integration, integration_id, populate_existing=True)


def _reset(session: Session, integration_id: int) -> bool:
    statement = (
        update(Integration)
        .where(Integration.id == integration_id, Integration.failures > 0)
        .values(failures=0, rests_until=None, trouble=None)
        .returning(Integration.id)
        .execution_options(synchronize_session=False)
    )
    return session.scalar(statement) is not None
