"""The mapping to Openfield's JSON: what may be configured, what prefills, what leaves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
import simplejson
from hypothesis import given
from hypothesis import strategies as st

from widget.openfield import wire
from widget.openfield.wire import PARAMETERS, Record, Stored
from widget.profile import Civility, Gender, OptIn, Profile, Value, Variable, countries, is_email, is_text

TODAY = date(2026, 6, 1)
NEWSLETTER = OptIn("Newsletter", datetime(2017, 1, 1, tzinfo=UTC))
DEFAULTS = wire.merged_parameters({})
CANARY = "canary-7f3a"

Path = tuple[str, ...]

# Strategies ------------------------------------------------------------------------------------------------------

any_text = st.text(st.characters(exclude_categories=()), max_size=8)
numbers = st.integers() | st.from_regex(
    r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,9})?[eE][+-]?[0-9]{1,6}", fullmatch=True
).map(wire.Number)
scalars = st.none() | st.booleans() | numbers | any_text
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3), max_leaves=8
)
near_misses = st.sampled_from(
    ["h", "f", "H ", "X", "", "Mme", "m", "MLLE", "H", "F", "M", "MME", "HF", "01082019", "BEL"]
)
anything = json_values | near_misses


def _nested(*names: str) -> st.SearchStrategy[Any]:
    return anything | st.dictionaries(st.sampled_from(names) | any_text, anything, max_size=4)


parties = st.builds(
    lambda strange, known: {**strange, **known},
    st.dictionaries(any_text, json_values, max_size=3),
    st.fixed_dictionaries(
        {"PartyId": st.text(min_size=1, max_size=8), "Version": st.integers(1, 10**20)},
        optional={
            "PartyType": anything,
            "LanguageId": anything,
            "Email": anything,
            "Gender": _nested("Gender"),
            "Civility": anything,
            "BirthDate": anything,
            "Login": _nested("Username", "Password", "Gender"),
            "Address": _nested("Street", "ZipCode", "City", "CountryId", "Civility"),
            "Custom": _nested("Gender", "Civility", "Deep"),
        },
    ),
)
own_paths = st.sampled_from(
    ["Party.Sex", "Party.Custom.Gender", "Party.Custom.Civility", "Party.Custom.Deep.Leaf", "Party.Address.PostalCode",
     "Party.Address.Civility", "Party.Login.Gender", "Party.Title", "Party.gender", "Party.Straße.Nr-1"]
)  # fmt: skip


def _is_allowed(overrides: Mapping[str, str]) -> bool:
    try:
        wire.check_parameters(overrides)
    except ValueError:
        return False
    return True


overrides = st.dictionaries(st.sampled_from([each.value for each in Variable]), own_paths, max_size=4).filter(
    _is_allowed
)
parameters = overrides.map(wire.merged_parameters)

texts = st.text(max_size=200).filter(lambda text: is_text(text) and not text.isspace())
emails = st.from_regex(r"[a-z.+]{1,9}@[a-zé-]{1,9}\.[a-z]{2,5}", fullmatch=True).filter(is_email)
birthdays = st.dates(date(1900, 1, 1), TODAY)
VALUES: dict[Variable, st.SearchStrategy[Any]] = {
    Variable.EMAIL: emails,
    Variable.COUNTRY: st.sampled_from(sorted(countries())),
    Variable.GENDER: st.sampled_from(Gender),
    Variable.CIVILITY: st.sampled_from(Civility),
    Variable.BIRTHDAY: birthdays,
    Variable.PASSWORD: st.text(min_size=1, max_size=20),
}
profiles = st.builds(Profile, **{each.value: st.none() | VALUES.get(each, texts) for each in Variable})
rogue_profiles = st.builds(
    lambda profile, gender, civility: replace(profile, gender=gender, civility=civility),
    profiles,
    near_misses,
    near_misses,
)
changes = st.dictionaries(st.sampled_from(Variable), st.none() | texts | birthdays | near_misses, max_size=5)
moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.timezones())  # noqa: DTZ001 - bounds
optins = st.lists(st.builds(OptIn, st.text(min_size=1, max_size=8), moments), max_size=3)


# An independent look at JSON -------------------------------------------------------------------------------------


def _path(dotted: str) -> Path:
    return tuple(dotted.split(".")[1:])


def _leaves(value: Any, at: Path = ()) -> Iterator[tuple[Path, str]]:
    """Every leaf's place and text; an empty object or list is a leaf too."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, (*at, name))
    else:
        yield at, simplejson.dumps(value)


