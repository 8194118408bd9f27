"""The campaign form's fields: text, locked choices, countries, birthdays, opt-ins.

Each reads one posted value into a value of `profile`, or says in a sentence what to do. A field that was not posted
keeps what it was prefilled with.

Not here: which of them a form has (`forms`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from enum import StrEnum
from functools import cache
from typing import Any, ClassVar

from flask_babel import gettext
from markupsafe import Markup, escape
from wtforms import BooleanField, EmailField, Field, PasswordField, StringField
from wtforms.fields.choices import Choice, SelectFieldBase
from wtforms.validators import ValidationError
from wtforms.widgets import ListWidget, RadioInput, TextInput, html_params

from widget.profile import (
    CONTROL,
    EARLIEST_BIRTHDAY,
    MAX_LENGTH,
    MAX_PASSWORD_LENGTH,
    Civility,
    Gender,
    countries,
    is_email,
    is_text,
)
from widget.web import i18n


class Answered:
    """A validator: something must be given. Words for it come from the field's `missing()`."""

    field_flags: ClassVar[Mapping[str, Any]] = {"required": True}

    def __call__(self, form: Any, field: Any) -> None:
        """Raises ValidationError when the field has no value; leaves an error that it has already."""
        if field.data in (None, "", False) and not field.errors:
            raise ValidationError(field.missing())


class SingleValue:
    """What all fields share: one value, read by `read`; the text as typed comes back when it can't be read."""

    data: Any
    raw_data: list[str] | None

    def process_formdata(self, valuelist: list[str]) -> None:
        """WTForms' hook."""
        if not valuelist:
            return
        if len(valuelist) > 1:
            self.data = None
            raise ValueError(gettext("This was sent more than once. Answer it again."))
        if self.data is not None and valuelist[0] == str(self.data):
            return  # left as it was prefilled: not even white space changes
        self.data = None
        self.data = self.read(valuelist[0])

    def read(self, text: str) -> Any:
        """The value of what was typed; None for nothing.

        Raises:
            ValueError: with a sentence for the participant.
        """
        return tidy(text) or None

    def missing(self) -> str:
        """The sentence for a mandatory field that was left empty."""
        return gettext("Fill in this field.")

    def typed(self) -> str:
        """What stands in the input; what HTML may not hold is shown as such."""
        return CONTROL.sub("\N{REPLACEMENT CHARACTER}", self.raw_data[0]) if self.raw_data else str(self.data or "")


class LineField(SingleValue, StringField):
    """One line of text, as `profile.is_text` has it."""

    def read(self, text: str) -> str | None:
        line = tidy(text)
        if len(line) > MAX_LENGTH:
            raise ValueError(gettext("Shorten this to %(count)s characters or fewer.", count=MAX_LENGTH))
        if line and not is_text(line):
            raise ValueError(gettext("This contains characters that cannot be sent. Type it again."))
        return line or None

    def _value(self) -> str:
        return self.typed()


class AddressField(LineField, EmailField):
    """An e-mail address."""

    def read(self, text: str) -> str | None:
        address = super().read(text)
        if address is not None and not is_email(address):
            raise ValueError(gettext("Write an e-mail address like name@example.com."))
        return address

    def missing(self) -> str:
        return gettext("Fill in your e-mail address.")


class SecretField(SingleValue, PasswordField):
    """A password, byte for byte: nothing is trimmed, and it is never shown again."""

    def read(self, text: str) -> str | None:
        if len(text) > MAX_PASSWORD_LENGTH:
            raise ValueError(gettext("This password is too long."))
        return text or None

    def missing(self) -> str:
        return gettext("Fill in your password.")


class EnumField(SingleValue, SelectFieldBase):
    """A choice locked to an enum's values, as radio buttons. A subclass names the enum; nothing else can.

    Attributes:
        kind: the enum.
        wording: value → label, for the form's language; a missing one gets the product's own.
    """

    kind: ClassVar[type[StrEnum]]
    widget = ListWidget(prefix_label=False)

    def __init__(self, label: str | None = None, validators: Any = None, *, wording: Any = None, **kwargs: Any) -> None:
        if "choices" in kwargs or "coerce" in kwargs:
            raise TypeError(f"{type(self).__name__} is locked to the values of {self.kind.__name__}")
        super().__init__(label, validators, option_widget=RadioInput(), **kwargs)
        self.label.field_id = False
        self.wording: Mapping[str, str] = wording or {}

    def read(self, text: str) -> StrEnum:
        """The enum's member; '' is not one of them."""
        try:
            return self.kind(text)
        except ValueError:
            raise ValueError(gettext("Choose one of the answers.")) from None

    def missing(self) -> str:
        return gettext("Choose one of the answers.")

    def iter_choices(self) -> Iterator[Choice]:
        """The members, in the enum's order."""
        own = choice_labels()
        for member in self.kind:
            label = self.wording.get(member.value) or own[member.value]
            yield Choice(member.value, label, member is self.data, {})


