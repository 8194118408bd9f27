"""A settings file is taken whole or refused whole, with the line, place and reason of all that is wrong."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from typing import Any

import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from widget.models import Scope
from widget.settings_file import Problem, SettingsFile, WrongFile, parse
from widget.toml_lines import Path, lines, nearest

EXAMPLE = """\
[[integration]]
name = "acme"                      # every entry is found again by name or slug
enabled = true
openfield_url = "https://openfield.acme.example/ws"
id_tenant = "acme"
id_application = "campaigns"
forgot_password_url = "https://account.acme.example/reset"
# optional: [integration.operations] authenticate = "Party/Authenticate"
# optional: [integration.parameters] zipcode = "Party.Address.PostalCode"

[[website]]
slug = "acme-news"
name = "Acme News"
origins = ["https://news.acme.example"]
language = "fr"

[[master_form]]
slug = "contest"
name = "Contest"
fields = [
  { variable = "email", mandatory = true, prefilled = "readonly" },
  { variable = "civility", mandatory = true, prefilled = "editable" },
  { variable = "birthday", mandatory = false, prefilled = "hidden" },
]
optins = [
  { variable = "optin_newsletter", code = "Newsletter", mandatory = false, wording = { fr = "…", en = "…" } },
]

[[campaign]]
slug = "summer"
name = "Summer contest"
website = "acme-news"
master_form = "contest"
language = "fr"
opens_at = 2026-06-01T00:00:00+02:00   # optional, as is closes_at