def _at(party: Any, path: Path) -> Any:
    for name in path:
        if not isinstance(party, dict) or name not in party:
            return None
        party = party[name]
    return party


def _related(leaf: Path, path: Path) -> bool:
    shorter = min(len(leaf), len(path))
    return leaf[:shorter] == path[:shorter]


def _assert_locked(document: Mapping[str, Any], names: Mapping[Variable, str]) -> None:
    sent = simplejson.loads(wire.serialise(document))["Party"]
    for path in (DEFAULTS[Variable.GENDER], names[Variable.GENDER]):
        assert _at(sent, _path(path)) in (None, "H", "F")
    for path in (DEFAULTS[Variable.CIVILITY], names[Variable.CIVILITY]):
        assert _at(sent, _path(path)) in (None, "M", "MME")


def _record(**party: Any) -> Record:
    return Record({"PartyId": "p-1", "Version": 3, **party})


# What leaves -----------------------------------------------------------------------------------------------------


@given(parties, changes, optins, parameters)
def test_nothing_but_the_locked_values_leaves_in_an_update(
    party: dict[str, Any], said: dict[Variable, Any], ticked: list[OptIn], names: Mapping[Variable, str]
) -> None:
    _assert_locked(wire.lay_over(Record(party), said, ticked, "fr", names), names)


@given(rogue_profiles, optins, parameters)
def test_nothing_but_the_locked_values_leaves_in_a_create(
    profile: Profile, ticked: list[OptIn], names: Mapping[Variable, str]
) -> None:
    _assert_locked(wire.encode(profile, ticked, "fr", names), names)


@given(parties, changes, st.dictionaries(st.sampled_from(Variable), own_paths | st.sampled_from([*DEFAULTS.values()])))
def test_nothing_but_the_locked_values_leaves_even_with_parameters_that_nobody_checked(
    party: dict[str, Any], said: dict[Variable, Any], unchecked: dict[Variable, str]
) -> None:
    names = {**DEFAULTS, **unchecked}
    _assert_locked(wire.lay_over(Record(party), said, [], "fr", names), names)


@pytest.mark.parametrize("stray", ["h", "X", "", "MME", " H", 1, True, None, [], ["H"], {"H": "H"}, wire.Number("1.0")])
def test_a_stray_value_that_was_read_is_removed(stray: Any) -> None:
    sent = wire.lay_over(_record(Gender=stray, Civility=stray), {}, [], "fr", DEFAULTS)["Party"]
    assert "Gender" not in sent
    assert sent.get("Civility") == ("MME" if stray == "MME" else None)


@given(parties, changes, parameters)
def test_what_nobody_changed_is_given_back_at_every_depth(
    party: dict[str, Any], said: dict[Variable, Any], names: Mapping[Variable, str]
) -> None:
    before = simplejson.dumps(party)
    sent = wire.lay_over(Record(party), said, [], "fr", names)["Party"]
    own = {_path(names[variable]) for variable in said if variable is not Variable.PASSWORD}
    for variable in (Variable.GENDER, Variable.CIVILITY, Variable.PASSWORD):
        own |= {_path(names[variable]), _path(DEFAULTS[variable])}
    own |= {("PartyType",), ("LanguageId",)}

    def untouched(leaves: Iterator[tuple[Path, str]]) -> dict[Path, str]:
        return {leaf: text for leaf, text in leaves if not any(_related(leaf, path) for path in own)}

    assert untouched(_leaves(sent)) == untouched(_leaves(party))
    assert simplejson.dumps(party) == before


@given(parties, changes, parameters)
def test_an_update_is_of_the_version_that_was_read_and_in_the_campaigns_language(
    party: dict[str, Any], said: dict[Variable, Any], names: Mapping[Variable, str]
) -> None:
    sent = wire.lay_over(Record(party), said, [], "nl", names)["Party"]
    assert (sent["PartyType"], sent["PartyId"], sent["Version"], sent["LanguageId"]) == (
        "Person", party["PartyId"], party["Version"], "nl"
    )  # fmt: skip


