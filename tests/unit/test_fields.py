"""How a field reads what people type."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from flask import Flask, g
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import MultiDict
from wtforms import Form

from widget.profile import Civility, Gender, Variable, countries
from widget.web import i18n
from widget.web.fields import (
    AddressField,
    Answered,
    BirthdayField,
    CivilityField,
    CountryField,
    EnumField,
    GenderField,
    LineField,
    OptInField,
    SecretField,
    read_date,
)


@pytest.fixture(autouse=True)
def _speaking() -> Iterator[None]:
    app = Flask("fields")
    i18n.init_app(app)
    with app.test_request_context():
        g.language = "fr"
        yield


class Everything(Form):
    firstname = LineField()
    email = AddressField()
    password = SecretField()
    gender = GenderField()
    civility = CivilityField()
    country = CountryField()
    birthday = BirthdayField()
    optin_newsletter = OptInField()


def post(*pairs: tuple[str, str], data: dict[str, object] | None = None) -> Everything:
    return Everything(MultiDict(pairs), data=data)


# Locked choices


@pytest.mark.parametrize("field", ["gender", "civility"])
@pytest.mark.parametrize("value", ["", "h", "f", "X", " H", "H ", "mme", "Mme", "m", "true", "\x00", "H,F", "Н"])
def test_a_locked_field_refuses_everything_but_its_values(field: str, value: str) -> None:
    form = post((field, value))
    assert not form.validate()
    assert form[field].data is None


@given(st.text())
def test_no_text_at_all_gets_past_a_locked_field(text: str) -> None:
    app = Flask("fields")
    i18n.init_app(app)
    with app.test_request_context():
        form = post(("gender", text), ("civility", text))
        form.validate()
        assert form["gender"].data in (None, *Gender)
        assert form["civility"].data in (None, *Civility)
        assert (form["gender"].data is None) == (text not in ("H", "F"))


@pytest.mark.parametrize("field", ["gender", "civility", "firstname", "email", "password", "country", "birthday"])
def test_a_field_sent_twice_is_refused(field: str) -> None:
    form = post((field, "H"), (field, "H"))
    assert not form.validate()
    assert form[field].data is None


@pytest.mark.parametrize(("value", "member"), [("H", Gender.MAN), ("F", Gender.WOMAN)])
def test_a_locked_field_takes_its_values(value: str, member: Gender) -> None:
    form = post(("gender", value))
    assert form.validate()
    assert form["gender"].data is member


@pytest.mark.parametrize("argument", [{"choices": [("X", "x")]}, {"coerce": str.lower}])
def test_no_argument_changes_what_a_locked_field_takes(argument: dict[str, Any]) -> None:
    class Loose(Form):
        gender = GenderField(**argument)

    with pytest.raises(TypeError, match="locked"):
        Loose()


def test_a_locked_field_shows_the_enums_values_whatever_its_wording() -> None:
    class Worded(Form):
        gender = GenderField(wording={"H": "Monsieur", "X": "Autre"})

    html = "".join(str(option()) for option in Worded()["gender"])
    assert 'value="H"' in html
    assert 'value="F"' in html
    assert html.count("value=") == 2
    assert next(option.label.text for option in Worded()["gender"]) == "Monsieur"


def test_a_value_outside_the_set_does_not_prefill() -> None:
    form = Everything(data={"gender": "h", "civility": "Mme"})
    assert all("checked" not in str(option()) for option in [*form["gender"], *form["civility"]])


def test_an_enum_field_is_locked_by_its_subclass_alone() -> None:
    kinds = {kind.kind for kind in EnumField.__subclasses__()}
    assert kinds == {Gender, Civility}


# Birthdays


@pytest.mark.parametrize(
    "typed",
    ["1/8/2019", "01/08/2019", "01.08.2019", "1-8-2019", "1 8 2019", " 01 / 08 / 2019 ", "01082019", "2019-08-01",
     "2019/8/1", "1 août 2019", "1er août 2019", "1 AOÛT 2019", "1 aout 2019"],
)  # fmt: skip
def test_a_birthday_is_read_as_people_type_it(typed: str) -> None:
    form = post(("birthday", typed))
    assert form.validate(), form.errors
    assert form["birthday"].data == date(2019, 8, 1)


@pytest.mark.parametrize(
    ("language", "typed"),
    [("nl", "1 augustus 2019"), ("nl", "1 aug. 2019"), ("en", "1st August 2019"), ("en", "1 Aug 2019"),
     ("de", "1. August 2019"), ("de", "1.8.2019"), ("fr", "1 aoû 2019"), ("en", "1 augu 2019")],
)  # fmt: skip
def test_a_birthday_may_have_its_month_in_words(language: str, typed: str) -> None:
    assert read_date(typed, language) == date(2019, 8, 1)


@pytest.mark.parametrize(
    "typed",
    ["31/02/2000", "29/02/2001", "1/13/2000", "0/1/2000", "1/8/19", "yesterday", "1/8", "2019", "1 brumaire 1990",
     "1 jui 1990",
     "01/08/2019 00:00", "1/8/20190", "٣٢/١/١٩٩٠", "1" * 300],
)  # fmt: skip
def test_what_is_no_date_is_refused_and_comes_back_as_typed(typed: str) -> None:
    form = post(("birthday", typed))
    assert not form.validate()
    assert form["birthday"].data is None
    assert typed in str(form["birthday"]())


@pytest.mark.parametrize("field", ["firstname", "email", "password", "gender", "country", "birthday"])
@pytest.mark.parametrize("space", ["\t", " ", "\u2003", "1", "a"])
def test_sixty_thousand_characters_are_refused_at_once(field: str, space: str) -> None:
    started = time.process_time()
    assert not post((field, f"1{space * 60_000}1")).validate()
    assert time.process_time() - started < 1


def test_nobody_is_born_tomorrow_or_in_the_nineteenth_century() -> None:
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    for day in (tomorrow, date(1899, 12, 31)):
        assert not post(("birthday", i18n.written_date(day))).validate()
    assert post(("birthday", "01/01/1900")).validate()


@given(st.dates(min_value=date(1900, 1, 1), max_value=date(2020, 1, 1)))
def test_a_birthday_is_never_a_day_off(day: date) -> None:
    written = i18n.written_date(day)
    for typed in (written, written.replace("/", "."), written.replace("/", ""), day.isoformat(),
                  f"{day.day}/{day.month}/{day.year}"):  # fmt: skip
        assert read_date(typed, "fr") == day


# Text, countries, opt-ins


def test_text_is_trimmed_and_composed_but_a_password_is_not() -> None:
    decomposed = "Zoe\u0308"
    form = post(("firstname", f"  {decomposed} "), ("password", f"  {decomposed} "))
    assert form.validate()
    assert form["firstname"].data == "Zoë"
    assert form["password"].data == f"  {decomposed} "


def test_a_prefilled_value_that_was_left_alone_stays_as_it_was() -> None:
    form = post(("firstname", " Zoe\u0308 "), data={"firstname": " Zoe\u0308 "})
    assert form["firstname"].data == " Zoe\u0308 "


def test_a_field_that_was_not_posted_keeps_what_it_was_prefilled_with() -> None:
    form = post(("firstname", "A"), data={"email": "alice@example.org", "gender": Gender.WOMAN})
    assert form["email"].data == "alice@example.org"
    assert form["gender"].data is Gender.WOMAN


def test_a_prefilled_value_can_be_emptied() -> None:
    assert post(("firstname", ""), data={"firstname": "Alice"})["firstname"].data is None


@pytest.mark.parametrize("typed", ["alice", "alice@", "@example.org", "a b@example.org", "a@b", "a@b..c", "a" * 300])
def test_what_is_no_email_address_is_refused_and_comes_back(typed: str) -> None:
    form = post(("email", typed))
    assert not form.validate()
    assert typed in str(form["email"]())


@pytest.mark.parametrize("typed", ["a\x00b", "a\nb", "x" * 201])
def test_text_that_cannot_be_sent_is_refused(typed: str) -> None:
    assert not post(("firstname", typed)).validate()


def test_a_password_is_never_shown_again() -> None:
    assert "canary" not in str(post(("password", "canary"))["password"]())


def test_all_249_countries_are_offered_in_the_campaigns_language_in_alphabetical_order() -> None:
    html = str(post()["country"]())
    assert html.count("<option") == 250
    assert html.index("Algérie") < html.index("Allemagne") < html.index("Égypte") < html.index("Zambie")
    assert 'value="BEL">Belgique' in html


def test_the_chosen_country_is_selected_and_only_it() -> None:
    html = str(post(("country", "BEL"))["country"]())
    assert html.count("selected") == 1
    assert '<option value="BEL" selected>Belgique' in html


@pytest.mark.parametrize("code", ["BE", "bel", "XXX", "Belgique", '"><script>'])
def test_a_country_is_an_alpha_3_code(code: str) -> None:
    form = post(("country", code))
    assert not form.validate()
    assert "<script>" not in str(form["country"]())


def test_every_language_names_every_country() -> None:
    for language in ("fr", "nl", "en", "de"):
        assert set(i18n.country_names(language)) == countries()


def test_an_optin_is_never_ticked_by_itself() -> None:
    assert "checked" not in str(Everything()["optin_newsletter"]())
    assert "checked" in str(post(("optin_newsletter", "y"))["optin_newsletter"]())


@pytest.mark.parametrize("field", [variable.value for variable in Variable if variable.value in Everything.__dict__])
def test_a_mandatory_field_left_empty_says_what_to_do(field: str) -> None:
    class Mandatory(Form):
        pass

    kind = Everything.__dict__[field].field_class
    setattr(Mandatory, field, kind(validators=[Answered()]))
    form = Mandatory(MultiDict())
    assert not form.validate()
    assert len(form[field].errors) == 1
    assert str(form[field].errors[0]).endswith(".")
