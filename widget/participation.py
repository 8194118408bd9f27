"""The participant's verbs: log_in, start_signup, take_part; and deliver, which carries what they sent to Openfield.

Not here: how it looks (`web.pages`), how far a delivery has come (`deliveries`), what Openfield calls things
(`openfield`). The network is never called inside a transaction: each verb commits before a call.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from ipaddress import ip_network
from random import SystemRandom
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from widget import circuit, deliveries, logs, throttle, visits
from widget.deliveries import Claim
from widget.models import Campaign, Consent, DeliveryState, Entrance, Integration, Operation, Participation, Visit
from widget.openfield import (
    AccountExists,
    AccountLocked,
    Connection,
    InvalidCredentials,
    Misconfigured,
    NotAsked,
    OpenfieldClient,
    OpenfieldError,
    Record,
    Rejected,
    Unavailable,
)
from widget.profile import OptIn, Profile, Value, Variable
from widget.throttle import Limit
from widget.vault import Vault, new_handle
from widget.wiring import Wiring

LOGIN_DEADLINE = 5.0
"""Seconds that a participant waits for Openfield at log-in."""

SUBMIT_DEADLINE = 3.5
"""Seconds that the immediate attempt may take; then the queue has it, and the participant is thanked within four."""

DOUBT = 15.0
"""Seconds that a Create of which nobody knows whether it took effect is given to do so, before Openfield is asked."""

PER_ACCOUNT = Limit(burst=8, per_second=1 / 15)
PER_ADDRESS = Limit(burst=60, per_second=1 / 2)
PER_CAMPAIGN = Limit(burst=3000, per_second=50)

_luck = SystemRandom()
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prefill:
    """What a visit knows of its participant: the record as read, and the part of it that fits the form."""

    record: Record | None
    profile: Profile


class Obstacle(StrEnum):
    """Why somebody could not log in."""

    WRONG = "wrong"
    """Unknown, wrong, or too many tries on this account: nobody is told which."""
    LOCKED = "locked"
    """Openfield has locked the account."""
    TOO_MANY_TRIES = "too many tries"
    """From this address, or on this campaign."""
    UNAVAILABLE = "unavailable"
    """Openfield does not answer, or not as it should."""


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """A visit that knows its participant."""

    handle: str
    known: Prefill


@dataclass(frozen=True, slots=True)
class NotLoggedIn:
    """`wait` is in seconds; 0 when it makes no difference."""

    obstacle: Obstacle
    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """An opt-in as it was put to the participant, and what they decided."""

    variable: str
    code: str
    wording: str
    granted: bool


@dataclass(frozen=True, slots=True)
class Taken:
    """The participation is kept: in Openfield already, or on its way there."""

    participation_id: UUID


@dataclass(frozen=True, slots=True)
class NotTaken:
    """Openfield refuses it for good and nothing was kept. `variables` are the fields that it names, if any."""

    exists: bool
    variables: frozenset[Variable]


def log_in(
    session: Session,
    wiring: Wiring,
    campaign: Campaign,
    integration: Integration,
    *,
    username: str,
    password: str,
    address: str,
    now: datetime,
) -> LoggedIn | NotLoggedIn:
    """Identifies the participant in Openfield and begins a visit that knows their record.

    Args:
        address: the participant's network address, for the throttle.
    """
    buckets = _login_buckets(wiring.vault, campaign, integration, username, address)
    waits = {name: throttle.take(session, key, limit, now) for name, (key, limit) in buckets.items()}
    session.commit()
    if throttled := [name for name, wait in waits.items() if wait]:
        logs.security.warning("throttled a log-in", extra={"by": " ".join(throttled)})
    if wait := max(waits["address"], waits["campaign"]):
        return NotLoggedIn(Obstacle.TOO_MANY_TRIES, wait)
    client = wiring.openfield(integration)
    try:
        record = _authenticate(client, username, password, throttled=waits["account"] > 0)
    except InvalidCredentials:
        return NotLoggedIn(Obstacle.WRONG)
    except AccountLocked:
        return NotLoggedIn(Obstacle.LOCKED)
    except OpenfieldError as failure:
        log.warning("log-in failed: %s", failure)
        _give_back(session, buckets)
        return NotLoggedIn(Obstacle.UNAVAILABLE, getattr(failure, "retry_after", None) or 0.0)
    _give_back(session, buckets)
    handle = visits.begin(
        session,
        wiring.vault,
        campaign_id=campaign.id,
        entrance=Entrance.LOGIN,
        integration_id=integration.id,
        record=record.to_json(),
        now=now,
    )
    session.commit()
    return LoggedIn(handle, Prefill(record, client.prefill(record)))


def start_signup(
    session: Session, wiring: Wiring, campaign: Campaign, integration: Integration, *, now: datetime
) -> str:
    """Begins a visit whose form has the account fields on top. Returns its handle."""
    handle = visits.begin(
        session,
        wiring.vault,
        campaign_id=campaign.id,
        entrance=Entrance.SIGNUP,
        integration_id=integration.id,
        now=now,
    )
    session.commit()
    return handle


def prefill(session: Session, wiring: Wiring, visit: Visit) -> Prefill:
    """What the visit's log-in read, as far as it fits the form's fields; nothing for the other entrances."""
    data = visits.record_of(wiring.vault, visit)
    integration = visit.integration_id and session.get(Integration, visit.integration_id)
    if data is None or not integration:
        return Prefill(None, Profile())
    record = Record.from_json(data)
    return Prefill(record, wiring.openfield(integration).prefill(record))


def has_taken_part(session: Session, visit: Visit) -> bool:
    """Whether the visit's journey has come to its end."""
    return session.scalar(select(Participation.id).where(Participation.journey_id == visit.journey_id)) is not None