@given(parameters, st.sampled_from(["dict", "absent", "text"]))
def test_a_password_never_leaves_in_an_update(names: Mapping[Variable, str], login: str) -> None:
    party: dict[str, Any] = {"PartyId": "p-1", "Version": 1}
    if login == "dict":
        party["Login"] = {"Username": "alice", "Password": CANARY}
    elif login == "text":
        party["Login"] = "alice"
    *parents, last = _path(names[Variable.PASSWORD])
    node = party
    for name in parents:
        if not isinstance(node.get(name), dict):
            node[name] = {}
        node = node[name]
    node[last] = CANARY
    document = wire.lay_over(Record(party), {Variable.PASSWORD: CANARY}, [NEWSLETTER], "fr", names)
    assert CANARY.encode() not in wire.serialise(document)


@given(parties, parameters, optins)
def test_each_change_lands_at_its_parameter(
    party: dict[str, Any], names: Mapping[Variable, str], ticked: list[OptIn]
) -> None:
    said: dict[Variable, Value | None] = {
        Variable.FIRSTNAME: "Alice",
        Variable.ZIPCODE: "1000",
        Variable.GENDER: Gender.WOMAN,
        Variable.CIVILITY: Civility.MRS,
        Variable.BIRTHDAY: date(2019, 8, 1),
        Variable.LASTNAME: None,
    }
    document = wire.lay_over(Record(party), said, ticked, "fr", names)
    sent = {variable: _at(document["Party"], _path(names[variable])) for variable in said}
    assert list(sent.values()) == ["Alice", "1000", "F", "MME", "01082019", None]
    assert [service["ServiceId"] for service in document.get("Services", [])] == [each.code for each in ticked]


def test_an_object_that_is_none_makes_way_for_a_change_but_not_for_a_removal() -> None:
    record = _record(Address="Rue Haute 1")
    assert wire.lay_over(record, {Variable.ZIPCODE: None}, [], "fr", DEFAULTS)["Party"]["Address"] == "Rue Haute 1"
    changed = wire.lay_over(record, {Variable.ZIPCODE: "1000"}, [], "fr", DEFAULTS)["Party"]
    assert changed["Address"] == {"ZipCode": "1000"}


def test_a_create_says_what_has_a_value_and_nothing_else() -> None:
    alice = Profile(
        email="alice@news.example", username="alice", password=" pä\ud800ss ", gender=Gender.WOMAN, country="BEL"
    )
    assert wire.encode(alice, [], "fr", DEFAULTS) == {
        "Party": {
            "PartyType": "Person",
            "Version": 1,
            "LanguageId": "fr",
            "Email": "alice@news.example",
            "Login": {"Username": "alice", "Password": " pä\ud800ss "},
            "Address": {"CountryId": "BEL"},
            "Gender": "F",
        }
    }


def test_only_ticked_optins_leave_and_those_that_were_read_do_not() -> None:
    answer = {"Party": {"PartyId": "p-1", "Version": 1}, "Services": [{"ServiceId": "Partners"}]}
    record = wire.read_record(answer, DEFAULTS)
    assert "Services" not in wire.lay_over(record, {}, [], "fr", DEFAULTS)
    assert wire.lay_over(record, {}, [NEWSLETTER], "fr", DEFAULTS)["Services"] == [
        {
            "ActivationDate": "2017-01-01T00:00:00",
            "ServiceId": "Newsletter",
            "ServiceStatus": True,
            "ServiceTypeId": "OPTINS",
        }
    ]


def test_an_activation_date_is_in_utc_and_whole_seconds() -> None:
    brussels = timezone(timedelta(hours=2))
    optin = OptIn("Newsletter", datetime(2026, 6, 1, 1, 30, 59, 999_999, tzinfo=brussels))
    services = wire.encode(Profile(), [optin], "fr", DEFAULTS)["Services"]
    assert services[0]["ActivationDate"] == "2026-05-31T23:30:59"


# What is read ----------------------------------------------------------------------------------------------------


@given(profiles, parameters)
def test_what_was_sent_prefills_when_it_comes_back(profile: Profile, names: Mapping[Variable, str]) -> None:
    sent = wire.parse(wire.serialise(wire.encode(profile, [], "fr", names)))
    record = wire.read_record({"Party": {**sent["Party"], "PartyId": "p-1"}}, names)
    assert wire.decode(record, names, TODAY) == replace(profile, password=None)


@given(birthdays)
def test_every_birthday_goes_and_comes_as_day_month_year(birthday: date) -> None:
    sent = wire.encode(Profile(birthday=birthday), [], "fr", DEFAULTS)["Party"]["BirthDate"]
    assert (sent[:2], sent[2:4], sent[4:]) == tuple(reversed(str(birthday).split("-")))
    assert wire.decode(_record(BirthDate=sent), DEFAULTS, TODAY).birthday == birthday


