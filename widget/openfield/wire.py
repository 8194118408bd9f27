"""Profile ↔ Openfield's JSON, pure: what each variable is called there, and what may be said.

Not here: how bytes travel (`client`), and the sandbox's idea of the same protocol, which shares no code with this one
so that it cannot share a mistake. The protocol is openfield-webservice.yaml's; operations' paths and the parameter of
each variable are settings of an integration.

What is read is given back as it was read. So a record keeps properties that nobody here knows, the order of its
properties, numbers as the text that they came as (1.10, 1e5, -0), and lone surrogates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import simplejson

from widget.profile import (
    EARLIEST_BIRTHDAY,
    LOCKED,
    Civility,
    Gender,
    OptIn,
    Profile,
    Value,
    Variable,
    countries,
    is_email,
    is_text,
)

OPERATIONS: Mapping[str, str] = {
    "authenticate": "Party/Authenticate",
    "get": "Party/Get",
    "create": "Party/Create",
    "update": "Party/Update",
}
"""Operation → path relative to the setting "URL Openfield"."""

PARAMETERS: Mapping[Variable, str] = {
    Variable.EMAIL: "Party.Email",
    Variable.USERNAME: "Party.Login.Username",
    Variable.PASSWORD: "Party.Login.Password",
    Variable.FIRSTNAME: "Party.FirstName",
    Variable.LASTNAME: "Party.LastName",
    Variable.COUNTRY: "Party.Address.CountryId",
    Variable.LOCALITY: "Party.Address.City",
    Variable.ZIPCODE: "Party.Address.ZipCode",
    Variable.ADDRESS: "Party.Address.Street",
    Variable.GENDER: "Party.Gender",
    Variable.BIRTHDAY: "Party.BirthDate",
    Variable.CIVILITY: "Party.Civility",
}
"""Variable → dotted path of its parameter."""

Parameters = Mapping[Variable, str]

KEPT = ("Party.PartyType", "Party.Version", "Party.LanguageId", "Party.PartyId")
"""What the protocol keeps for itself: no variable may be there."""

RESERVED = (Variable.GENDER, Variable.CIVILITY, Variable.PASSWORD)
"""The variables whose default parameter is theirs alone, even when they are configured to be elsewhere."""

OBJECTS = frozenset(path.rsplit(".", 1)[0].casefold() for path in PARAMETERS.values())
"""Party, Party.Login, Party.Address: objects of the protocol, so no place for a text."""

MAX_PATH_LENGTH = 200
MAX_DEPTH = 200
"""How deep an answer may be nested: less than what Python's recursion limit lets us write again."""

_PARAMETER = re.compile(r"Party(\.\w[\w-]*)+")
_SEGMENT = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._~!$&'()*+,;=@-]+"
_PATH = re.compile(rf"/?{_SEGMENT}(/{_SEGMENT})*/?")
_BIRTHDAY = re.compile(r"([0-9]{2})([0-9]{2})([0-9]{4})")


# Settings --------------------------------------------------------------------------------------------------------


def check_operations(overrides: Mapping[str, str]) -> None:
    """Whether an integration may have these paths of operations.

    Raises:
        ValueError: it may not; the message is for an admin.
    """
    for operation, path in overrides.items():
        if operation not in OPERATIONS:
            raise ValueError(f"there is no operation {operation!r}; there are {', '.join(OPERATIONS)}")
        if len(path) > MAX_PATH_LENGTH or not _PATH.fullmatch(path):
            raise ValueError(
                f"the path of {operation!r} must be relative to the URL of Openfield, such as {OPERATIONS[operation]},"
                " without scheme, host, dot segments, query or percent signs"
            )


