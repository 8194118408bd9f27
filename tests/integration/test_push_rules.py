"""Which push rule wins on a campaign, whether it is open, and what its form asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from widget import campaigns, rules, settings_file
from widget.campaigns import Opening
from widget.models import Campaign, Integration, MasterForm, Scope
from widget.profile import Variable

SETTINGS = """
[[website]]
slug = "acme-news"
name = "Acme News"
language = "fr"

[[master_form]]
slug = "contest"
name = "Contest"
fields = [
  { variable = "email", mandatory = true, prefilled = "readonly" },
  { variable = "gender", label = { fr = "Vous êtes" }, choices = { H = { fr = "Homme" } } },
]
optins = [{ variable = "optin_newsletter", code = "Newsletter", wording = { fr = "…", nl = "…" } }]

[[campaign]]
slug = "summer"
name = "Summer contest"
website = "acme-news"
master_form = "contest"

[[website]]
slug = "other-site"
name = "Elsewhere"
language = "nl"

[[master_form]]
slug = "other-form"
name = "Another form"

[[campaign]]
slug = "winter"
name = "Winter contest"
website = "other-site"
master_form = "other-form"
"""

TARGETS = {Scope.DEFAULT: None, Scope.WEBSITE: "acme-news", Scope.MASTER_FORM: "contest", Scope.CAMPAIGN: "summer"}
OTHER_TARGETS = {Scope.WEBSITE: "other-site", Scope.MASTER_FORM: "other-form", Scope.CAMPAIGN: "winter"}
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def integration(name: str, enabled: bool = True) -> str:
    return f"""