def test_the_first_of_august_2019_is_01082019() -> None:
    assert wire.encode(Profile(birthday=date(2019, 8, 1)), [], "fr", DEFAULTS)["Party"]["BirthDate"] == "01082019"


@pytest.mark.parametrize(
    "text",
    ["31021990", "00011990", "01131990", "02062026", "31121899", "1081990", "1990-08-01", "01/08/90", "٠١٠٨٢٠١٩",
     " 01082019", "01082019\n"],
)  # fmt: skip
def test_a_date_that_is_none_does_not_prefill(text: str) -> None:
    assert wire.decode(_record(BirthDate=text), DEFAULTS, TODAY).birthday is None


def test_nobody_is_born_after_today() -> None:
    today = datetime.now(UTC).date()
    for days, expected in ((0, today), (2, None)):
        party = _record(BirthDate=f"{today + timedelta(days):%d%m%Y}")
        assert wire.decode(party, DEFAULTS).birthday == expected


@given(parties, parameters)
def test_whatever_is_read_prefills_with_fitting_values_only(
    party: dict[str, Any], names: Mapping[Variable, str]
) -> None:
    profile = wire.decode(Record(party), names, TODAY)
    assert profile.gender in (None, *Gender)
    assert profile.civility in (None, *Civility)
    assert profile.country is None or profile.country in countries()
    assert profile.email is None or is_email(profile.email)
    assert profile.birthday is None or date(1900, 1, 1) <= profile.birthday <= TODAY
    assert profile.password is None
    for variable, value in profile.items():
        if variable in (Variable.FIRSTNAME, Variable.ZIPCODE, Variable.USERNAME):
            assert isinstance(value, str)
            assert is_text(value)
            assert value == _at(party, _path(names[variable]))


@pytest.mark.parametrize(
    ("party", "variable"),
    [
        ({"Gender": "h"}, Variable.GENDER),
        ({"Gender": "X"}, Variable.GENDER),
        ({"Gender": "M"}, Variable.GENDER),
        ({"Civility": "Mme"}, Variable.CIVILITY),
        ({"Civility": "F"}, Variable.CIVILITY),
        ({"FirstName": ""}, Variable.FIRSTNAME),
        ({"FirstName": "   "}, Variable.FIRSTNAME),
        ({"FirstName": "Al\nice"}, Variable.FIRSTNAME),
        ({"FirstName": "A" * 201}, Variable.FIRSTNAME),
        ({"FirstName": "\ud800"}, Variable.FIRSTNAME),
        ({"FirstName": ["Alice"]}, Variable.FIRSTNAME),
        ({"Email": " alice@news.example"}, Variable.EMAIL),
        ({"Email": "alice"}, Variable.EMAIL),
        ({"Address": {"CountryId": "bel"}}, Variable.COUNTRY),
        ({"Address": {"CountryId": "BE"}}, Variable.COUNTRY),
        ({"Address": {"ZipCode": 1000}}, Variable.ZIPCODE),
        ({"Address": "1000 Brussels"}, Variable.ZIPCODE),
        ({"Address": [{"ZipCode": "1000"}]}, Variable.ZIPCODE),
        ({"Login": {"Password": "secret"}}, Variable.PASSWORD),
    ],
)
def test_a_value_that_does_not_fit_does_not_prefill(party: dict[str, Any], variable: Variable) -> None:
    assert wire.decode(_record(**party), DEFAULTS, TODAY)[variable] is None


def test_a_text_prefills_as_it_is() -> None:
    assert wire.decode(_record(FirstName=" Ali ce "), DEFAULTS).firstname == " Ali ce "


@given(parties)
def test_a_record_is_the_same_after_it_was_kept(party: dict[str, Any]) -> None:
    record = Record(party)
    kept = simplejson.loads(simplejson.dumps(record.to_json()), use_decimal=True)
    assert simplejson.dumps(Record.from_json(kept).party) == simplejson.dumps(party)
    assert (record.party_id, record.version) == (party["PartyId"], party["Version"])


def test_numbers_and_names_keep_their_text_from_answer_to_update() -> None:
    odd = '"n":[1.10,1e5,-0,-0.0,1E+400,123456789012345678901234567890,0.1000],"s":"\\ud800 \\u0000","":{"a":{"":null}}'
    record = wire.read_record(wire.parse(f'{{"Party":{{"PartyId":"p-1","Version":3,{odd}}}}}'.encode()), DEFAULTS)
    kept = Record.from_json(simplejson.loads(simplejson.dumps(record.to_json()), use_decimal=True))
    assert odd.encode() in wire.serialise(wire.lay_over(kept, {Variable.FIRSTNAME: "A"}, [], "fr", DEFAULTS))