def check_parameters(overrides: Mapping[str, str]) -> None:
    """Whether an integration may have these parameters, on top of the default ones.

    Upper and lower case count as the same here, since servers exist for which they are.

    Raises:
        ValueError: it may not; the message is for an admin.
    """
    for name, path in overrides.items():
        if name not in set(Variable):
            raise ValueError(f"there is no variable {name!r}; there are {', '.join(Variable)}")
        if len(path) > MAX_PATH_LENGTH or not _PARAMETER.fullmatch(path):
            raise ValueError(f"the parameter of {name!r} must be a dotted path that starts with 'Party.'")
        _check_place(Variable(name), path)
    _check_apart(merged_parameters(overrides))


def _check_place(variable: Variable, path: str) -> None:
    """Raises ValueError where `path` belongs to the protocol or to another variable for good."""
    for kept in KEPT:
        if _is_within(path, kept):
            raise ValueError(f"{variable.value!r} cannot be at {path}: the protocol keeps {kept} for itself")
    if path.casefold() in OBJECTS:
        raise ValueError(f"{variable.value!r} cannot be at {path}: that is an object")
    for owner in RESERVED:
        if owner is not variable and _is_within(path, PARAMETERS[owner]):
            raise ValueError(
                f"{variable.value!r} cannot be at {path}: {PARAMETERS[owner]} is for {owner.value!r} alone"
            )


def _check_apart(parameters: Parameters) -> None:
    """Raises ValueError where two variables share a path, or one's path is inside another's."""
    for variable, path in parameters.items():
        for other, its_path in parameters.items():
            if variable is not other and _is_within(path, its_path):
                raise ValueError(
                    f"{variable.value!r} at {path} and {other.value!r} at {its_path} are in each other's way"
                )


def _is_within(path: str, other: str) -> bool:
    """Whether `path` is `other`, or below it."""
    return f"{path}.".casefold().startswith(f"{other}.".casefold())


def merged_operations(overrides: Mapping[str, str]) -> Mapping[str, str]:
    """Every operation's path, for an integration that says only what differs."""
    return {**OPERATIONS, **overrides}


def merged_parameters(overrides: Mapping[str, str]) -> Parameters:
    """Every variable's parameter, for an integration that says only what differs."""
    return {**PARAMETERS, **{Variable(name): path for name, path in overrides.items()}}


# JSON ------------------------------------------------------------------------------------------------------------


class Number(simplejson.RawJSON):
    """A number that a Python int is not the same text as: kept, and written again, as the text that it came as.

    A Decimal would not do: it writes 1e5 as 1E+5, and refuses large exponents.
    """

    encoded_json: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Number) and self.encoded_json == other.encoded_json

    def __hash__(self) -> int:
        return hash(self.encoded_json)

    def __repr__(self) -> str:
        return f"Number({self.encoded_json!r})"


def _integer(text: str) -> int | Number:
    return Number(text) if text == "-0" or len(text) > 1000 else int(text)


def parse(body: bytes) -> Any:
    """The JSON value that `body` is (RFC 8259: UTF-8; a byte order mark is passed over).

    Raises:
        ValueError: it is none, or is nested deeper than MAX_DEPTH.
    """
    try:
        value = simplejson.loads(body.decode("utf-8-sig"), parse_float=Number, parse_int=_integer)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level, depth = [value], 0
    while level:
        level, depth = [child for each in level for child in _children(each)], depth + 1
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    return value


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def serialise(document: Any) -> bytes:
    """The bytes of a JSON value: UTF-8, everything beyond ASCII escaped, so that lone surrogates survive too."""
    return _text(document).encode()


def _text(document: Any) -> str:
    return simplejson.dumps(document, use_decimal=True, allow_nan=False, separators=(",", ":"))


