"""The participant's journey over HTTP, from the first screen to the record in Openfield."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from tests import factories
from tests.conftest import Host, Http, Sandbox
from tests.screens import Screen, visit
from widget import participation, visits
from widget.models import Bucket, Consent, Delivery, DeliveryState, Entrance, Participation, Visit
from widget.openfield.sandbox import PEOPLE
from widget.vault import Vault

Campaign = Callable[..., str]

ALICE = {"username": "alice", "password": "alice-likes-waffles"}

BOB = next({"username": "bob", "password": each.password or ""} for each in PEOPLE if each.username == "bob")
"""Whose record holds values that no form takes."""

NEWCOMER = {
    "email": "dora@example.org",
    "username": "dora",
    "password": " pâss wörd\t",
    "civility": "MME",
    "firstname": "Dora",
    "lastname": "Dubois",
    "gender": "F",
    "birthday": "1/8/2001",
    "country": "BEL",
}


def logged_in(http: Http, slug: str, **credentials: str) -> Screen:
    return visit(http, f"/c/{slug}").send("login", credentials or ALICE)


def signing_up(http: Http, slug: str) -> Screen:
    return visit(http, f"/c/{slug}").send("signup")


# Logging in


def test_log_in_comes_first_with_sign_up_and_reset_beside_it(http: Http, campaign: Campaign) -> None:
    screen = visit(http, f"/c/{campaign()}")
    assert screen.status == 200
    assert screen.step == "first"
    assert screen.headings[0] == "Summer contest"
    assert screen.names("login") == ["username", "password"]
    assert screen.offers("signup")
    reset = next(link for said, link in screen.links().items() if said.startswith("Forgotten"))
    assert reset.get("target") == "_blank"
    assert reset.get("rel") == "noopener noreferrer"


def test_alice_logs_in_and_finds_the_form_filled_in(http: Http, campaign: Campaign, sandbox: Sandbox) -> None:
    known = sandbox.party("alice")["Party"]
    form = logged_in(http, campaign())
    assert form.status == 200
    assert form.step == "form"
    fields = form.fields("submit")
    assert fields["firstname"] == known["FirstName"]
    assert fields["country"] == known["Address"]["CountryId"]
    assert fields["civility"] == known["Civility"]
    assert fields["birthday"].replace("/", "") == known["BirthDate"]
    assert "email" not in fields
    assert known["Email"] in form.text


def test_the_whole_record_goes_back_with_what_was_changed(http: Http, campaign: Campaign, sandbox: Sandbox) -> None:
    before = sandbox.party("alice")
    thanks = logged_in(http, campaign(language="nl")).send("submit", firstname="Alicia", optin_newsletter="y")
    assert thanks.step == "thanks"
    after = sandbox.party("alice")
    sent = sandbox.calls("Update")[-1]["request"]
    assert sent["Party"]["Version"] == before["Party"]["Version"]
    assert sent["Party"] == {**before["Party"], "FirstName": "Alicia", "LanguageId": "nl"}
    assert [service["ServiceId"] for service in sent["Services"]] == ["Newsletter"]
    assert after["Party"]["FirstName"] == "Alicia"
    assert after["Party"]["Version"] == before["Party"]["Version"] + 1


def test_without_a_ticked_box_no_service_is_sent(http: Http, campaign: Campaign, sandbox: Sandbox) -> None:
    logged_in(http, campaign()).send("submit")
    assert "Services" not in sandbox.calls("Update")[-1]["request"]


def test_an_emptied_field_is_gone_from_the_record(http: Http, campaign: Campaign, sandbox: Sandbox) -> None:
    assert logged_in(http, campaign()).send("submit", locality="").step == "thanks"
    assert "City" not in sandbox.party("alice")["Party"]["Address"]


def test_what_does_not_fit_its_field_does_not_prefill(http: Http, campaign: Campaign, sandbox: Sandbox) -> None:
    fields = logged_in(http, campaign(), **BOB).fields("submit")
    assert "gender" not in fields
    assert "civility" not in fields
    assert fields["birthday"] == ""
    assert fields["country"] == ""


def test_nothing_but_the_locked_values_leaves_though_others_were_read(
    http: Http, campaign: Campaign, sandbox: Sandbox
) -> None:
    form = logged_in(http, campaign(), **BOB)
    thanks = form.send("submit", civility="M", firstname="Bob", lastname="B", country="BEL", birthday="31/12/1990")
    assert thanks.step == "thanks"
    sent = sandbox.calls("Update")[-1]["request"]["Party"]
    assert "Gender" not in sent
    assert sent["Civility"] == "M"


@pytest.mark.parametrize("prefilled", ["readonly", "hidden"])
def test_eve_cannot_change_what_is_read_only_or_hidden(
    http: Http, campaign: Campaign, sandbox: Sandbox, prefilled: str
) -> None:
    variables = ["email", "firstname", "country", "gender", "civility", "birthday", "locality", "username"]
    fields = [{"variable": each, "mandatory": True, "prefilled": prefilled} for each in variables]
    slug = campaign(kinds={"master_form": [{"slug": "contest", "name": "Contest", "fields": fields}]})
    before = sandbox.party("alice")["Party"]
    tampered = {
        "email": "eve@example.org", "firstname": "Eve", "country": "FRA", "gender": "H", "civility": "M",
        "birthday": "1/1/1999", "locality": "Paris", "username": "eve", "password": "eve", "lastname": "Eve",
        "address": "Evil street 1", "Party.Version": "99", "PartyId": "1",
    }  # fmt: skip
    form = logged_in(http, slug)
    assert form.names("submit") == ["handle"]
    assert form.send("submit", tampered).step == "thanks"
    assert sandbox.calls("Update")[-1]["request"]["Party"] == {**before, "LanguageId": "en"}


def test_a_hidden_value_is_nowhere_in_the_page(http: Http, campaign: Campaign, sandbox: Sandbox) -> None:
    fields = [{"variable": "locality", "prefilled": "hidden"}, {"variable": "lastname"}]
    slug = campaign(kinds={"master_form": [{"slug": "contest", "name": "Contest", "fields": fields}]})
    assert sandbox.party("alice")["Party"]["Address"]["City"] not in logged_in(http, slug).html


@pytest.mark.parametrize("value", ["h", "X", "", ["H", "F"], "H "])
def test_a_locked_field_refuses_a_tampered_post(
    http: Http, campaign: Campaign, sandbox: Sandbox, value: str | list[str]
) -> None:
    again = logged_in(http, campaign()).send("submit", gender=value)
    assert again.status == 422
    assert "gender" in again.errors
    assert sandbox.calls("Update") == []


def test_a_wrong_password_is_said_in_plain_words_and_the_user_name_stays(http: Http, campaign: Campaign) -> None:
    screen = logged_in(http, campaign(), username="alice", password="canary-guess")
    assert screen.status == 422
    assert screen.step == "first"
    assert "You are not logged in" in screen.headings
    assert screen.fields("login") == {"username": "alice", "password": ""}
    assert "canary-guess" not in screen.html


def test_an_unknown_user_is_told_the_same_as_a_wrong_password(http: Http, campaign: Campaign) -> None:
    slug = campaign()
    wrong = logged_in(http, slug, username="alice", password="wrong")
    unknown = logged_in(http, slug, username="nobody", password="wrong")
    assert (wrong.status, wrong.text) == (unknown.status, unknown.text)


def test_a_locked_account_is_told_what_to_do(http: Http, campaign: Campaign, sandbox: Sandbox) -> None:
    sandbox.lock("alice")
    screen = logged_in(http, campaign())
    assert "Your account is locked" in screen.headings
    assert screen.status == 422


def test_an_account_that_is_tried_too_often_looks_like_a_wrong_password_and_is_left_alone(
    http: Http, campaign: Campaign, sandbox: Sandbox
) -> None:
    slug = campaign()
    for _ in range(8):
        wrong = logged_in(http, slug, username="alice", password="wrong")
    before = len(sandbox.calls("Authenticate"))
    throttled = logged_in(http, slug)
    assert (throttled.status, throttled.text) == (wrong.status, wrong.text)
    asked = sandbox.calls("Authenticate")[before:]
    assert len(asked) == 1
    assert asked[0]["request"]["Login"]["Username"] != "alice"


def test_an_account_is_throttled_across_campaigns(http: Http, campaign: Campaign, sandbox: Sandbox) -> None:
    slugs = [campaign(slug=f"summer-{number}") for number in range(3)]
    for number in range(12):
        logged_in(http, slugs[number % 3], username="alice", password="wrong")
    tried = [call["request"]["Login"]["Username"] for call in sandbox.calls("Authenticate")]
    assert tried.count("alice") == 8


def test_too_many_failures_from_one_address_are_told_how_long_to_wait(
    http: Http, campaign: Campaign, session: Session
) -> None:
    slug = campaign()
    logged_in(http, slug, username="alice", password="wrong")
    session.execute(update(Bucket).values(tokens=0.0))
    session.commit()
    screen = logged_in(http, slug)
    assert screen.status == 429
    assert int(screen.headers["Retry-After"]) > 0
    assert "Too many tries" in screen.headings
    assert "Wait 1 minute," in screen.text


def test_successful_logins_are_not_counted(http: Http, campaign: Campaign) -> None:
    slug = campaign()
    assert {logged_in(http, slug).step for _ in range(12)} == {"form"}


@pytest.mark.parametrize(
    "fault",
    [{"kind": "status", "status": 500}, {"kind": "reset"}, {"kind": "garbage"}, {"kind": "unknown_tenant"},
     {"kind": "truncated"}, {"kind": "wrong_types"}, {"kind": "status", "status": 503, "retry_after": 120}],
)  # fmt: skip
def test_a_failing_openfield_at_log_in_is_said_in_plain_words(
    http: Http, campaign: Campaign, sandbox: Sandbox, fault: dict[str, Any]
) -> None:
    sandbox.fault(**fault)
    screen = logged_in(http, campaign())
    assert screen.status == 503
    assert "Logging in does not work right now" in screen.headings
    assert screen.fields("login")["username"] == "alice"
    sandbox.clear_faults()
    assert screen.send("login", password=ALICE["password"]).step == "form"


def test_log_ins_that_openfield_could_not_answer_are_not_counted(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session
) -> None:
    slug = campaign()
    sandbox.fault("status", "Authenticate", status=500, times=None)
    assert {logged_in(http, slug).status for _ in range(12)} == {503}
    limits = (participation.PER_ACCOUNT, participation.PER_ADDRESS, participation.PER_CAMPAIGN)
    assert set(session.scalars(select(Bucket.tokens))) == {limit.burst for limit in limits}


# Signing up


def test_a_newcomer_signs_up_and_the_profile_is_created(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, vault: Vault
) -> None:
    form = signing_up(http, campaign(language="fr"))
    assert form.names("submit")[:5] == ["handle", "edition", "email", "username", "password"]
    assert len([name for name in form.names("submit") if name == "email"]) == 1
    assert form.send("submit", NEWCOMER, optin_partners="y").step == "thanks"
    (call,) = sandbox.calls("Create")
    assert call["status"] == 201
    party = call["request"]["Party"]
    assert party["PartyType"] == "Person"
    assert party["Version"] == 1
    assert party["LanguageId"] == "fr"
    assert party["Gender"] == "F"
    assert party["Civility"] == "MME"
    assert party["BirthDate"] == "01082001"
    assert party["Address"] == {"CountryId": "BEL"}
    (service,) = call["request"]["Services"]
    assert (service["ServiceId"], service["ServiceStatus"], service["ServiceTypeId"]) == ("Partners", True, "OPTINS")
    (delivery,) = session.scalars(select(Delivery))
    assert delivery.state is DeliveryState.DELIVERED
    assert delivery.sealed_payload is None
    kept = vault.open("participation.profile", delivery.participation.sealed_profile)
    assert kept["firstname"] == "Dora"
    assert "password" not in kept


def test_the_password_reaches_openfield_byte_for_byte(http: Http, campaign: Campaign, sandbox: Sandbox) -> None:
    slug = campaign()
    signing_up(http, slug).send("submit", NEWCOMER)
    assert logged_in(http, slug, username="dora", password=NEWCOMER["password"]).step == "form"
    assert logged_in(http, slug, username="dora", password=NEWCOMER["password"].strip()).step == "first"


def test_nothing_is_created_before_the_form_is_sent(http: Http, campaign: Campaign, sandbox: Sandbox) -> None:
    form = signing_up(http, campaign())
    assert form.send("submit", {**NEWCOMER, "email": "nonsense", "country": ""}).status == 422
    assert sandbox.calls() == []


def test_a_mistake_is_said_at_its_field_and_nothing_typed_is_lost_but_the_password(
    http: Http, campaign: Campaign
) -> None:
    again = signing_up(http, campaign()).send("submit", {**NEWCOMER, "birthday": "31/2/2001", "firstname": ""})
    assert again.status == 422
    assert set(again.errors) == {"birthday", "firstname"}
    assert again.title.startswith("Error:")
    fields = again.fields("submit")
    assert fields["birthday"] == "31/2/2001"
    assert fields["email"] == NEWCOMER["email"]
    assert fields["country"] == "BEL"
    assert fields["civility"] == "MME"
    assert fields["password"] == ""
    assert again.send("submit", birthday="28/2/2001", firstname="Dora", password="secret").step == "thanks"


def test_what_is_kept_for_the_log_in_holds_no_password(
    http: Http, campaign: Campaign, session: Session, vault: Vault
) -> None:
    again = signing_up(http, campaign()).send("submit", {**NEWCOMER, **ALICE})
    (campaign_id,) = session.scalars(select(Visit.campaign_id).distinct())
    typed = visits.typed_before(vault, campaign_id, again.fields("login")["typed"])
    assert typed is not None
    assert typed["lastname"] == NEWCOMER["lastname"]
    assert "password" not in typed


@pytest.mark.parametrize(
    ("taken", "field"), [({"username": "alice"}, "username"), ({"email": "ALICE@example.org"}, "email")]
)
def test_an_existing_account_brings_the_form_back_names_the_field_and_offers_log_in_and_reset(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, taken: dict[str, str], field: str
) -> None:
    again = signing_up(http, campaign()).send("submit", {**NEWCOMER, **taken}, optin_newsletter="y")
    assert again.status == 422
    assert set(again.errors) == {field}
    assert {"username": "user name", "email": "e-mail address"}[field] in again.errors[field]
    heading = {"username": "This user name is taken", "email": "You have an account already"}[field]
    assert heading in again.headings
    fields = again.fields("submit")
    assert fields["password"] == ""
    assert fields["lastname"] == NEWCOMER["lastname"]
    assert fields["optin_newsletter"] == "y"
    assert any(said.startswith("Reset the password") for said in again.links())
    assert session.scalars(select(Participation)).all() == []
    assert session.scalars(select(Delivery)).all() == []

    login = again.send("login")
    assert login.step == "first"
    form = login.send("login", ALICE)
    assert form.step == "form"
    assert form.fields("submit")["lastname"] == NEWCOMER["lastname"]
    assert form.send("submit").step == "thanks"
    assert sandbox.party("alice")["Party"]["LastName"] == NEWCOMER["lastname"]
    assert sandbox.party("alice")["Party"]["Email"] == "alice@example.org"


def test_a_field_that_openfield_refuses_is_named(http: Http, campaign: Campaign, sandbox: Sandbox) -> None:
    elsewhere = {"lastname": "Party.BirthDate", "birthday": "Party.Born"}
    acme = [factories.integration(sandbox.url, parameters=elsewhere)]
    again = signing_up(http, campaign(kinds={"integration": acme})).send("submit", NEWCOMER)
    assert again.status == 422
    assert set(again.errors) == {"lastname"}
    assert again.fields("submit")["lastname"] == NEWCOMER["lastname"]


def test_who_signs_up_with_the_very_credentials_of_an_account_is_told_that_it_exists(
    http: Http, campaign: Campaign, sandbox: Sandbox
) -> None:
    again = signing_up(http, campaign()).send("submit", {**NEWCOMER, **ALICE})
    assert set(again.errors) == {"username"}
    assert sandbox.calls("Authenticate") == []


# No push rule


def test_without_a_push_rule_the_form_alone_is_shown_and_the_participation_is_kept(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, vault: Vault
) -> None:
    form = visit(http, f"/c/{campaign(kinds={'push_rule': []})}")
    assert form.step == "form"
    assert not form.offers("login")
    assert "password" not in form.names("submit")
    assert form.send("submit", NEWCOMER).step == "thanks"
    (kept,) = session.scalars(select(Participation))
    assert kept.entrance is Entrance.OPEN
    profile = vault.open("participation.profile", kept.sealed_profile)
    assert profile["email"] == NEWCOMER["email"]
    assert "password" not in profile
    assert session.scalars(select(Delivery)).all() == []
    assert sandbox.calls() == []


def test_a_double_click_on_the_form_alone_is_one_participation(
    http: Http, campaign: Campaign, session: Session
) -> None:
    form = visit(http, f"/c/{campaign(kinds={'push_rule': []})}")
    assert form.send("submit", NEWCOMER).html == form.send("submit", NEWCOMER).html
    assert len(session.scalars(select(Participation)).all()) == 1


def test_a_mistake_on_the_form_alone_can_be_put_right(http: Http, campaign: Campaign) -> None:
    again = visit(http, f"/c/{campaign(kinds={'push_rule': []})}").send("submit", {**NEWCOMER, "email": ""})
    assert set(again.errors) == {"email"}
    assert again.send("submit", email=NEWCOMER["email"]).step == "thanks"


# Consent


def test_consent_is_kept_word_for_word_with_language_time_and_hash(
    http: Http, campaign: Campaign, session: Session
) -> None:
    logged_in(http, campaign(language="fr")).send("submit", optin_newsletter="y")
    consents = {each.variable: each for each in session.scalars(select(Consent))}
    assert consents["optin_newsletter"].granted
    assert not consents["optin_partners"].granted
    given = consents["optin_newsletter"]
    assert given.wording == "Je souhaite recevoir la lettre d'information."
    assert len(given.wording_hash) == 64
    assert given.language == "fr"
    assert given.code == "Newsletter"
    assert abs(given.decided_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_wording_that_changed_meanwhile_is_put_to_the_participant_again(
    http: Http, campaign: Campaign, session: Session
) -> None:
    form = signing_up(http, campaign())
    reworded = {**factories.OPTINS[0], "wording": {"en": "You may call me every night."}}
    campaign(kinds={"master_form": [
        {"slug": "contest", "name": "Contest", "fields": factories.FIELDS, "optins": [reworded]}]})  # fmt: skip
    again = form.send("submit", NEWCOMER, optin_newsletter="y")
    assert again.status == 422
    assert "The wording beside a box has changed" in again.headings
    assert "optin_newsletter" not in again.fields("submit")
    assert again.fields("submit")["firstname"] == "Dora"
    assert session.scalars(select(Participation)).all() == []
    assert again.send("submit", password="secret").step == "thanks"
    assert [consent.granted for consent in session.scalars(select(Consent))] == [False]


def test_a_mandatory_box_must_be_ticked(http: Http, campaign: Campaign) -> None:
    optin = {**factories.OPTINS[0], "mandatory": True}
    form = [{"slug": "contest", "name": "Contest", "fields": factories.FIELDS, "optins": [optin]}]
    again = logged_in(http, campaign(kinds={"master_form": form})).send("submit")
    assert again.errors == {"optin_newsletter": "Tick this box to take part."}
    assert again.send("submit", optin_newsletter="y").step == "thanks"


def test_boxes_are_never_ticked_beforehand(http: Http, campaign: Campaign) -> None:
    fields = logged_in(http, campaign()).fields("submit")
    assert not any(name.startswith("optin") for name in fields)


# When Openfield is away at the end


@pytest.mark.parametrize(
    "fault",
    [{"kind": "status", "status": 503}, {"kind": "reset"}, {"kind": "garbage"}, {"kind": "unknown_tenant"}],
)
def test_who_sends_while_openfield_is_away_is_thanked_and_the_delivery_waits(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, fault: dict[str, Any]
) -> None:
    form = signing_up(http, campaign())
    sandbox.fault(**fault)
    assert form.send("submit", NEWCOMER).step == "thanks"
    (delivery,) = session.scalars(select(Delivery))
    assert delivery.state is DeliveryState.WAITING
    assert delivery.attempts == 1
    assert delivery.reason
    assert delivery.sealed_payload is not None
    assert NEWCOMER["password"].encode() not in delivery.sealed_payload


# Twice, late, elsewhere


def test_the_same_post_again_gets_the_same_answer_and_happens_once(
    http: Http, campaign: Campaign, sandbox: Sandbox
) -> None:
    form = signing_up(http, campaign())
    assert form.send("submit", NEWCOMER).html == form.send("submit", NEWCOMER).html
    assert len(sandbox.calls("Create")) == 1


def test_what_a_process_did_before_it_died_is_answered_and_not_done_again(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session
) -> None:
    form = signing_up(http, campaign())
    form.send("submit", NEWCOMER)
    session.execute(update(Visit).values(sealed_answer=None, used_at=datetime.now(UTC) - timedelta(seconds=31)))
    session.commit()
    assert form.send("submit", NEWCOMER).step == "thanks"
    assert len(session.scalars(select(Participation)).all()) == 1
    assert len(sandbox.calls("Create")) == 1


def test_a_process_that_died_while_refusing_thanks_nobody(http: Http, campaign: Campaign, session: Session) -> None:
    form = signing_up(http, campaign())
    form.send("submit", NEWCOMER)
    session.execute(update(Visit).values(sealed_answer=None, used_at=datetime.now(UTC) - timedelta(seconds=31)))
    session.execute(update(Delivery).values(state=DeliveryState.BURIED))
    session.commit()
    again = form.send("submit", {**NEWCOMER})
    assert again.status == 422
    assert "You have an account already" in again.headings


def test_a_post_that_crashed_is_worked_on_anew_when_it_comes_again(
    http: Http, campaign: Campaign, session: Session, sandbox: Sandbox
) -> None:
    form = signing_up(http, campaign())
    session.execute(text("ALTER TABLE participation RENAME TO elsewhere"))
    session.commit()
    crashed = form.send("submit", NEWCOMER)
    session.execute(text("ALTER TABLE elsewhere RENAME TO participation"))
    session.commit()
    assert crashed.status == 500
    assert form.send("submit", NEWCOMER).step == "thanks"
    assert len(sandbox.calls("Create")) == 1


def test_a_form_with_mistakes_that_is_sent_twice_comes_back_the_same(http: Http, campaign: Campaign) -> None:
    form = signing_up(http, campaign())
    first, second = form.send("submit", email="x"), form.send("submit", email="x")
    assert first.html == second.html
    assert first.fields("submit")["handle"] != form.fields("submit")["handle"]


def test_after_the_end_an_old_page_with_other_answers_is_told_that_it_is_done(
    http: Http, campaign: Campaign, sandbox: Sandbox
) -> None:
    form = signing_up(http, campaign())
    form.send("submit", NEWCOMER)
    late = form.send("submit", {**NEWCOMER, "firstname": "Other"})
    assert late.status == 409
    assert "You have taken part already" in late.headings
    assert late.links()
    assert len(sandbox.calls("Create")) == 1


def test_an_old_page_sent_with_other_answers_keeps_them_and_offers_a_way_on(http: Http, campaign: Campaign) -> None:
    form = signing_up(http, campaign())
    form.send("submit", {**NEWCOMER, "email": "wrong"})
    late = form.send("submit", {**NEWCOMER, "firstname": "Dorothea"})
    assert late.status == 409
    assert late.fields("submit")["firstname"] == "Dorothea"
    assert late.send("submit", password="secret").step == "thanks"


def test_an_expired_sign_up_goes_straight_on_with_what_was_typed(
    http: Http, campaign: Campaign, session: Session
) -> None:
    form = signing_up(http, campaign())
    expire(session)
    late = form.send("submit", NEWCOMER)
    assert late.status == 422
    assert late.fields("submit")["firstname"] == "Dora"
    assert late.fields("submit")["password"] == ""
    assert late.send("submit", password="secret").step == "thanks"


def test_an_expired_log_in_is_asked_again_and_what_was_typed_is_kept(
    http: Http, campaign: Campaign, session: Session, sandbox: Sandbox
) -> None:
    form = logged_in(http, campaign())
    expire(session)
    late = form.send("submit", firstname="Alicia", locality="")
    assert late.step == "first"
    assert "Alicia" not in late.html
    again = late.send("login", username="alice", password="wrong").send("login", ALICE)
    assert again.fields("submit")["firstname"] == "Alicia"
    assert again.fields("submit")["locality"] == ""
    assert again.send("submit").step == "thanks"
    assert sandbox.party("alice")["Party"]["FirstName"] == "Alicia"


def expire(session: Session) -> None:
    session.execute(update(Visit).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))
    session.commit()


def test_a_journey_ends_after_two_hours_however_often_it_was_renewed(
    http: Http, campaign: Campaign, session: Session
) -> None:
    form = signing_up(http, campaign())
    session.execute(update(Visit).values(began_at=datetime.now(UTC) - timedelta(hours=1, minutes=59, seconds=59)))
    session.commit()
    form.send("submit", email="x")
    newest = session.scalars(select(Visit).order_by(Visit.used_at.nulls_first())).first()
    assert newest is not None
    assert newest.expires_at <= datetime.now(UTC) + timedelta(seconds=2)


@pytest.mark.parametrize("handle", ["", "x", "Ω" * 50, "a" * 43, "\x00"])
def test_a_handle_that_nobody_gave_is_as_good_as_none(http: Http, campaign: Campaign, handle: str) -> None:
    slug = campaign()
    response = http.post(f"/c/{slug}/submit", data={**NEWCOMER, "handle": handle})
    screen = Screen(http, response)
    assert screen.step == "first"
    assert screen.send("signup").fields("submit")["firstname"] == "Dora"


def test_a_handle_is_good_for_its_campaign_only(http: Http, campaign: Campaign, sandbox: Sandbox) -> None:
    handle = signing_up(http, campaign(slug="one")).fields("submit")["handle"]
    campaign(slug="two")
    screen = Screen(http, http.post("/c/two/submit", data={**NEWCOMER, "handle": handle}))
    assert screen.step == "first"
    assert sandbox.calls() == []


def test_a_handle_is_in_no_address_and_only_hashed_in_the_database(
    http: Http, campaign: Campaign, session: Session
) -> None:
    form = signing_up(http, campaign())
    handle = form.fields("submit")["handle"]
    assert len(handle) == 43
    assert handle not in form.url
    (row,) = session.scalars(select(Visit))
    assert handle.encode() not in b"".join(value for value in vars(row).values() if isinstance(value, bytes))


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "none"},
     {"Sec-Fetch-Site": None}, {"Sec-Fetch-Site": None, "Origin": "null"},
     {"Sec-Fetch-Site": None, "Origin": "https://eve.example"}],
)  # fmt: skip
@pytest.mark.parametrize("action", ["login", "signup", "submit"])
def test_a_post_from_elsewhere_is_refused_with_a_way_on(
    http: Http, campaign: Campaign, sandbox: Sandbox, headers: dict[str, str | None], action: str
) -> None:
    response = http.post(f"/c/{campaign()}/{action}", data=ALICE, headers=headers)
    screen = Screen(http, response)
    assert screen.status == 403
    assert "This did not come from our page" in screen.headings
    assert screen.links()
    assert sandbox.calls() == []


def test_a_browser_without_fetch_metadata_is_known_by_its_origin(http: Http, campaign: Campaign) -> None:
    headers = {"Sec-Fetch-Site": None, "Origin": http.get("/healthz").url.removesuffix("/healthz")}
    response = http.post(f"/c/{campaign()}/login", data=ALICE, headers=headers)
    assert Screen(http, response).step == "form"


# Not open, not there


def test_a_campaign_that_has_not_begun_says_when_it_does(http: Http, campaign: Campaign) -> None:
    screen = visit(http, f"/c/{campaign(opens_at=datetime.now(UTC) + timedelta(days=3))}")
    assert screen.step == "notice"
    assert "This campaign has not begun yet" in screen.headings


def test_a_campaign_that_is_over_says_so_and_takes_nothing(
    http: Http, campaign: Campaign, session: Session, sandbox: Sandbox
) -> None:
    form = signing_up(http, campaign())
    campaign(closes_at=datetime.now(UTC) - timedelta(seconds=1))
    assert "This campaign is over" in visit(http, "/c/summer").headings
    late = form.send("submit", NEWCOMER)
    assert late.status == 410
    assert "This campaign is over" in late.headings
    assert sandbox.calls() == []


@pytest.mark.parametrize("slug", ["nothing", "%00", "Ω", "a" * 300, "..%2f"])
def test_an_unknown_campaign_is_told_kindly(http: Http, campaign: Campaign, slug: str) -> None:
    campaign()
    screen = visit(http, f"/c/{slug}")
    assert screen.status == 404
    assert screen.step == "notice"


def test_a_posts_address_leads_back_to_the_start(http: Http, campaign: Campaign) -> None:
    slug = campaign()
    for action in ("login", "signup", "submit"):
        assert visit(http, f"/c/{slug}/{action}").step == "first"


# Reset


def test_the_reset_page_is_the_configured_one_whole_with_nothing_appended(
    http: Http, campaign: Campaign, sandbox: Sandbox
) -> None:
    response = http.get(f"/c/{campaign()}/forgot-password?username=alice&next=//eve.example", allow_redirects=False)
    assert response.status_code == 302
    assert response.headers["Location"] == f"{sandbox.url}/reset-password"


# What every page is like


def test_the_first_screen_is_the_same_for_everybody_and_may_be_cached_for_a_minute(
    http: Http, campaign: Campaign
) -> None:
    slug = campaign()
    one = http.get(f"/c/{slug}")
    two = http.get(f"/c/{slug}?utm_source=x", headers={"Accept-Language": "de", "Cookie": "a=b"})
    assert one.content == two.content
    assert one.headers["Cache-Control"] == "public, max-age=60"
    again = http.get(f"/c/{slug}", headers={"If-None-Match": one.headers["ETag"]})
    assert again.status_code == 304


def test_the_first_screen_is_cached_no_longer_than_it_is_true(http: Http, campaign: Campaign) -> None:
    response = http.get(f"/c/{campaign(closes_at=datetime.now(UTC) + timedelta(seconds=20))}")
    assert int(response.headers["Cache-Control"].removeprefix("public, max-age=")) <= 20


def test_no_cookie_is_ever_set(http: Http, campaign: Campaign) -> None:
    logged_in(http, campaign()).send("submit")
    assert not http.cookies


@pytest.mark.parametrize(
    ("language", "button"), [("fr", "Participer"), ("nl", "Meedoen"), ("en", "Take part"), ("de", "Teilnehmen")]
)
def test_the_campaigns_language_decides_not_the_browsers(
    http: Http, campaign: Campaign, language: str, button: str
) -> None:
    http.headers["Accept-Language"] = "it"
    form = logged_in(http, campaign(language=language))
    assert f'<html lang="{language}"' in form.html
    assert button in form.html


def test_openfield_off_shows_the_form_alone(http: Http, campaign: Campaign, host: Host, sandbox: Sandbox) -> None:
    off = [factories.integration(sandbox.url, enabled=False)]
    assert visit(http, f"/c/{campaign(kinds={'integration': off})}").step == "form"