class GenderField(EnumField):
    """H or F."""

    kind = Gender


class CivilityField(EnumField):
    """M or MME."""

    kind = Civility


def choice_labels() -> Mapping[str, str]:
    """The product's own words for the locked values, in the page's language."""
    return {
        Gender.MAN: gettext("Man"),
        Gender.WOMAN: gettext("Woman"),
        Civility.MR: gettext("Mr"),
        Civility.MRS: gettext("Ms"),
    }


class CountrySelect:
    """A <select> of all countries; its options are made once per language, and the chosen one marked in them."""

    def __call__(self, field: CountryField, **kwargs: Any) -> Markup:
        """The element."""
        kwargs.setdefault("id", field.id)
        kwargs.setdefault("required", "required" in field.flags)
        options = _options(i18n.language())
        if field.data:
            value = escape(field.data)
            options = options.replace(f'value="{value}"', f'value="{value}" selected', 1)
        prompt = escape(gettext("Choose a country"))
        attributes = html_params(name=field.name, **kwargs)
        return Markup(f'<select {attributes}><option value="">{prompt}</option>{options}</select>')  # noqa: S704 - all of it is escaped above


class CountryField(SingleValue, Field):
    """A country, as its ISO 3166-1 alpha-3 code; named in the form's language."""

    widget = CountrySelect()

    def read(self, text: str) -> str | None:
        if text and text not in countries():
            raise ValueError(self.missing())
        return text or None

    def missing(self) -> str:
        return gettext("Choose a country from the list.")


class BirthdayField(SingleValue, Field):
    """A date of birth, typed as people type it: 1/8/2019, 01.08.2019, 01082019, 2019-08-01, 1 August 2019.

    The day comes first, as in all the product's languages, or the year, as browsers fill it in. The year has four
    digits: of two, nobody can say which century they mean.
    """

    widget = TextInput()

    def read(self, text: str) -> date | None:
        text = tidy(text)
        if not text:
            return None
        birthday = read_date(text, i18n.language()) if len(text) <= LONGEST_DATE else None
        if birthday is None:
            raise ValueError(gettext("Write the day, the month and the year, like 31/12/1990."))
        if birthday > datetime.now(UTC).date() or birthday < EARLIEST_BIRTHDAY:
            raise ValueError(gettext("Check the year of birth."))
        return birthday

    def missing(self) -> str:
        return gettext("Fill in your date of birth, like 31/12/1990.")

    def _value(self) -> str:
        return i18n.written_date(self.data) if isinstance(self.data, date) else self.typed()


class OptInField(BooleanField):
    """A box that the participant ticks; it is never ticked for them."""

    def _value(self) -> str:
        return "y"

    def missing(self) -> str:
        """The sentence for a mandatory box that was left empty."""
        return gettext("Tick this box to take part.")


NUMBERS = (
    re.compile(r"(?P<d>\d{1,2})[/. -](?P<m>\d{1,2})[/. -](?P<y>\d{4})"),
    re.compile(r"(?P<d>\d\d)(?P<m>\d\d)(?P<y>\d{4})"),
    re.compile(r"(?P<y>\d{4})[/. -](?P<m>\d{1,2})[/. -](?P<d>\d{1,2})"),
)
LONGEST_DATE = 40
"""Characters of a date; more are not looked at."""

WORDS = re.compile(r"(?P<d>\d{1,2})(?:er|st|nd|rd|th|e)?[. ]*(?P<m>[^\W\d_]+)[., ]*(?P<y>\d{4})")


def read_date(text: str, language: str) -> date | None:
    """The date that somebody typed in `language`, day first or year first; None when there is no such date."""
    text = re.sub(r"\s*([/. -])\s*", r"\1", text)
    for pattern in NUMBERS:
        if found := pattern.fullmatch(text):
            return _date(int(found["y"]), int(found["m"]), int(found["d"]))
    found = WORDS.fullmatch(text)
    month = found and i18n.month_number(found["m"], language)
    return _date(int(found["y"]), month, int(found["d"])) if found and month else None


def tidy(text: str) -> str:
    """Without white space around it or tabs in it, and in Unicode's composed form (NFC), as other systems expect it."""
    return unicodedata.normalize("NFC", text.strip().replace("\t", " "))


def _date(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day)
    except ValueError:
        return None


@cache
def _options(language: str) -> str:
    return "".join(
        f'<option value="{code}">{escape(name)}</option>' for code, name in i18n.country_names(language).items()
    )
