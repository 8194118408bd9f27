"""Settings from TOML into the database and back: again and again, to the same end."""

from __future__ import annotations

import threading
import tomllib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
import tomlkit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, func, select, text
from sqlalchemy.orm import Session

from widget import settings_file
from widget.models import Campaign, Integration, MasterForm, PushRule, Scope, Website
from widget.profile import LANGUAGES, LOCKED, Variable
from widget.settings_file import SettingsFile, Tally, WrongFile

EXAMPLE = """\
[[integration]]
name = "acme"
enabled = true
openfield_url = "https://openfield.acme.example/ws"
id_tenant = "acme"
id_application = "campaigns"
forgot_password_url = "https://account.acme.example/reset"

[integration.parameters]
zipcode = "Party.Address.PostalCode"

[[website]]
slug = "acme-news"
name = "Acme News"
origins = ["https://news.acme.example"]
language = "fr"

[[master_form]]
slug = "contest"
name = "Contest"
fields = [
  {variable = "email", mandatory = true, prefilled = "readonly"},
  {variable = "civility", mandatory = true, prefilled = "editable", choices = {M = {fr = "Monsieur"}}},
  {variable = "birthday", mandatory = false, prefilled = "hidden"},
]
optins = [
  {variable = "optin_newsletter", code = "Newsletter", mandatory = false, wording = {fr = "…", en = "…"}},
]

[master_form.legal]
fr = \"\"\"
First line
"second" \\\\ line\"\"\"

[[campaign]]
slug = "summer"
name = "Summer contest"
website = "acme-news"
master_form = "contest"
language = "fr"
opens_at = 2026-05-31T22:00:00Z

[campaign.texts]
thanks = "Merci !"

[[push_rule]]
scope = "default"
integration = "none"

[[push_rule]]
scope = "website"
target = "acme-news"
integration = "acme"
"""
"""As `export` writes it."""

CREATED = {
    "integration": Tally(created=1),
    "website": Tally(created=1),
    "master_form": Tally(created=1),
    "campaign": Tally(created=1),
    "push_rule": Tally(created=2),
}


def apply(session: Session, toml: str) -> Mapping[str, Tally]:
    known = settings_file.stored(session)
    return settings_file.apply(session, settings_file.parse(toml, private_hosts=frozenset(), known=known))


def unchanged(tallies: Mapping[str, Tally]) -> bool:
    return all(tally == Tally(unchanged=tally.unchanged) for tally in tallies.values())


# In --------------------------------------------------------------------------------------------------------------


def test_a_file_is_applied(session: Session) -> None:
    assert apply(session, EXAMPLE) == CREATED
    session.commit()
    session.expunge_all()
    campaign = session.scalars(select(Campaign)).one()
    assert (campaign.slug, campaign.language, campaign.texts) == ("summer", "fr", {"thanks": "Merci !"})
    assert (campaign.website.origins, campaign.master_form.slug) == (["https://news.acme.example"], "contest")
    assert (campaign.opens_at, campaign.closes_at) == (datetime(2026, 5, 31, 22, tzinfo=UTC), None)
    assert campaign.master_form.legal == {"fr": 'First line\n"second" \\ line'}
    assert session.scalars(select(Integration)).one().parameters == {"zipcode": "Party.Address.PostalCode"}
    default, of_website = session.scalars(select(PushRule).order_by(PushRule.scope))
    assert (default.scope, default.integration) == (Scope.DEFAULT, None)
    assert (of_website.website, of_website.integration) == (campaign.website, session.scalar(select(Integration)))


def test_applying_twice_changes_nothing(session: Session) -> None:
    apply(session, EXAMPLE)
    session.commit()
    rows = [(row.id, row.slug) for row in session.scalars(select(Campaign))]
    again = apply(session, EXAMPLE)
    assert unchanged(again)
    assert again["push_rule"] == Tally(unchanged=2)
    assert not session.dirty
    assert [(row.id, row.slug) for row in session.scalars(select(Campaign))] == rows


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("enabled = true", "enabled = false", "integration"),
        ('zipcode = "Party.Address.PostalCode"', 'zipcode = "Party.Address.ZipCode"', "integration"),
        ('"https://news.acme.example"', '"https://news.acme.example", "https://www.acme.example"', "website"),
        ('prefilled = "hidden"', 'prefilled = "editable"', "master_form"),
        ('en = "…"', 'en = "Yes"', "master_form"),
        ("opens_at = 2026-05-31T22:00:00Z", "", "campaign"),
        ('thanks = "Merci !"', 'intro = "Bonjour"', "campaign"),
        ('integration = "none"', 'integration = "acme"', "push_rule"),
    ],
)
def test_what_a_file_changes_is_changed_and_nothing_else(session: Session, old: str, new: str, kind: str) -> None:
    apply(session, EXAMPLE)
    session.commit()
    tallies = apply(session, EXAMPLE.replace(old, new))
    assert {name for name, tally in tallies.items() if tally.changed} == {kind}
    assert unchanged({name: tally for name, tally in tallies.items() if name != kind})
    assert unchanged(apply(session, EXAMPLE.replace(old, new)))