def take_part(
    session: Session,
    wiring: Wiring,
    campaign: Campaign,
    visit: Visit,
    *,
    known: Prefill,
    profile: Profile,
    asked: Collection[Variable],
    decisions: Iterable[Decision],
    now: datetime,
) -> Taken | NotTaken:
    """Keeps the participation and its delivery in one transaction, then tries once, for a short time, to deliver it.

    Args:
        known: what the visit knew before.
        profile: the form's variables, those that were only shown included.
        asked: the variables that the participant could change.

    Returns:
        NotTaken only when Openfield refused the record; then nothing is kept.
    """
    earlier = _kept(session, visit)
    if earlier is not None:
        return Taken(earlier)
    decided = tuple(decisions)
    participation = _participation(wiring.vault, campaign, visit, profile, decided, now)
    session.add(participation)
    session.flush()
    if visit.integration_id is None:
        session.commit()
        return Taken(participation.id)
    began_at = deliveries.clock(session)
    claim = deliveries.enqueue(
        session,
        wiring.vault,
        participation,
        session.get_one(Integration, visit.integration_id),
        now=began_at,
        deadline=SUBMIT_DEADLINE,
        limit=wiring.settings.deliveries_at_once,
        **_delivery(campaign, known, profile, asked, decided, now),
    )
    session.commit()
    if claim is None:
        return Taken(participation.id)
    with logs.about(delivery_id=claim.delivery_id):
        refusal = _attempt(session, wiring, claim, SUBMIT_DEADLINE, began_at, thanked=False)
        if refusal is None:
            return Taken(participation.id)
        if not deliveries.withdraw(session, claim):
            return Taken(participation.id)
        wiring.metrics.attempt("withdrawn")
        log.info("withdrawn: %s", refusal)
    return NotTaken(exists=isinstance(refusal, AccountExists), variables=refusal.variables)


def _delivery(
    campaign: Campaign,
    known: Prefill,
    profile: Profile,
    asked: Collection[Variable],
    decisions: Iterable[Decision],
    now: datetime,
) -> dict[str, Any]:
    """What `deliveries.enqueue` is to be told of it."""
    optins = [decision.code for decision in decisions if decision.granted]
    payload: dict[str, Any] = {"language": campaign.language, "optins": optins, "taken_at": now.isoformat()}
    if known.record is None:
        payload["profile"] = replace(profile, password=None).to_json()
        names = {("email", profile.email), ("username", profile.username)}
        person = {f"{kind}:{name}" for kind, name in names if name}
        return {"operation": Operation.CREATE, "person": person, "payload": payload, "password": profile.password}
    payload["record"] = known.record.to_json()
    payload["changes"] = _changes(known.profile, profile, asked)
    names = {("email", known.profile.email), ("email", profile.email), ("username", known.profile.username)}
    person = {f"party:{known.record.party_id}", *(f"{kind}:{name}" for kind, name in names if name)}
    return {"operation": Operation.UPDATE, "person": person, "payload": payload, "password": None}


def _kept(session: Session, visit: Visit) -> UUID | None:
    """What an earlier post of the same journey left, when the process died before it could answer.

    A participation that was refused since is deleted: nobody was thanked for it, and its sender is to hear so.
    """
    kept = session.scalar(select(Participation).where(Participation.journey_id == visit.journey_id))
    if kept is None:
        return None
    if kept.delivery is None or kept.delivery.state is not DeliveryState.BURIED:
        return kept.id
    session.delete(kept)
    session.commit()
    return None