@pytest.mark.parametrize("password", ["secret", ["secret"], {"hash": "secret"}, 1])
def test_a_password_in_an_answer_is_dropped_at_once(password: Any) -> None:
    names = wire.merged_parameters({"password": "Party.Secret.Word"})
    party = {
        "PartyId": "p-1",
        "Version": 1,
        "Login": {"Username": "a", "Password": password},
        "Secret": {"Word": password},
    }
    record = wire.read_record({"Party": party}, names)
    assert record.party == {"PartyId": "p-1", "Version": 1, "Login": {"Username": "a"}, "Secret": {}}


@pytest.mark.parametrize(
    "answer",
    [
        None, [], "Party", {}, {"Party": None}, {"Party": []}, {"Party": {}},
        {"Party": {"PartyId": "p-1"}}, {"Party": {"PartyId": "p-1", "Version": True}},
        {"Party": {"PartyId": "p-1", "Version": 0}}, {"Party": {"PartyId": "p-1", "Version": "1"}},
        {"Party": {"PartyId": "p-1", "Version": wire.Number("1.0")}}, {"Party": {"PartyId": "", "Version": 1}},
        {"Party": {"PartyId": 7, "Version": 1}}, {"Party": {"PartyId": None, "Version": 1}},
    ],
)  # fmt: skip
def test_a_record_without_usable_id_and_version_is_none(answer: Any) -> None:
    with pytest.raises(ValueError, match=r"usable|object"):
        wire.read_record(answer, DEFAULTS)
    with pytest.raises(ValueError, match=r"usable|object"):
        wire.read_stored(answer.get("Party") if isinstance(answer, dict) else answer)


def test_where_a_record_stands_is_read() -> None:
    assert wire.read_stored({"PartyId": "p-1", "Version": 2, "More": []}) == Stored("p-1", 2)


def test_nothing_personal_is_in_a_repr() -> None:
    record = _record(PartyId=CANARY, Email=CANARY)
    assert CANARY not in repr(record) + repr(Stored(CANARY, 1))


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b'{"a":', b'{"a":1}x', b"\xff\xfe{}", b"NaN", b"[Infinity]", b'"\n"', b"[" * 300 + b"]" * 300,
     b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 250 + b"1" + b"}" * 250],
)  # fmt: skip
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        wire.parse(body)


def test_a_byte_order_mark_and_long_numbers_are_read() -> None:
    assert wire.parse(b'\xef\xbb\xbf{"a":"\xc3\xa9"}') == {"a": "é"}
    assert wire.serialise(wire.parse(b"[" + b"9" * 5000 + b"]")) == b"[" + b"9" * 5000 + b"]"


@pytest.mark.parametrize(
    ("answer", "code", "variables"),
    [
        ({"Code": "PARTY_EXISTS", "Fields": {"Party.Email": "taken"}}, "PARTY_EXISTS", {Variable.EMAIL}),
        ({"code": " party_exists ", "fields": ["party.login.USERNAME", 7]}, "PARTY_EXISTS", {Variable.USERNAME}),
        ({"Fields": {"Party.Address.Box": "long", "Party.Custom": "?"}}, "", set()),
        ({"Code": 7, "Fields": "Party.Email"}, "", set()),
        ({"Code": None, "Fields": None}, "", set()),
        (["Code"], "", set()),
        (None, "", set()),
    ],
)
def test_an_errors_code_and_fields_are_read_as_far_as_they_are_ours(
    answer: Any, code: str, variables: set[Variable]
) -> None:
    assert wire.read_problem(answer, DEFAULTS) == (code, frozenset(variables))


def test_fields_are_named_as_they_are_configured() -> None:
    names = wire.merged_parameters({"zipcode": "Party.Address.PostalCode"})
    answer = {"Fields": {"Party.Address.PostalCode": "", "Party.Address.ZipCode": ""}}
    assert wire.read_problem(answer, names)[1] == {Variable.ZIPCODE}


# Log-in ----------------------------------------------------------------------------------------------------------