def test_the_same_moment_in_another_zone_is_no_change(session: Session) -> None:
    apply(session, EXAMPLE)
    assert unchanged(apply(session, EXAMPLE.replace("2026-05-31T22:00:00Z", "2026-06-01T00:00:00+02:00")))


def test_what_a_file_does_not_hold_stays(session: Session) -> None:
    apply(session, EXAMPLE)
    apply(session, '[[website]]\nslug = "other"\nname = "Other"\nlanguage = "nl"\n')
    assert sorted(session.scalars(select(Website.slug))) == ["acme-news", "other"]
    assert session.scalar(select(func.count()).select_from(PushRule)) == 2


def test_a_key_that_is_left_out_has_its_default(session: Session) -> None:
    apply(session, EXAMPLE)
    apply(session, '[[master_form]]\nslug = "contest"\nname = "Contest"\n')
    form = session.scalars(select(MasterForm)).one()
    assert (form.fields, form.optins, form.legal) == ([], [], {})


def test_a_wrong_file_changes_nothing(session: Session) -> None:
    apply(session, EXAMPLE)
    before = settings_file.export(session)
    with pytest.raises(WrongFile):
        apply(session, EXAMPLE.replace("enabled = true", "enabled = false").replace('scope = "default"', 'scope = "x"'))
    assert settings_file.export(session) == before


def test_a_database_has_the_last_word_on_a_consents_language(session: Session) -> None:
    apply(session, EXAMPLE)
    without_french = """
[[master_form]]
slug = "contest"
name = "Contest"
optins = [{ variable = "optin_newsletter", code = "Newsletter", wording = { en = "…" } }]
"""
    with pytest.raises(WrongFile) as wrong:
        apply(session, without_french)
    (problem,) = wrong.value.problems
    assert (problem.line, problem.place) == (5, 'master_form[1] "contest": optins[1].wording')
    assert problem.reason.startswith('is not in fr, in which the campaign "summer" asks')


def test_an_uncommitted_file_leaves_no_trace(session: Session) -> None:
    apply(session, EXAMPLE)
    session.rollback()
    assert settings_file.stored(session) == SettingsFile()


def test_two_machines_that_apply_the_same_file_at_once_both_succeed(session: Session) -> None:
    file = settings_file.parse(EXAMPLE, private_hosts=frozenset(), known=SettingsFile())
    results: list[Mapping[str, Tally]] = []

    def second() -> None:
        with Session(session.get_bind()) as other:
            results.append(settings_file.apply(other, file))
            other.commit()

    assert settings_file.apply(session, file) == CREATED
    thread = threading.Thread(target=second)
    thread.start()
    while not session.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
        assert thread.is_alive()
    session.commit()
    thread.join(timeout=30)
    assert unchanged(results[0])


# Out -------------------------------------------------------------------------------------------------------------


def test_an_empty_database_exports_nothing(session: Session) -> None:
    assert settings_file.export(session) == ""


def test_an_export_reads_as_people_write(session: Session) -> None:
    apply(session, EXAMPLE)
    assert settings_file.export(session) == EXAMPLE


@pytest.mark.parametrize(
    "words", ["\nafter a blank line", "\n\ntwo of them\n", 'quotes """" and "\n"', "\\\nn \\u0041\t"]
)
def test_a_text_of_several_lines_comes_back_letter_for_letter(session: Session, words: str) -> None:
    form = {"slug": "contest", "name": "Contest", "legal": {"fr": words}}
    apply(session, tomlkit.dumps({"master_form": [form]}))
    assert tomllib.loads(settings_file.export(session))["master_form"][0]["legal"] == {"fr": words}


def test_an_export_takes_as_many_queries_as_there_are_kinds(session: Session) -> None:
    apply(session, EXAMPLE)
    session.commit()
    session.expunge_all()
    sent: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        sent.append(statement)

    event.listen(session.get_bind(), "before_cursor_execute", note)
    settings_file.export(session)
    event.remove(session.get_bind(), "before_cursor_execute", note)
    assert len(sent) == len(settings_file.KINDS)


def test_what_is_exported_does_not_depend_on_the_order_of_entries(session: Session) -> None:
    data = tomllib.loads(EXAMPLE)
    data["website"].append({"slug": "aaa", "name": "First of all", "language": "de"})
    apply(session, tomlkit.dumps({kind: list(reversed(data[kind])) for kind in reversed(data)}))
    slugs = [website["slug"] for website in tomllib.loads(settings_file.export(session))["website"]]
    assert slugs == ["aaa", "acme-news"]
    assert settings_file.export(session).index('"default"') < settings_file.export(session).index('"website"')


NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=12).filter(
    lambda name: name == name.strip()
)
TEXTS = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], include_characters="\n\t\"'\\"), min_size=1, max_size=30
).filter(str.strip)
SLUGS = st.text("abc-019", min_size=1, max_size=4)


def worded(words: st.SearchStrategy[str], languages: int = 0) -> st.SearchStrategy[dict[str, str]]:
    return st.dictionaries(st.sampled_from(LANGUAGES), words, min_size=languages)


@st.composite
def fields(draw: Callable[..., Any]) -> list[dict[str, Any]]:
    found = []
    for variable in draw(st.lists(st.sampled_from(Variable), unique=True, max_size=4)):
        field = {
            "variable": variable.value,
            "mandatory": draw(st.booleans()),
            "prefilled": draw(st.sampled_from(["editable", "readonly", "hidden"])),
            "label": draw(worded(NAMES)),
            "help": draw(worded(TEXTS)),
        }
        if variable in LOCKED:
            values = st.sampled_from([value.value for value in LOCKED[variable]])
            field["choices"] = draw(st.dictionaries(values, worded(NAMES, 1)))
        found.append(field)
    return found


OPTINS = st.lists(
    st.fixed_dictionaries(
        {
            "variable": st.text("abc_09", min_size=1, max_size=4).map("optin_{}".format),
            "code": NAMES,
            "mandatory": st.booleans(),
            "wording": worded(TEXTS, len(LANGUAGES)),
        }
    ),
    max_size=3,
    unique_by=(lambda optin: optin["variable"], lambda optin: optin["code"]),
)
MOMENTS = st.datetimes(datetime(2000, 1, 2), datetime(2100, 1, 1), timezones=st.timezones())  # noqa: DTZ001


@st.composite
def documents(draw: Callable[..., Any]) -> dict[str, Any]:
    """Files that hold together, with everything in them that settings can say."""

    def several(kind: st.SearchStrategy[dict[str, Any]], key: str = "slug") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = draw(st.lists(kind, min_size=1, max_size=3, unique_by=lambda each: each[key]))
        return found

    integrations = several(
        st.fixed_dictionaries(
            {
                "name": NAMES.filter(lambda name: name.casefold() != "none"),
                "enabled": st.booleans(),
                "openfield_url": st.just("https://openfield.acme.example/ws"),
                "id_tenant": NAMES,
                "id_application": NAMES,
                "forgot_password_url": st.just("https://account.acme.example/reset?a=%20#b"),
            },
            optional={
                "operations": st.just({"create": "People/New", "get": "Party/Get"}),
                "parameters": st.just({"zipcode": "Party.Address.PostalCode", "email": "Party.Email"}),
            },
        ),
        "name",
    )
    origins = st.lists(
        st.sampled_from(["https://a.example", "http://127.0.0.1:8000", "https://b.example:8443"]), unique=True
    )
    website = {"slug": SLUGS, "name": NAMES, "language": st.sampled_from(LANGUAGES), "origins": origins}
    websites = several(st.fixed_dictionaries(website))
    form = {"slug": SLUGS, "name": NAMES, "fields": fields(), "optins": OPTINS}
    forms = several(st.fixed_dictionaries(form, optional={"legal": worded(TEXTS, len(LANGUAGES))}))
    campaigns = several(
        st.fixed_dictionaries(
            {
                "slug": SLUGS,
                "name": NAMES,
                "website": st.sampled_from([each["slug"] for each in websites]),
                "master_form": st.sampled_from([each["slug"] for each in forms]),
            },
            optional={
                "language": st.sampled_from(LANGUAGES),
                "opens_at": MOMENTS,
                "texts": st.fixed_dictionaries({}, optional={"intro": TEXTS, "thanks": TEXTS}),
            },
        )
    )
    targets = {"website": websites, "master_form": forms, "campaign": campaigns}
    everything = [(None, "default"), *((each["slug"], scope) for scope, entries in targets.items() for each in entries)]
    names = st.sampled_from(["none", *(each["name"] for each in integrations)])
    push_rules = [
        {"scope": scope, "integration": draw(names)} | ({"target": target} if target else {})
        for target, scope in draw(st.lists(st.sampled_from(everything), unique=True))
    ]
    return {
        "integration": integrations,
        "website": websites,
        "master_form": forms,
        "campaign": campaigns,
        "push_rule": push_rules,
    }


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents())
def test_whatever_is_applied_comes_back_the_same(session: Session, document: dict[str, Any]) -> None:
    engine = session.get_bind()  # the database stays empty: no example is ever committed
    with Session(engine) as first:
        apply(first, tomlkit.dumps(document))
        exported = settings_file.export(first)
        assert unchanged(apply(first, exported))
        assert unchanged(apply(first, tomlkit.dumps(document)))
    with Session(engine) as second:
        apply(second, exported)
        assert settings_file.export(second) == exported
