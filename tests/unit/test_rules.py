"""What a valid setting is, one rule at a time; the same rules in a file are test_settings_file's."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from widget import rules
from widget.models import Scope
from widget.profile import LANGUAGES, LOCKED, Variable
from widget.rules import Campaign, Field, Integration, MasterForm, OptIn, Prefilled, PushRule, Rule, Website

INTEGRATION = {
    "name": "acme",
    "enabled": True,
    "openfield_url": "https://openfield.acme.example/ws",
    "id_tenant": "acme",
    "id_application": "campaigns",
    "forgot_password_url": "https://account.acme.example/reset",
}
WEBSITE = {"slug": "acme-news", "name": "Acme News", "origins": ["https://news.acme.example"], "language": "fr"}
CAMPAIGN = {"slug": "summer", "name": "Summer contest", "website": "acme-news", "master_form": "contest"}
OPTIN = {"variable": "optin_newsletter", "code": "Newsletter", "wording": {"fr": "…", "en": "…"}}
OPENS_AT = datetime(2026, 6, 1, tzinfo=UTC)


def refusals(rule: type[Rule], data: Any, private_hosts: frozenset[str] = frozenset()) -> dict[str, str]:
    """Dotted place → reason."""
    with pytest.raises(pydantic.ValidationError) as refused:
        rule.model_validate(data, context={"private_hosts": private_hosts})
    return {".".join(map(str, where)): reason for where, reason in rules.reasons(refused.value, rule)}


def origin_refusal(origin: str) -> str:
    return refusals(Website, WEBSITE | {"origins": [origin]})["origins.0"]


# Origins ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    [
        "https://news.acme.example",
        "http://127.0.0.1:8000",
        "http://localhost:5001",
        "https://xn--bcher-kva.example",
        "https://my_shop.acme.example:8443",
        "http://news.acme.example:443",
    ],
)
def test_an_origin_as_browsers_send_it_is_taken(origin: str) -> None:
    assert Website.model_validate(WEBSITE | {"origins": [origin]}).origins == (origin,)


@pytest.mark.parametrize(
    ("origin", "instead"),
    [
        ("https://news.acme.example/", "write https://news.acme.example"),
        ("https://news.acme.example/contest", "write https://news.acme.example"),
        ("https://news.acme.example?", "write https://news.acme.example"),
        ("https://news.acme.example#top", "write https://news.acme.example"),
        ("https://News.Acme.example", "write https://news.acme.example"),
        ("HTTPS://news.acme.example:8443", "write https://news.acme.example:8443"),
        ("https://news.acme.example:08443", "write https://news.acme.example:8443"),
        ("https://news.acme.example:443", "write https://news.acme.example"),
        ("http://news.acme.example:80", "write http://news.acme.example"),
        ("https://news.acme.example:", "write https://news.acme.example"),
        (" https://news.acme.example", "write https://news.acme.example"),
        ("https://news.acme.\nexample", "write https://news.acme.example"),
    ],
)
def test_an_origin_with_more_or_less_is_refused_and_the_right_one_named(origin: str, instead: str) -> None:
    assert origin_refusal(origin).endswith(instead)


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        ("https://*.acme.example", "no wildcard"),
        ("*", "no wildcard"),
        ("ftp://news.acme.example", "https:// (or http://)"),
        ("news.acme.example", "https:// (or http://)"),
        ("null", "https:// (or http://)"),
        ("", "https:// (or http://)"),
        ("https://", "https:// (or http://)"),
        ("https://eve:secret@news.acme.example", "no user name"),
        ("https://@news.acme.example", "no user name"),
        ("https://bücher.example", "punycode"),
        ("https://[::1]:8000", "IPv6"),
        ("https://[::1", "cannot be read"),
        ("https://news.acme.example:port", "cannot be read"),
        ("https://news.acme.example:65536", "cannot be read"),
        ("https://127.1", "not a host"),
        ("https://010.0.0.1", "not a host"),
        ("https://0x7f", "not a host"),
        ("https://news..example", "not a host"),
        ("https://news.acme.example.", "not a host"),
        ("https://-news.example", "not a host"),
        ("https://news.acme.example;script-src", "not a host"),
        ("https://news.acme.example https://eve.example", "not a host"),
        ("https://" + "n" * 64 + ".example", "not a host"),
        ("https://" + ".".join(["news"] * 60), "not a host"),
    ],
)
def test_what_is_no_origin_is_refused_in_words(origin: str, said: str) -> None:
    assert said in origin_refusal(origin)


def test_an_origin_is_listed_once() -> None:
    twice = refusals(Website, WEBSITE | {"origins": ["https://a.example", "https://b.example", "https://a.example"]})
    assert twice == {"origins.2": '"https://a.example" is there already'}


@settings(deadline=None)
@given(st.text(max_size=40))
def test_whatever_follows_a_host_is_refused_unless_it_is_a_port(rest: str) -> None:
    try:
        taken = rules.check_origin(f"https://news.acme.example{rest}")
    except ValueError:
        return
    assert taken == f"https://news.acme.example{rest}"
    assert set(taken.removeprefix("https://")) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.:")


# Integrations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "https://account.acme.example/reset?from=contest#form",
        "http://localhost:5002/reset",
        "http://127.0.0.1/reset",
        "http://[::1]:5002/reset",
        "http://reset.internal/",
        "http://sso.internal:8080/reset",
    ],
)
def test_a_reset_page_is_https_or_near(url: str) -> None:
    hosts = {"private_hosts": frozenset({"reset.internal", "sso.internal:8080"})}
    assert Integration.model_validate(INTEGRATION | {"forgot_password_url": url}, context=hosts)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://account.acme.example/reset", "must start with https://"),
        ("http://sso.internal:8081/reset", "must start with https://"),
        ("http://127.0.0.1.eve.example/", "must start with https://"),
        ("javascript:alert(1)", "whole address"),
        ("/reset", "whole address"),
        ("//account.acme.example/reset", "whole address"),
        ("https:///reset", "whole address"),
        ("", "whole address"),
        ("https://eve@account.acme.example/reset", "user name"),
        ("https://account.acme.example\\@eve.example", "blanks"),
        ("https://account.acme.example/re set", "blanks"),
        ("https://account.acme.example/\x00", "blanks"),
        ("https://account.acme.example:port/", "cannot be read"),
    ],
)
def test_a_reset_page_elsewhere_is_refused(url: str, said: str) -> None:
    refused = refusals(Integration, INTEGRATION | {"forgot_password_url": url}, frozenset({"sso.internal:8080"}))
    assert said in refused["forgot_password_url"]


@pytest.mark.parametrize(
    "url", ["http://openfield.acme.example/ws", "https://10.0.0.1/ws", "https://eve:x@acme.example"]
)
def test_an_openfield_url_that_the_guard_refuses_is_refused(url: str) -> None:
    assert refusals(Integration, INTEGRATION | {"openfield_url": url}).keys() == {"openfield_url"}


def test_an_openfield_url_on_a_listed_host_is_taken() -> None:
    context = {"private_hosts": frozenset({"127.0.0.1:9000"})}
    assert Integration.model_validate(INTEGRATION | {"openfield_url": "http://127.0.0.1:9000/ws"}, context=context)


@pytest.mark.parametrize("name", ["none", "None", ""])
def test_no_integration_is_called_none(name: str) -> None:
    assert refusals(Integration, INTEGRATION | {"name": name}).keys() == {"name"}


def test_only_overrides_that_differ_from_the_defaults_are_kept() -> None:
    overrides = {
        "operations": {"authenticate": "Party/Authenticate", "create": "People/New"},
        "parameters": {"zipcode": "Party.Address.PostalCode", "email": "Party.Email"},
    }
    integration = Integration.model_validate(INTEGRATION | overrides)
    assert integration.operations == {"create": "People/New"}
    assert integration.parameters == {"zipcode": "Party.Address.PostalCode"}


def test_overrides_of_what_does_not_exist_are_refused() -> None:
    refused = refusals(Integration, INTEGRATION | {"operations": {"login": "x"}, "parameters": {"zip": "Party.Zip"}})
    assert "'login'" in refused["operations"]
    assert "'zip'" in refused["parameters"]


# Master forms ----------------------------------------------------------------------------------------------------


def test_a_field_is_optional_and_editable_unless_it_says_otherwise() -> None:
    field = Field.model_validate({"variable": "email"})
    assert (field.variable, field.mandatory, field.prefilled) == (Variable.EMAIL, False, Prefilled.EDITABLE)


def test_an_unknown_variable_is_refused_and_the_nearest_named() -> None:
    assert refusals(Field, {"variable": "emial"}) == {"variable": 'there is no value "emial": did you mean "email"?'}


def test_a_locked_field_words_its_values() -> None:
    field = Field.model_validate({"variable": "gender", "choices": {"H": {"fr": "Homme"}, "F": {"fr": "Femme"}}})
    assert field.choices == {"H": {"fr": "Homme"}, "F": {"fr": "Femme"}}


@pytest.mark.parametrize(
    "choices", [{"X": {"fr": "Autre"}}, {"h": {"fr": "Homme"}}, ["H", "F"], ["H", "F", "X"], "H", {"H": {}, "": {}}]
)
def test_a_locked_field_takes_no_other_values(choices: Any) -> None:
    assert refusals(Field, {"variable": "gender", "choices": choices})["choices"].startswith(
        "gender is locked to H and F"
    )


def test_a_value_of_a_locked_field_is_worded_or_left_out() -> None:
    refused = refusals(Field, {"variable": "gender", "choices": {"H": {}}})
    assert refused == {"choices.H": "is empty: give something, or leave it out"}


def test_civility_is_locked_to_its_own_values() -> None:
    refused = refusals(Field, {"variable": "civility", "choices": {"MLLE": {"fr": "Mademoiselle"}}})
    assert refused["choices"].startswith("civility is locked to M and MME")


@settings(deadline=None)
@given(st.sampled_from(sorted(LOCKED)), st.dictionaries(st.text(max_size=4), st.just({"fr": "…"}), min_size=1))
def test_no_choices_ever_widen_a_lock(variable: Variable, choices: dict[str, Any]) -> None:
    try:
        field = Field.model_validate({"variable": variable, "choices": choices})
    except pydantic.ValidationError:
        assert not choices.keys() <= set(LOCKED[variable])
    else:
        assert field.choices.keys() <= set(LOCKED[variable])


def test_choices_are_for_locked_fields_only() -> None:
    refused = refusals(Field, {"variable": "country", "choices": {"BEL": {"fr": "Belgique"}}})
    assert refused["choices"] == "country takes no choices: only gender and civility have them"


def test_words_are_in_languages_of_ours() -> None:
    refused = refusals(Field, {"variable": "email", "label": {"it": "Posta"}, "help": {"fr": " "}})
    assert refused == {
        "label.it": "is not a language of ours: write one of fr, nl, en, de",
        "help.fr": "write 1 to 20,000 characters, or leave it out",
    }


def test_an_optin_without_variable_or_code_is_refused() -> None:
    refused = refusals(OptIn, {"wording": {"fr": "…"}})
    assert refused["variable"] == 'is missing: give a variable, such as "optin_newsletter"'
    assert refused["code"].startswith("is missing: give the code of its SSO variable")


@pytest.mark.parametrize(
    "variable", ["newsletter", "optin_", "optin_News", "optin_news-letter", "email", "optin_é", ""]
)
def test_an_optins_variable_is_called_optin_something(variable: str) -> None:
    assert "optin_newsletter" in refusals(OptIn, OPTIN | {"variable": variable})["variable"]


@pytest.mark.parametrize(("key", "value"), [("code", ""), ("code", " "), ("wording", {}), ("wording", {"fr": ""})])
def test_an_optin_has_a_code_and_words(key: str, value: Any) -> None:
    assert next(iter(refusals(OptIn, OPTIN | {key: value}))).startswith(key)


def test_a_form_has_each_variable_and_code_once() -> None:
    form = {
        "slug": "contest",
        "name": "Contest",
        "fields": [{"variable": "email"}, {"variable": "password"}, {"variable": "email"}],
        "optins": [OPTIN, OPTIN | {"code": "Partners"}, OPTIN | {"variable": "optin_partners"}],
    }
    assert refusals(MasterForm, form) == {
        "fields.2.variable": '"email" is there already',
        "optins.1.variable": '"optin_newsletter" is there already',
        "optins.2.code": '"Newsletter" is there already',
    }


def test_a_form_lacks_the_languages_of_its_optins_and_legal_text() -> None:
    form = MasterForm.model_validate({"slug": "contest", "name": "Contest", "optins": [OPTIN], "legal": {"fr": "…"}})
    assert list(form.gaps("fr")) == []
    assert list(form.gaps("en")) == [("legal",)]
    assert list(form.gaps("de")) == [("optins", 0, "wording"), ("legal",)]


# Campaigns -------------------------------------------------------------------------------------------------------


def test_times_are_kept_in_utc() -> None:
    local = datetime(2026, 6, 1, tzinfo=timezone(timedelta(hours=2)))
    campaign = Campaign.model_validate(CAMPAIGN | {"opens_at": local})
    assert campaign.opens_at == local
    assert campaign.opens_at.tzinfo is UTC


@pytest.mark.parametrize("closes_at", [OPENS_AT, OPENS_AT - timedelta(seconds=1)])
def test_a_campaign_that_closes_before_it_opens_is_refused(closes_at: datetime) -> None:
    refused = refusals(Campaign, CAMPAIGN | {"opens_at": OPENS_AT, "closes_at": closes_at})
    assert refused == {"closes_at": "the campaign would close before it opens: write a time after opens_at"}


@pytest.mark.parametrize("moment", [datetime(2026, 6, 1), date(2026, 6, 1), "2026-06-01T00:00:00Z", 1780000000])  # noqa: DTZ001 - naive is the point
def test_a_time_has_an_offset(moment: Any) -> None:
    assert "offset" in refusals(Campaign, CAMPAIGN | {"opens_at": moment})["opens_at"]


@pytest.mark.parametrize("year", [1, 1999, 9999])
def test_a_time_is_one_that_can_be_reckoned_with(year: int) -> None:
    refused = refusals(
        Campaign, CAMPAIGN | {"opens_at": datetime(year, 12, 31, 23, tzinfo=timezone(timedelta(hours=-2)))}
    )
    assert refused == {"opens_at": "the year must be from 2000 to 8999"}


@pytest.mark.parametrize("slug", ["", "Summer", "summer contest", "été", "a" * 65, "a/b", "a\n"])
def test_a_slug_fits_an_address(slug: str) -> None:
    assert refusals(Campaign, CAMPAIGN | {"slug": slug})["slug"].startswith("a slug has 1 to 64 characters")


@pytest.mark.parametrize("name", ["", "  ", " a", "a ", "a" * 201, "a\nb", "a\x00", "a\u2028b"])
def test_a_name_is_one_bounded_line(name: str) -> None:
    assert (
        refusals(Campaign, CAMPAIGN | {"name": name})["name"]
        == "write 1 to 200 characters on one line, without blanks at its ends"
    )


def test_a_text_has_lines_but_no_control_characters() -> None:
    campaign = Campaign.model_validate(CAMPAIGN | {"texts": {"intro": "One\r\n\ttwo"}})
    assert campaign.texts.intro == "One\n\ttwo"
    assert "control character" in refusals(Campaign, CAMPAIGN | {"texts": {"intro": "a\x1b[2J"}})["texts.intro"]
    assert "20,000" in refusals(Campaign, CAMPAIGN | {"texts": {"thanks": "a" * 20_001}})["texts.thanks"]


# Push rules ------------------------------------------------------------------------------------------------------


def test_a_default_rule_has_no_target_and_every_other_has_one() -> None:
    assert PushRule.model_validate({"scope": "default", "integration": "none"}).scope is Scope.DEFAULT
    too_much = refusals(PushRule, {"scope": "default", "target": "summer", "integration": "none"})
    assert too_much["target"].startswith("a default rule is for all campaigns")
    too_little = refusals(PushRule, {"scope": "master_form", "integration": "none"})
    assert too_little == {"target": "is missing: give the slug of the master form that the rule is for"}


# All of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "data", "key"),
    [
        (Integration, INTEGRATION, "enabeld"),
        (Website, WEBSITE, "origin"),
        (Campaign, CAMPAIGN, "opens-at"),
        (OptIn, OPTIN, "words"),
    ],
)
def test_an_unknown_key_is_refused_and_the_nearest_named(rule: type[Rule], data: dict[str, Any], key: str) -> None:
    assert refusals(rule, data | {key: 1})[key].startswith(f'there is no key "{key}": ')


def test_a_long_list_of_names_is_cut() -> None:
    assert rules.unknown("website", "x", [f"site-{number:02}" for number in range(99)]).endswith("site-19")
    assert rules.unknown("website", "x", []) == 'there is no website "x": there is none yet'


def test_every_missing_key_says_what_to_give() -> None:
    for rule in (Integration, Website, MasterForm, Field, OptIn, Campaign, PushRule):
        for reason in refusals(rule, {}).values():
            assert reason.startswith("is missing: give ")
            assert "something" not in reason


@pytest.mark.parametrize("value", [None, 1, [], {}, True])
def test_near_misses_are_refused_in_our_own_words(value: Any) -> None:
    for rule, data in ((Website, WEBSITE), (Campaign, CAMPAIGN), (OptIn, OPTIN)):
        for key in ("name", "slug", "variable", "code", "language"):
            if key in data:
                assert refusals(rule, data | {key: value})[key] == "must be text, in quotes"
    assert refusals(Website, WEBSITE | {"origins": "https://a.example"})["origins"] == "must be a list, in [ ]"
    assert refusals(Integration, INTEGRATION | {"enabled": "yes"})["enabled"] == "must be true or false, without quotes"


def test_settings_do_not_change_once_they_are_made() -> None:
    with pytest.raises(pydantic.ValidationError):
        Website.model_validate(WEBSITE).slug = "eve"


@settings(deadline=None)
@given(
    st.builds(
        Field,
        variable=st.sampled_from(Variable),
        mandatory=st.booleans(),
        prefilled=st.sampled_from(Prefilled),
        label=st.dictionaries(st.sampled_from(LANGUAGES), st.sampled_from(["a", "Prénom"])),
    )
)
def test_what_is_kept_as_json_reads_the_same(field: Field) -> None:
    assert Field.trusted(field.to_json()) == field