[[integration]]
name = "{name}"
enabled = {str(enabled).lower()}
openfield_url = "https://openfield.acme.example/{name}"
id_tenant = "acme"
id_application = "campaigns"
forgot_password_url = "https://account.acme.example/reset"
"""


def push_rule(scope: Scope, target: str | None, name: str) -> str:
    """A rule, and the integration that it names."""
    line = f'target = "{target}"\n' if target else ""
    needed = "" if name == rules.NONE else integration(name)
    return f'{needed}\n[[push_rule]]\nscope = "{scope}"\n{line}integration = "{name}"\n'


def apply(session: Session, text: str) -> None:
    known = settings_file.stored(session)
    settings_file.apply(session, settings_file.parse(text, private_hosts=frozenset(), known=known))
    session.commit()


@pytest.fixture
def campaign(session: Session) -> Campaign:
    """Summer, with nothing set on it yet; winter shares nothing with it."""
    apply(session, SETTINGS)
    found = campaigns.find(session, "summer")
    assert found is not None
    return found


@contextmanager
def statements(session: Session) -> Iterator[list[str]]:
    """The SQL that is sent in the block."""
    sent: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        sent.append(statement)

    event.listen(session.get_bind(), "before_cursor_execute", note)
    yield sent
    event.remove(session.get_bind(), "before_cursor_execute", note)


# Rules -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("present", list(product((False, True), repeat=4)))
def test_the_most_specific_rule_wins(session: Session, campaign: Campaign, present: tuple[bool, ...]) -> None:
    """All sixteen combinations, beside rules for everything else that may not count."""
    scopes = [scope for scope, there in zip(Scope, present, strict=True) if there]
    of_summer = [push_rule(scope, TARGETS[scope], f"for-{scope}") for scope in scopes]
    of_winter = [push_rule(scope, target, f"other-{scope}") for scope, target in OTHER_TARGETS.items()]
    apply(session, "".join(reversed(of_summer)) + "".join(of_winter))

    rule = campaigns.deciding_rule(session, campaign)
    chosen = campaigns.integration_for(session, campaign)
    narrowest_first = [Scope.CAMPAIGN, Scope.MASTER_FORM, Scope.WEBSITE, Scope.DEFAULT]
    winner = next((scope for scope in narrowest_first if scope in scopes), None)
    assert (rule and rule.scope) == winner
    assert (chosen and chosen.name) == (winner and f"for-{winner}")


def test_none_switches_off_what_a_wider_rule_switches_on(session: Session, campaign: Campaign) -> None:
    apply(session, push_rule(Scope.DEFAULT, None, "acme") + push_rule(Scope.WEBSITE, "acme-news", "none"))
    rule = campaigns.deciding_rule(session, campaign)
    assert rule is not None
    assert rule.scope is Scope.WEBSITE
    assert campaigns.integration_for(session, campaign) is None


def test_a_rule_switches_on_what_a_wider_none_switches_off(session: Session, campaign: Campaign) -> None:
    apply(session, push_rule(Scope.DEFAULT, None, "none") + push_rule(Scope.CAMPAIGN, "summer", "acme"))
    chosen = campaigns.integration_for(session, campaign)
    assert chosen is not None
    assert chosen.name == "acme"


def test_an_integration_that_is_off_does_not_let_a_wider_rule_in(session: Session, campaign: Campaign) -> None:
    apply(session, push_rule(Scope.DEFAULT, None, "acme") + push_rule(Scope.CAMPAIGN, "summer", "beta"))
    apply(session, integration("beta", enabled=False))
    rule = campaigns.deciding_rule(session, campaign)
    assert rule is not None
    assert rule.integration is not None
    assert rule.integration.name == "beta"
    assert campaigns.integration_for(session, campaign) is None


def test_without_rules_a_campaign_pushes_nowhere(session: Session, campaign: Campaign) -> None:
    assert campaigns.deciding_rule(session, campaign) is None
    assert campaigns.integration_for(session, campaign) is None


def test_the_integration_takes_one_query(session: Session, campaign: Campaign) -> None:
    for scope, target in TARGETS.items():
        apply(session, push_rule(scope, target, "acme"))
    session.expunge_all()
    with statements(session) as sent:
        chosen = campaigns.integration_for(session, campaign)
        assert isinstance(chosen, Integration)
        assert chosen.id_tenant == "acme"
    assert len(sent) == 1


# Campaigns -------------------------------------------------------------------------------------------------------


def test_a_campaign_is_found_by_its_slug_with_its_website_and_form_in_one_query(
    session: Session, campaign: Campaign
) -> None:
    session.expunge_all()
    with statements(session) as sent:
        found = campaigns.find(session, "summer")
        assert found is not None
        assert (found.website.slug, found.master_form.slug) == ("acme-news", "contest")
    assert len(sent) == 1


@pytest.mark.parametrize("slug", ["autumn", "", "Summer", "summer\x00", "summer'--", "é", "a" * 10_000])
def test_what_names_no_campaign_finds_none(session: Session, campaign: Campaign, slug: str) -> None:
    assert campaigns.find(session, slug) is None


@pytest.mark.parametrize(
    ("opens_in", "closes_in", "opening"),
    [
        (None, None, Opening.OPEN),
        (0, None, Opening.OPEN),
        (1, None, Opening.NOT_YET),
        (None, 1, Opening.OPEN),
        (None, 0, Opening.CLOSED),
        (-1, 1, Opening.OPEN),
        (-2, -1, Opening.CLOSED),
        (1, 2, Opening.NOT_YET),
    ],
)
def test_a_campaign_is_open_from_its_opening_until_just_before_its_closing(
    opens_in: int | None, closes_in: int | None, opening: Opening
) -> None:
    campaign = Campaign(
        opens_at=None if opens_in is None else NOW + timedelta(microseconds=opens_in),
        closes_at=None if closes_in is None else NOW + timedelta(microseconds=closes_in),
    )
    assert campaigns.opening(campaign, NOW) is opening


# Forms -----------------------------------------------------------------------------------------------------------


def test_a_form_says_what_it_asks_as_it_was_set(session: Session, campaign: Campaign) -> None:
    email, gender = campaigns.fields(campaign.master_form)
    assert email == rules.Field(variable=Variable.EMAIL, mandatory=True, prefilled=rules.Prefilled.READONLY)
    assert gender == rules.Field(variable=Variable.GENDER, label={"fr": "Vous êtes"}, choices={"H": {"fr": "Homme"}})
    assert gender.variable is Variable.GENDER
    assert gender.prefilled is rules.Prefilled.EDITABLE
    (newsletter,) = campaigns.optins(campaign.master_form)
    assert newsletter == rules.OptIn(variable="optin_newsletter", code="Newsletter", wording={"fr": "…", "nl": "…"})


def test_a_form_that_was_set_under_older_rules_can_still_be_shown() -> None:
    old = MasterForm(fields=[{"variable": "email", "label": {"it": "Posta"}}], optins=[])
    assert campaigns.fields(old)[0].label == {"it": "Posta"}