def test_a_login_is_called_what_it_is_called_in_the_party() -> None:
    assert wire.login("alice", "s", DEFAULTS) == {"Login": {"Username": "alice", "Password": "s"}}
    own = wire.merged_parameters({"username": "Party.Login.UserName", "password": "Party.Login.Pwd"})
    assert wire.login("alice", "s", own) == {"Login": {"UserName": "alice", "Pwd": "s"}}
    elsewhere = wire.merged_parameters({"username": "Party.NickName", "password": "Party.Login.Secret.Word"})
    assert wire.login("alice", "s", elsewhere) == {"Login": {"Username": "alice", "Password": "s"}}


# Settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "own",
    [
        {},
        {"zipcode": "Party.Address.PostalCode"},
        {"gender": "Party.Person.Sex", "civility": "Party.Person.Title"},
        {"firstname": "Party.LastName", "lastname": "Party.FirstName"},
        {"password": "Party.Login.Secret"},
        {variable.value: path for variable, path in PARAMETERS.items()},
    ],
)
def test_parameters_may_be_given_other_places(own: dict[str, str]) -> None:
    wire.check_parameters(own)


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"postcode": "Party.PostCode"}, "no variable 'postcode'"),
        ({"zipcode": ""}, "dotted path"),
        ({"zipcode": "Party"}, "dotted path"),
        ({"zipcode": "Party."}, "dotted path"),
        ({"zipcode": "Services.Zip"}, "dotted path"),
        ({"zipcode": "Party..Zip"}, "dotted path"),
        ({"zipcode": "Party.Zip Code"}, "dotted path"),
        ({"zipcode": "Party.Zip\n"}, "dotted path"),
        ({"zipcode": "Party.Lines[0]"}, "dotted path"),
        ({"zipcode": "party.Zip"}, "dotted path"),
        ({"zipcode": "Party." + "a" * 200}, "dotted path"),
        ({"zipcode": "Party.Email"}, "in each other's way"),
        ({"zipcode": "Party.EMAIL"}, "in each other's way"),
        ({"zipcode": "Party.Email.Zip"}, "in each other's way"),
        ({"zipcode": "Party.Zip", "address": "Party.Zip.Street"}, "in each other's way"),
        ({"zipcode": "Party.Zip", "address": "Party.Zip"}, "in each other's way"),
        ({"firstname": "Party.LastName"}, "in each other's way"),
        ({"zipcode": "Party.PartyType"}, "keeps Party.PartyType"),
        ({"zipcode": "Party.Version"}, "keeps Party.Version"),
        ({"zipcode": "Party.version"}, "keeps Party.Version"),
        ({"zipcode": "Party.LanguageId.Zip"}, "keeps Party.LanguageId"),
        ({"username": "Party.PartyId"}, "keeps Party.PartyId"),
        ({"zipcode": "Party.Address"}, "is an object"),
        ({"zipcode": "Party.Login", "username": "Party.U", "password": "Party.P"}, "is an object"),
        ({"zipcode": "Party.Gender", "gender": "Party.Sex"}, "for 'gender' alone"),
        ({"zipcode": "Party.gender", "gender": "Party.Sex"}, "for 'gender' alone"),
        ({"civility": "Party.Gender", "gender": "Party.Civility"}, "alone"),
        ({"zipcode": "Party.Civility.Zip", "civility": "Party.Title"}, "for 'civility' alone"),
        ({"zipcode": "Party.Login.Password", "password": "Party.Secret"}, "for 'password' alone"),
    ],
)  # fmt: skip
def test_a_parameter_that_breaks_the_protocol_is_refused(own: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        wire.check_parameters(own)


@pytest.mark.parametrize("path", ["Party/Get", "/Party/Get", "v1/party.get/", "Parties(1)/Default.Get()", "get"])
def test_operations_may_have_other_paths(path: str) -> None:
    wire.check_operations({"get": path})


@pytest.mark.parametrize(
    "path",
    ["", "/", "//evil.example/Get", "https://evil.example/Get", "../Get", "Party/../Get", "Party/./Get", "Party/..",
     "Party//Get", "Party/Get?x=1", "Party/Get#x", "Party/%2e%2e/Get", "Party\\Get", "Party/Get\n", "Party Get",
     "Pärty/Get", "a" * 201],
)  # fmt: skip
def test_a_path_that_is_not_relative_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="relative to the URL"):
        wire.check_operations({"get": path})


def test_an_unknown_operation_is_refused() -> None:
    with pytest.raises(ValueError, match="no operation 'delete'"):
        wire.check_operations({"delete": "Party/Delete"})
