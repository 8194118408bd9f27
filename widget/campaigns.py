"""The marketer's verbs: find a campaign, whether it is open, what its form asks, which push rule applies to it.

Not here: what a valid setting is (`rules`), how settings come from a file (`settings_file`).
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import case, or_, select
from sqlalchemy.orm import Session

from widget import rules
from widget.models import Campaign, Integration, MasterForm, PushRule, Scope

SPECIFICITY = {Scope.DEFAULT: 0, Scope.WEBSITE: 1, Scope.MASTER_FORM: 2, Scope.CAMPAIGN: 3}
"""The rule with the higher number wins."""


class Opening(StrEnum):
    """Where a campaign stands at some time."""

    NOT_YET = "not_yet"
    OPEN = "open"
    CLOSED = "closed"


def find(session: Session, slug: str) -> Campaign | None:
    """The campaign that an address names, with its website and master form; `slug` may be anything at all."""
    if not rules.is_slug(slug):
        return None
    return session.scalar(select(Campaign).where(Campaign.slug == slug))


def opening(campaign: Campaign, now: datetime) -> Opening:
    """Whether people may take part at `now` (aware): from `opens_at` on, until just before `closes_at`."""
    if campaign.closes_at is not None and now >= campaign.closes_at:
        return Opening.CLOSED
    if campaign.opens_at is not None and now < campaign.opens_at:
        return Opening.NOT_YET
    return Opening.OPEN


def deciding_rule(session: Session, campaign: Campaign) -> PushRule | None:
    """The push rule that wins on `campaign`: the most specific one there is, whatever it says."""
    return session.scalar(
        select(PushRule)
        .where(
            or_(
                PushRule.scope == Scope.DEFAULT,
                PushRule.website_id == campaign.website_id,
                PushRule.master_form_id == campaign.master_form_id,
                PushRule.campaign_id == campaign.id,
            )
        )
        .order_by(case(SPECIFICITY, value=PushRule.scope).desc())
        .limit(1)
    )


def integration_for(session: Session, campaign: Campaign) -> Integration | None:
    """The integration that profiles of `campaign` go to, in one query; None where they go nowhere.

    A rule that says *none*, or whose integration is off, settles it: a wider rule does not step in.
    """
    rule = deciding_rule(session, campaign)
    if rule is None or rule.integration is None or not rule.integration.enabled:
        return None
    return rule.integration


def fields(master_form: MasterForm) -> tuple[rules.Field, ...]:
    """The form's fields, in order. They were checked when they were saved, and are not again."""
    return tuple(rules.Field.trusted(row) for row in master_form.fields)


def optins(master_form: MasterForm) -> tuple[rules.OptIn, ...]:
    """The form's opt-ins, in order, as `fields` gives its fields."""
    return tuple(rules.OptIn.trusted(row) for row in master_form.optins)