[[push_rule]]
scope = "website"                  # default | website | master_form | campaign
target = "acme-news"               # absent for default
integration = "acme"               # or "none"
"""
EMPTY = SettingsFile()


def taken(text: str, known: SettingsFile = EMPTY) -> SettingsFile:
    return parse(text, private_hosts=frozenset(), known=known)


def refused(text: str, known: SettingsFile = EMPTY) -> list[str]:
    """The problems, as `line N: place: reason`."""
    with pytest.raises(WrongFile) as wrong:
        taken(text, known)
    return [str(problem) for problem in wrong.value.problems]


def changed(old: str, new: str) -> str:
    """The example with one thing changed in it."""
    assert EXAMPLE.count(old) == 1
    return EXAMPLE.replace(old, new)


# Taken -----------------------------------------------------------------------------------------------------------


def test_the_example_is_taken_as_it_stands() -> None:
    file = taken(EXAMPLE)
    assert file.integrations["acme"].openfield_url == "https://openfield.acme.example/ws"
    assert file.websites["acme-news"].origins == ("https://news.acme.example",)
    assert [field.variable for field in file.master_forms["contest"].fields] == ["email", "civility", "birthday"]
    assert file.master_forms["contest"].optins[0].wording == {"fr": "…", "en": "…"}
    assert file.campaigns["summer"].opens_at == datetime(2026, 5, 31, 22, tzinfo=UTC)
    assert file.push_rules[Scope.WEBSITE, "acme-news"].integration == "acme"


def test_an_empty_file_is_taken() -> None:
    assert taken("# nothing yet\n") == EMPTY


def test_the_files_of_windows_are_taken() -> None:
    assert taken("\ufeff" + EXAMPLE.replace("\n", "\r\n")) == taken(EXAMPLE)


def test_a_campaign_has_its_websites_language_unless_it_names_one() -> None:
    unnamed = changed('master_form = "contest"\nlanguage = "fr"\n', 'master_form = "contest"\n')
    assert taken(unnamed).campaigns["summer"].language == "fr"


def test_a_file_may_refer_to_what_the_database_has() -> None:
    known = taken(EXAMPLE)
    file = taken(
        """
        [[campaign]]
        slug = "winter"
        name = "Winter contest"
        website = "acme-news"
        master_form = "contest"

        [[push_rule]]
        scope = "campaign"
        target = "summer"
        integration = "acme"
        """,
        known,
    )
    assert file.campaigns["winter"].language == "fr"
    assert file.push_rules.keys() == {(Scope.CAMPAIGN, "summer")}
    assert not file.websites


def test_the_files_own_website_counts_before_the_databases() -> None:
    unnamed = changed('master_form = "contest"\nlanguage = "fr"\n', 'master_form = "contest"\n')
    now_english = unnamed.replace('language = "fr"', 'language = "en"')
    assert taken(now_english, taken(EXAMPLE)).campaigns["summer"].language == "en"


# Refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            'id_tenant = "acme"',
            'id_tennant = "acme"',
            'line 5: integration[1] "acme": id_tennant: there is no key "id_tennant": did you mean "id_tenant"?',
        ),
        (
            'code = "Newsletter", ',
            "",
            'line 26: master_form[1] "contest": optins[1].code: is missing:'
            ' give the code of its SSO variable in Openfield, such as "Newsletter"',
        ),
        (
            'variable = "optin_newsletter", ',
            "",
            'line 26: master_form[1] "contest": optins[1].variable: is missing:'
            ' give a variable, such as "optin_newsletter"',
        ),
        (
            '"https://news.acme.example"',
            '"https://news.acme.example/contest"',
            'line 14: website[1] "acme-news": origins[1]: an origin is a scheme, a lower-case host and a port,'
            " and nothing after them: write https://news.acme.example",
        ),
        (
            '"civility", mandatory = true',
            '"civility", choices = ["M", "MME", "MLLE"]',
            'line 22: master_form[1] "contest": fields[2].choices: civility is locked to M and MME:'
            ' only word these two, { M = { en = "…" }, MME = { en = "…" } }',
        ),
        (
            "opens_at = 2026-06-01T00:00:00+02:00",
            "opens_at = 2026-06-01T00:00:00+02:00\ncloses_at = 2026-05-01T00:00:00+02:00",
            'line 36: campaign[1] "summer": closes_at: the campaign would close before it opens:'
            " write a time after opens_at",
        ),
        (
            "opens_at = 2026-06-01T00:00:00+02:00",
            "opens_at = 2026-06-01T00:00:00",
            'line 35: campaign[1] "summer": opens_at: has no offset, so that it could be anywhere\'s time:'
            " write one, as in 2026-06-01T00:00:00+02:00",
        ),
        (
            'target = "acme-news"',
            'target = "acme-new"',
            'line 39: push_rule[1] "website acme-new": target: there is no website "acme-new":'
            ' did you mean "acme-news"?',
        ),
        (
            'integration = "acme"',
            'integration = "other"',
            'line 40: push_rule[1] "website acme-news": integration: there is no integration "other": choose from acme',
        ),
        (
            'website = "acme-news"',
            'website = "nowhere"',
            'line 32: campaign[1] "summer": website: there is no website "nowhere": choose from acme-news',
        ),
        (
            'master_form = "contest"',
            'master_form = "contests"',
            'line 33: campaign[1] "summer": master_form: there is no master form "contests": did you mean "contest"?',
        ),
        (
            '[[website]]\nslug = "acme-news"',
            '[[website]]\nslug = "Acme News"',
            'line 12: website[1] "Acme News": slug: a slug has 1 to 64 characters, of a to z, 0 to 9 and hyphens:'
            " it stands in addresses",
        ),
        (
            'wording = { fr = "…", en = "…" }',
            'wording = { nl = "…", en = "…" }',
            'line 34: campaign[1] "summer": language: is fr, but optins[1].wording of master form "contest" is not in'
            ' fr: add fr = "…" there, or choose another language',
        ),
    ],
)
def test_a_wrong_file_is_refused_with_line_and_place_and_reason(old: str, new: str, problem: str) -> None:
    assert problem in refused(changed(old, new))


@pytest.mark.parametrize("url", ["http://openfield.acme.example/ws", "https://169.254.169.254/", "https://10.0.0.1/ws"])
def test_a_url_that_breaks_the_rules_against_forged_requests_is_refused(url: str) -> None:
    (problem,) = refused(changed("https://openfield.acme.example/ws", url))
    assert problem.startswith('line 4: integration[1] "acme": openfield_url: ')


def test_a_listed_private_host_is_taken() -> None:
    local = changed("https://openfield.acme.example/ws", "http://127.0.0.1:9000/ws")
    file = parse(local, private_hosts={"127.0.0.1:9000"}, known=EMPTY)
    assert file.integrations["acme"].openfield_url == "http://127.0.0.1:9000/ws"


def test_all_problems_are_told_at_once_in_the_order_of_their_lines() -> None:
    text = changed("enabled = true", 'enabled = "yes"').replace('language = "fr"', 'language = "it"')
    text = text.replace('scope = "website"', 'scope = "page"') + "[webiste]\n"
    assert refused(text) == [
        'line 3: integration[1] "acme": enabled: must be true or false, without quotes',
        'line 15: website[1] "acme-news": language: is not a language of ours: write one of fr, nl, en, de',
        'line 34: campaign[1] "summer": language: is not a language of ours: write one of fr, nl, en, de',
        'line 38: push_rule[1] "page acme-news": scope: there is no value "page": '
        "choose from campaign, default, master_form, website",
        'line 41: webiste: there is no table "webiste": did you mean "website"?',
    ]


def test_what_is_there_twice_is_refused_where_it_is_there_again() -> None:
    twice = EXAMPLE + EXAMPLE
    assert refused(twice) == [
        'line 42: integration[2] "acme": name: "acme" is on line 1 already: keep one of them',
        'line 52: website[2] "acme-news": slug: "acme-news" is on line 11 already: keep one of them',
        'line 58: master_form[2] "contest": slug: "contest" is on line 17 already: keep one of them',
        'line 70: campaign[2] "summer": slug: "summer" is on line 29 already: keep one of them',
        'line 79: push_rule[2] "website acme-news": target: "website acme-news" is on line 37 already: '
        "keep one of them",
    ]


def test_there_is_one_default_rule() -> None:
    rule = '[[push_rule]]\nscope = "default"\nintegration = "none"\n'
    assert refused(rule + rule) == [
        'line 4: push_rule[2] "default": target: "default" is on line 1 already: keep one of them'
    ]


def test_what_refers_to_a_wrong_entry_is_not_wrong_itself() -> None:
    (problem,) = refused(changed('name = "Acme News"', "name = 1"))
    assert problem == 'line 13: website[1] "acme-news": name: must be text, in quotes'


def test_a_wrong_form_is_not_taken_for_the_one_that_the_database_has() -> None:
    known = taken(EXAMPLE)
    in_dutch = EXAMPLE.replace('{ fr = "…", en = "…" }', '{ nl = "…" }').replace('language = "fr"', 'language = "nl"')
    (problem,) = refused(in_dutch.replace('name = "Contest"', "name = 1"), known)
    assert problem == 'line 19: master_form[1] "contest": name: must be text, in quotes'


def test_a_form_may_not_lose_a_language_that_a_campaign_of_the_database_has() -> None:
    known = taken(EXAMPLE)
    form = """