def deliver(session: Session, wiring: Wiring, delivery_id: UUID, *, deadline: float, now: datetime) -> None:
    """Sends one delivery, if it is to be sent now; calling it again, or twice at once, does no harm.

    Args:
        deadline: seconds that the attempt may take.
        now: by `deliveries.clock`.

    Raises:
        deliveries.Busy: there is no room for it now.
    """
    limit = wiring.settings.deliveries_at_once
    claim = deliveries.claim(session, wiring.vault, delivery_id, now, deadline=deadline, limit=limit)
    if claim is None:
        return
    started = time.monotonic()
    with logs.about(delivery_id=delivery_id):
        refusal = _attempt(session, wiring, claim, deadline, now, thanked=True)
        if refusal is not None:
            deliveries.bury(session, claim, _later(now, started), reason=str(refusal))
            wiring.metrics.attempt("buried")
            log.warning("buried: %s", refusal, extra={"attempt": claim.attempt})


def _attempt(
    session: Session, wiring: Wiring, claim: Claim, deadline: float, now: datetime, *, thanked: bool
) -> Rejected | None:
    """Settles or postpones the claim, unless Openfield refuses it: then it is the caller's to end.

    Args:
        thanked: the participant has been thanked and has gone.
    """
    started, asked = time.monotonic(), Connection.of(claim.integration)
    try:
        _push(session, wiring, claim, now, started + deadline, thanked=thanked)
    except Rejected as refusal:
        circuit.recovered(session, claim.integration.id)
        session.commit()
        return refusal
    except OpenfieldError as failure:
        _postpone(session, claim, failure, _later(now, started), asked)
        wiring.metrics.attempt("postponed")
        log.info("postponed: %s", failure, extra={"attempt": claim.attempt})
    else:
        if deliveries.settle(session, claim, _later(now, started)):
            wiring.metrics.attempt("delivered")
            log.info("delivered", extra={"attempt": claim.attempt})
    return None


def _postpone(session: Session, claim: Claim, failure: OpenfieldError, now: datetime, asked: Connection) -> None:
    """Tells the integration's circuit what the failure means for all, and keeps the delivery for later."""
    pause, in_doubt = deliveries.backoff(claim.attempt, _luck), False
    if isinstance(failure, Misconfigured):
        if Connection.of(circuit.locked(session, claim.integration.id)) != asked:
            pass  # they have been changed meanwhile
        elif failure.certain:
            circuit.misconfigured(session, claim.integration.id, now, str(failure), _luck)
        else:
            circuit.failed(
                session, claim.integration.id, now, was_probe=claim.is_probe, retry_after=0.0, luck=_luck,
                trouble=str(failure),
            )  # fmt: skip
    elif isinstance(failure, Unavailable):
        wait, in_doubt = failure.retry_after or 0.0, failure.maybe_applied
        pause = max(pause, wait, DOUBT if in_doubt and claim.operation is Operation.CREATE else 0.0)
        if not isinstance(failure, NotAsked):
            circuit.failed(session, claim.integration.id, now, was_probe=claim.is_probe, retry_after=wait, luck=_luck)
    else:
        circuit.recovered(session, claim.integration.id)
    deliveries.postpone(session, claim, now, reason=str(failure), pause=pause, in_doubt=in_doubt)


def _push(session: Session, wiring: Wiring, claim: Claim, now: datetime, ends_at: float, *, thanked: bool) -> None:
    """Has it in Openfield when it returns.

    Args:
        ends_at: by `time.monotonic`.
    """
    client, data, key = wiring.openfield(claim.integration), claim.payload, str(claim.delivery_id)
    taken_at = datetime.fromisoformat(data["taken_at"])
    optins = [OptIn(code, taken_at) for code in data["optins"]]

    def lay(record: Record, changes: Mapping[Variable, Value | None], key: str) -> None:
        client.update(record, changes, optins, data["language"], key=key, deadline=ends_at - time.monotonic())

    if claim.operation is Operation.UPDATE:
        lay(Record.from_json(data["record"]), {} if claim.superseded else _read_changes(data["changes"]), key)
        return
    profile = Profile.from_json(data["profile"])
    profile = replace(profile, password=claim.password or profile.password)  # there, the version before kept it
    account = _own_account(session, wiring, claim, profile, now, ends_at) if claim.in_doubt else None
    if account is None:
        try:
            client.create(profile, optins, data["language"], key=key, deadline=ends_at - time.monotonic())
        except AccountExists:
            account = _own_account(session, wiring, claim, profile, now, ends_at) if thanked else None
            if account is None:
                raise
        else:
            return
    changes = {} if claim.superseded else dict(profile.items())
    if optins or not client.holds(account, changes, data["language"]):
        lay(account, changes, f"{key}-update-{account.version}")