# What is read ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    """A person's record as Openfield gave it, less any password. Its repr shows nothing personal.

    Attributes:
        party: the `Party` object, not to be changed.

    Raises:
        ValueError: no usable PartyId (a text) or Version (an integer, 1 or more).
    """

    party: Mapping[str, Any] = field(repr=False)

    def __post_init__(self) -> None:
        _checked_id(self.party.get("PartyId"))
        _checked_version(self.party.get("Version"))

    @property
    def party_id(self) -> str:
        """Whose record it is."""
        return _checked_id(self.party.get("PartyId"))

    @property
    def version(self) -> int:
        """The version that was read, and that an Update must name."""
        return _checked_version(self.party.get("Version"))

    def to_json(self) -> dict[str, str]:
        """What `from_json` reads. The party is in it as text, so that no JSON library on the way rewrites a number."""
        return {"party": _text(self.party)}

    @classmethod
    def from_json(cls, data: Mapping[str, str]) -> Record:
        """The record that `to_json` wrote.

        Raises:
            ValueError: it is not what `to_json` writes.
        """
        return cls(_object(parse(data.get("party", "").encode())))


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a record stands after a Create or an Update."""

    party_id: str = field(repr=False)
    version: int


def read_record(answer: Any, parameters: Parameters) -> Record:
    """The record in the answer of Authenticate or Get; a password in it is dropped at once.

    Raises:
        ValueError: there is no usable one.
    """
    party = _object(_object(answer).get("Party"))
    _strip_password(party, parameters)
    return Record(party)


def read_stored(answer: Any) -> Stored:
    """The answer of Create or Update.

    Raises:
        ValueError: it says no usable PartyId or Version.
    """
    answer = _object(answer)
    return Stored(_checked_id(answer.get("PartyId")), _checked_version(answer.get("Version")))