[[master_form]]
slug = "contest"
name = "Contest"
optins = [
  { variable = "optin_partners", code = "Partners", wording = { fr = "…" } },
  { variable = "optin_newsletter", code = "Newsletter", wording = { en = "…" } },
]
[master_form.legal]
nl = "…"
"""
    asks = 'is not in fr, in which the campaign "summer" asks, which is there already: add fr = "…"'
    assert refused(form, known) == [
        f'line 7: master_form[1] "contest": optins[2].wording: {asks}',
        f'line 9: master_form[1] "contest": legal: {asks}',
    ]


def test_the_files_own_campaign_counts_before_the_databases() -> None:
    in_english = EXAMPLE.replace('{ fr = "…", en = "…" }', '{ en = "…" }').replace('language = "fr"', 'language = "en"')
    assert taken(in_english, taken(EXAMPLE)).campaigns["summer"].language == "en"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name = \n", Problem(1, "column 8", "is not TOML: Invalid value")),
        (
            "[[campaign]]\nslug summer\n",
            Problem(2, "column 6", "is not TOML: Expected '=' after a key in a key/value pair"),
        ),
        (
            '[[campaign]]\nslug = "',
            Problem(2, "end of the file", "is not TOML: Unterminated string (at end of document)"),
        ),
    ],
)
def test_what_is_not_toml_is_refused_where_it_breaks_off(text: str, problem: Problem) -> None:
    with pytest.raises(WrongFile) as wrong:
        taken(text)
    assert wrong.value.problems == [problem]


@pytest.mark.parametrize("value", ["[" * 5000, "9" * 5000])
def test_what_breaks_the_toml_reader_is_refused_too(value: str) -> None:
    assert refused(f"name = {value}")[0].startswith("line 1: end of the file: is not TOML: ")


def test_one_table_where_several_may_be_is_refused() -> None:
    assert refused('\n[campaign]\nslug = "summer"\n') == [
        "line 2: campaign: there may be several: write each under [[campaign]], with two brackets on each side"
    ]
    assert refused("website = [1]\n") == ["line 1: website[1]: must be a table of names and values, in { }"]


@settings(deadline=None)
@given(
    st.recursive(
        st.booleans() | st.integers() | st.text(max_size=5) | st.datetimes(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    ),
    st.data(),
)
def test_whatever_stands_at_a_key_is_taken_or_refused_in_words(value: Any, data: st.DataObject) -> None:
    """No shape of data makes the reader stumble."""
    document = tomllib.loads(EXAMPLE)
    kind = data.draw(st.sampled_from(sorted(document)))
    key = data.draw(st.sampled_from(sorted(document[kind][0])))
    document[kind][0][key] = value
    problems: list[Problem] = []
    try:
        taken(tomlkit.dumps(document))
    except WrongFile as wrong:
        problems = wrong.problems
    assert all(problem.place.partition("[")[0] in document and problem.reason for problem in problems)


# Lines -----------------------------------------------------------------------------------------------------------


def test_every_thing_has_the_line_that_it_is_written_on() -> None:
    text = '''\
a.b = 1 # [x]
"quo.ted" = """
[not] = "a \\""" table" """"
'lit eral' = \'\'\'x = {
\'\'\'
a.c = ["""x"""", "]",
2]

[[c]]
s = "#"   # c
list = [ # of [things]
  { v = "e,]}", w = { fr = 1.5, d = 2026-06-01 00:00:00 } },
  2, [ 3,
 4],
]
[c.ops]
k = 1
[[c]]
[c.ops.deep]
[[c.sub]]
x = 1
[[c.sub]]
[[c]]
s = 1
[ d . "e" ]
'''
    tomllib.loads(text)
    expected: dict[Path, int] = {
        ("a",): 1,
        ("a", "b"): 1,
        ("quo.ted",): 2,
        ("lit eral",): 4,
        ("a", "c"): 6,
        ("a", "c", 0): 6,
        ("a", "c", 1): 6,
        ("a", "c", 2): 7,
        ("c", 0): 9,
        ("c", 0, "s"): 10,
        ("c", 0, "list"): 11,
        ("c", 0, "list", 0): 12,
        ("c", 0, "list", 0, "v"): 12,
        ("c", 0, "list", 0, "w"): 12,
        ("c", 0, "list", 0, "w", "fr"): 12,
        ("c", 0, "list", 0, "w", "d"): 12,
        ("c", 0, "list", 1): 13,
        ("c", 0, "list", 2): 13,
        ("c", 0, "list", 2, 0): 13,
        ("c", 0, "list", 2, 1): 14,
        ("c", 0, "ops"): 16,
        ("c", 0, "ops", "k"): 17,
        ("c", 1): 18,
        ("c", 1, "ops", "deep"): 19,
        ("c", 1, "sub", 0): 20,
        ("c", 1, "sub", 0, "x"): 21,
        ("c", 1, "sub", 1): 22,
        ("c", 2): 23,
        ("c", 2, "s"): 24,
        ("d", "e"): 25,
    }
    assert lines(text) == expected


def test_what_is_not_written_is_where_its_surroundings_are() -> None:
    places = lines("\n[[c]]\nk = { a = 1 }\n")
    assert nearest(places, ("c", 0, "k", "b", 3)) == 3
    assert nearest(places, ("c", 0, "missing")) == 2
    assert nearest(places, ("elsewhere",)) == 1


@settings(deadline=None)
@given(
    st.recursive(
        st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | st.datetimes(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(max_size=5), inner, max_size=3)
            | st.lists(st.dictionaries(st.text(max_size=5), inner, max_size=3), min_size=1, max_size=3)
        ),
        max_leaves=20,
    )
)
def test_every_value_of_any_file_has_a_line(value: Any) -> None:
    text = tomlkit.dumps({"top": value})
    places = lines(text)
    for path in paths(tomllib.loads(text), ()):
        # A table that only its parts' headers name, and an array of tables as a whole, are written nowhere.
        assert path in places or any(place[: len(path)] == path for place in places)


def paths(value: Any, path: Path) -> list[Path]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [deeper for key, each in inner for deeper in paths(each, (*path, key))]
    return [*found, path] if path else found