def _own_account(
    session: Session, wiring: Wiring, claim: Claim, profile: Profile, now: datetime, ends_at: float
) -> Record | None:
    """The account that this person's own password opens, if there is one.

    It was made by an earlier attempt whose reply was lost, or it is an old one of theirs; either way an Update with
    what they sent leaves it as they want it, and where it holds all of that already, nothing is left to do. A sign-up
    must not guess at an account's password more often than a log-in may; it has tries of its own, so that those who
    fail to log in to an account do not hold up the sign-up that made it.
    """
    if profile.username is None or profile.password is None:
        return None
    key = wiring.vault.digest("throttle.sign-up", str(claim.integration.id), profile.username.strip().casefold())
    wait = throttle.take(session, key, PER_ACCOUNT, now)
    session.commit()
    if wait:
        raise NotAsked("too many tries on this account", retry_after=wait)
    client = wiring.openfield(claim.integration)
    try:
        account = client.authenticate(profile.username, profile.password, deadline=ends_at - time.monotonic())
    except InvalidCredentials:
        return None
    except OpenfieldError:
        throttle.give_back(session, key, PER_ACCOUNT)
        session.commit()
        raise
    throttle.give_back(session, key, PER_ACCOUNT)
    session.commit()
    return account


def _later(now: datetime, started: float) -> datetime:
    return now + timedelta(seconds=time.monotonic() - started)


def _changes(before: Profile, after: Profile, asked: Collection[Variable]) -> dict[str, str | None]:
    """What the participant changed; None for what they emptied. A value left as it was shown is no change."""
    written = after.to_json()
    return {variable.value: written.get(variable.value) for variable in asked if before[variable] != after[variable]}


def _read_changes(data: Mapping[str, str | None]) -> dict[Variable, Value | None]:
    written = Profile.from_json({name: text for name, text in data.items() if text is not None})
    return {Variable(name): written[Variable(name)] for name in data}


def _participation(
    vault: Vault, campaign: Campaign, visit: Visit, profile: Profile, decisions: Iterable[Decision], now: datetime
) -> Participation:
    return Participation(
        journey_id=visit.journey_id,
        campaign_id=campaign.id,
        entrance=visit.entrance,
        language=campaign.language,
        taken_at=now,
        sealed_profile=vault.seal("participation.profile", replace(profile, password=None).to_json()),
        email_hash=vault.digest("email", profile.email.casefold()) if profile.email else None,
        consents=[
            Consent(
                campaign_id=campaign.id,
                variable=decision.variable,
                code=decision.code,
                wording=decision.wording,
                wording_hash=hashlib.sha256(decision.wording.encode()).hexdigest(),
                language=campaign.language,
                granted=decision.granted,
                decided_at=now,
            )
            for decision in decisions
        ],
    )


def _login_buckets(
    vault: Vault, campaign: Campaign, integration: Integration, username: str, address: str
) -> dict[str, tuple[bytes, Limit]]:
    return {
        "account": (_account(vault, integration, username), PER_ACCOUNT),
        "address": (vault.digest("throttle.address", _network(address)), PER_ADDRESS),
        "campaign": (vault.digest("throttle.campaign", str(campaign.id)), PER_CAMPAIGN),
    }


def _account(vault: Vault, integration: Integration, username: str) -> bytes:
    return vault.digest("throttle.account", str(integration.id), username.strip().casefold())


def _network(address: str) -> str:
    """What one subscriber has: an IPv4 address, or the /64 of an IPv6 address (RFC 6177)."""
    try:
        return str(ip_network(f"{address}/64", strict=False)) if ":" in address else address
    except ValueError:
        return address


def _give_back(session: Session, buckets: Mapping[str, tuple[bytes, Limit]]) -> None:
    for key, limit in buckets.values():
        throttle.give_back(session, key, limit)
    session.commit()


def _authenticate(client: OpenfieldClient, username: str, password: str, *, throttled: bool) -> Record:
    """Asks Openfield; on a throttled account for somebody who does not exist: a refusal then takes as long as any
    other, and the account is left alone."""
    if throttled:
        client.authenticate(new_handle(), new_handle(), deadline=LOGIN_DEADLINE)
        raise InvalidCredentials("too many tries on this account")
    return client.authenticate(username, password, deadline=LOGIN_DEADLINE)