def _object(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise ValueError("not an object")


def _checked_id(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("no usable PartyId")
    return value


def _checked_version(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError("no usable Version")
    return value


def read_problem(answer: Any, parameters: Parameters) -> tuple[str, frozenset[Variable]]:
    """What an error's body says: its Code in upper case ('' when there is none), and the variables among its Fields.

    Never fails: the status has said already that something is wrong. Fields is an object; a list of names will do.
    """
    if not isinstance(answer, dict):
        return "", frozenset()
    members = {name.casefold(): value for name, value in answer.items()}
    code, named = members.get("code"), members.get("fields")
    names = {name.casefold() for name in named if isinstance(name, str)} if isinstance(named, dict | list) else set()
    variables = frozenset(variable for variable, path in parameters.items() if path.casefold() in names)
    return (code.strip().upper() if isinstance(code, str) else ""), variables


def decode(record: Record, parameters: Parameters, today: date | None = None) -> Profile:
    """What the record knows of the variables, to fill a form in with.

    A value that does not fit its variable gives None; none is repaired. So ` Alice` is given with its space (it is a
    text, and a read-only field must not change it), but an e-mail address with a space, `h` or `Mme` is not given.
    The password is always None.

    Args:
        today: the last day on which somebody may have been born (today in UTC).
    """
    last_birthday = today or datetime.now(UTC).date()
    read: dict[str, Any] = {
        variable.value: _fitting(variable, _value_at(record.party, parameters[variable]), last_birthday)
        for variable in Variable
    }
    return Profile(**read)


def _fitting(variable: Variable, value: Any, last_birthday: date) -> Value | None:
    if not isinstance(value, str) or variable is Variable.PASSWORD:
        return None
    if variable in LOCKED:
        return LOCKED[variable](value) if value in set(LOCKED[variable]) else None
    if variable is Variable.BIRTHDAY:
        return _birthday(value, last_birthday)
    return value if _fits(variable, value) else None


def _fits(variable: Variable, value: str) -> bool:
    if variable is Variable.EMAIL:
        return is_email(value)
    if variable is Variable.COUNTRY:
        return value in countries()
    return is_text(value) and not value.isspace()


def _birthday(text: str, last: date) -> date | None:
    match = _BIRTHDAY.fullmatch(text)
    if match is None:
        return None
    day, month, year = map(int, match.groups())
    try:
        birthday = date(year, month, day)
    except ValueError:
        return None
    return birthday if EARLIEST_BIRTHDAY <= birthday <= last else None


# What is sent ----------------------------------------------------------------------------------------------------


def login(username: str, password: str, parameters: Parameters) -> dict[str, Any]:
    """What Authenticate is asked, beside the caller.

    `Login` is one schema in the protocol, of Authenticate as of Party. So its members are called what they are called
    under Party.Login, if that is where the integration has them.
    """
    names = (
        _login_member(parameters[Variable.USERNAME]) or "Username",
        _login_member(parameters[Variable.PASSWORD]) or "Password",
    )
    return {"Login": dict(zip(names, (username, password), strict=True))}


def _login_member(path: str) -> str | None:
    parent, _, name = path.rpartition(".")
    return name if parent == "Party.Login" else None


def encode(profile: Profile, optins: Iterable[OptIn], language: str, parameters: Parameters) -> dict[str, Any]:
    """What Create is asked, beside the caller: the variables that have a value, and the opt-ins that were ticked."""
    party: dict[str, Any] = {"PartyType": "Person", "Version": 1, "LanguageId": language}
    for variable, value in profile.items():
        _put(party, parameters[variable], _written(value))
    return _sealed_off(party, optins, parameters)


def lay_over(
    record: Record,
    changes: Mapping[Variable, Value | None],
    optins: Iterable[OptIn],
    language: str,
    parameters: Parameters,
) -> dict[str, Any]:
    """What Update is asked, beside the caller: the whole record as it was read, with the changes laid on it.

    None removes a property. A password is never sent, whether it was read or is among the changes. The opt-ins are
    those that were ticked this time, never those that were read.
    """
    party = deepcopy(dict(record.party))
    for variable, value in changes.items():
        if value is None:
            _remove(party, parameters[variable])
        else:
            _put(party, parameters[variable], _written(value))
    party.update(PartyType="Person", PartyId=record.party_id, Version=record.version, LanguageId=language)
    _strip_password(party, parameters)
    return _sealed_off(party, optins, parameters)


def _written(value: Value) -> str:
    """Not strftime, which writes years before 1000 short."""
    return f"{value.day:02}{value.month:02}{value.year:04}" if isinstance(value, date) else str(value)


def _sealed_off(party: dict[str, Any], optins: Iterable[OptIn], parameters: Parameters) -> dict[str, Any]:
    """The document, after the very last look at the locked fields: a stray value in them is removed."""
    for variable, kind in ((Variable.GENDER, Gender), (Variable.CIVILITY, Civility)):
        for path in {PARAMETERS[variable], parameters[variable]}:
            value = _value_at(party, path)
            if not (isinstance(value, str) and value in set(kind)):
                _remove(party, path)
    services = [_service(optin) for optin in optins]
    return {"Party": party, "Services": services} if services else {"Party": party}


def _service(optin: OptIn) -> dict[str, Any]:
    activated_at = optin.activated_at.astimezone(UTC).replace(tzinfo=None)
    return {
        "ActivationDate": activated_at.isoformat(timespec="seconds"),
        "ServiceId": optin.code,
        "ServiceStatus": True,
        "ServiceTypeId": "OPTINS",
    }


def _strip_password(party: dict[str, Any], parameters: Parameters) -> None:
    for path in {PARAMETERS[Variable.PASSWORD], parameters[Variable.PASSWORD]}:
        _remove(party, path)


# Dotted paths ----------------------------------------------------------------------------------------------------


def _names(path: str) -> Iterator[str]:
    """The names below `Party`."""
    return iter(path.split(".")[1:])


def _value_at(party: Mapping[str, Any], path: str) -> Any:
    """None where there is nothing, or something on the way is not an object."""
    node: Any = party
    for name in _names(path):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node


def _put(party: dict[str, Any], path: str, value: str) -> None:
    """Makes the objects on the way, in place of what is not one."""
    *parents, last = _names(path)
    node = party
    for name in parents:
        if not isinstance(node.get(name), dict):
            node[name] = {}
        node = node[name]
    node[last] = value


def _remove(party: dict[str, Any], path: str) -> None:
    *parents, last = _names(path)
    node: Any = party
    for name in parents:
        node = node.get(name) if isinstance(node, dict) else None
    if isinstance(node, dict):
        node.pop(last, None)
