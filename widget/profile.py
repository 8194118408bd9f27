"""What a participant tells us, as pure values: the variables, the profile, the opt-ins.

Not here: what Openfield calls these things (`openfield.wire`) and how they are asked (`web.forms`).
The variables and their values come from the product's data table (docs/ARCHITECTURE.md, "Data").
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import date, datetime
from enum import StrEnum
from functools import cache
from typing import Any

import pycountry

LANGUAGES = ("fr", "nl", "en", "de")
"""The languages that the product speaks completely; a campaign has one of them."""

MAX_LENGTH = 200
"""Longest text value, in characters, of any variable but the password."""

MAX_PASSWORD_LENGTH = 1024

EARLIEST_BIRTHDAY = date(1900, 1, 1)

EMAIL = re.compile(r"[^\s@<>,;:\"()\[\]\\]+@[^\s@<>,;:\"()\[\]\\.]+(\.[^\s@<>,;:\"()\[\]\\.]+)+")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Variable(StrEnum):
    """The names of the form's fields, which are also the names of the HTML inputs."""

    EMAIL = "email"
    USERNAME = "username"
    PASSWORD = "password"  # noqa: S105 - the name of the field
    FIRSTNAME = "firstname"
    LASTNAME = "lastname"
    COUNTRY = "country"
    LOCALITY = "locality"
    ZIPCODE = "zipcode"
    ADDRESS = "address"
    GENDER = "gender"
    BIRTHDAY = "birthday"
    CIVILITY = "civility"


class Gender(StrEnum):
    """Locked: no other value may ever leave in the gender field."""

    MAN = "H"
    WOMAN = "F"


class Civility(StrEnum):
    """Locked: no other value may ever leave in the civility field."""

    MR = "M"
    MRS = "MME"


LOCKED: Mapping[Variable, type[StrEnum]] = {Variable.GENDER: Gender, Variable.CIVILITY: Civility}
"""The variables whose values are given by an enum and by nothing else."""

ACCOUNT = (Variable.EMAIL, Variable.USERNAME, Variable.PASSWORD)
"""The variables that a sign-up always asks, in this order."""

Value = str | date | Gender | Civility


@cache
def countries() -> frozenset[str]:
    """The ISO 3166-1 alpha-3 codes, 249 of them."""
    return frozenset(country.alpha_3 for country in pycountry.countries)


@dataclass(frozen=True, slots=True)
class Profile:
    """A person's data; None where nothing is known or nothing was said.

    `country` is ISO 3166-1 alpha-3. `password` never appears in the repr.
    """

    email: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    firstname: str | None = None
    lastname: str | None = None
    country: str | None = None
    locality: str | None = None
    zipcode: str | None = None
    address: str | None = None
    gender: Gender | None = None
    birthday: date | None = None
    civility: Civility | None = None

    def __getitem__(self, variable: Variable) -> Value | None:
        value: Value | None = getattr(self, variable.value)
        return value

    def items(self) -> Iterator[tuple[Variable, Value]]:
        """The variables that have a value, with it."""
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None:
                yield Variable(each.name), value

    def to_json(self) -> dict[str, str]:
        """What `from_json` reads: a birthday as ISO 8601, enums as their values. Includes the password."""
        return {
            variable.value: value.isoformat() if isinstance(value, date) else str(value)
            for variable, value in self.items()
        }

    @classmethod
    def from_json(cls, data: Mapping[str, str]) -> Profile:
        """The profile that `to_json` wrote.

        Raises:
            ValueError: a value that does not fit its variable.
        """
        return cls(**{name: _from_text(Variable(name), text) for name, text in data.items()})


def _from_text(variable: Variable, text: str) -> Any:
    if variable is Variable.BIRTHDAY:
        return date.fromisoformat(text)
    return LOCKED[variable](text) if variable in LOCKED else text


@dataclass(frozen=True, slots=True)
class OptIn:
    """A box that the participant ticked. `activated_at` is the aware time of the participation."""

    code: str
    activated_at: datetime


def is_email(text: str) -> bool:
    """Whether `text` looks like an address that mail can be sent to: something, an @, a dotted domain."""
    return len(text) <= MAX_LENGTH and EMAIL.fullmatch(text) is not None


def is_text(text: str) -> bool:
    """Whether `text` may stand in a single-line field: 1 to MAX_LENGTH characters, no control characters."""
    return 0 < len(text) <= MAX_LENGTH and CONTROL.search(text) is None
