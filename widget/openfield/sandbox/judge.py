"""Judges what is sent: by the schemas of the protocol file, `webservice.yaml`, and by what they cannot say.

Not here: what depends on the records, such as a version or a name that is taken (`registry`). Nothing here quotes a
value, which may be a password.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pycountry
import yaml
from jsonschema import Draft202012Validator, ValidationError, validators
from jsonschema.protocols import Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from widget.openfield.sandbox.message import Json, Refused, at, invalid_party, serialize

PROTOCOL_FILE = Path(__file__).resolve().parents[1] / "webservice.yaml"
OPERATIONS = ("Authenticate", "Get", "Create", "Update")


def judge(operation: str, body: Any, *, tenant: str, application: str) -> None:
    """Refuse what breaks the protocol file, or the rules beyond it that no record is needed for.

    Raises:
        Refused: 403 for a caller that is not known, before anything else; 422 with every place that is wrong.
    """
    wrong = violations(request_validator(operation), body)
    caller = {"IdTenant": tenant, "IdApplication": application}
    if wrong.keys().isdisjoint({WHOLE, *caller}):
        strangers = {name: "is not known" for name, known in caller.items() if body[name] != known}
        if strangers:
            raise Refused(403, "UNKNOWN_CALLER", "the caller is not known", strangers)
    wrong = wrong or dict(OPERATION_RULES[operation](body))
    if wrong and operation in ("Create", "Update"):
        raise invalid_party(wrong)
    if wrong:
        raise Refused(422, "INVALID_REQUEST", "the request is not as it must be", wrong)


# By the schema

WHOLE = "(body)"
"""The place of what is wrong with the body as a whole."""

REASONS: Mapping[str, Callable[[Any], str]] = {
    "additionalProperties": lambda _: "has a name that means nothing here",
    "const": lambda wanted: f"must be {serialize(wanted)}",
    "enum": lambda wanted: f"must be one of {', '.join(wanted)}",
    "maximum": lambda wanted: f"must be {wanted} or less",
    "minimum": lambda wanted: f"must be {wanted} or more",
    "pattern": lambda wanted: f"must match {wanted}",
    "type": lambda wanted: f"must be of type {wanted if isinstance(wanted, str) else ' or '.join(wanted)}",
}
"""What is said of a value that breaks a keyword of JSON Schema."""


def _check_pattern(validator: Validator, pattern: str, value: object, schema: object) -> Iterator[ValidationError]:
    # JSON Schema means ECMA-262, where \d is ASCII and $ is the very end; Python's $ lets a line feed pass.
    if isinstance(value, str) and not re.search(re.sub(r"\$$", r"\\Z", pattern), value, re.ASCII):
        yield ValidationError("")


def _is_integer(checker: object, value: object) -> bool:
    if isinstance(value, Decimal):
        return value == value.to_integral_value()
    return isinstance(value, int) and not isinstance(value, bool)


SchemaValidator = validators.create(
    Draft202012Validator.META_SCHEMA,
    {**Draft202012Validator.VALIDATORS, "pattern": _check_pattern},
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer),
)


@cache
def _protocol() -> Any:
    return yaml.safe_load(PROTOCOL_FILE.read_text(encoding="utf-8"))


@cache
def request_validator(operation: str) -> Validator:
    """The validator of an operation's request body (OpenAPI 3.1, so JSON Schema 2020-12)."""
    protocol = _protocol()
    body = protocol["paths"][f"/Party/{operation}"]["post"]["requestBody"]
    if "$ref" in body:
        body = protocol["components"]["requestBodies"][body["$ref"].rpartition("/")[2]]
    request = body["content"]["application/json"]["schema"]
    resource = DRAFT202012.create_resource({"components": protocol["components"], "request": request})
    resources: Registry[Any] = Registry().with_resource("urn:openfield", resource)
    validator: Validator = SchemaValidator({"$ref": "urn:openfield#/request"}, registry=resources)
    return validator


def violations(validator: Validator, document: Any) -> dict[str, str]:
    """What is wrong with `document`: dotted path → reason. Empty where all is well."""
    return {path: reason for error in validator.iter_errors(document) for path, reason in _told(error)}


def _told(error: ValidationError) -> Iterator[tuple[str, str]]:
    path = [str(step) for step in error.absolute_path]
    wanted: Any = error.validator_value
    found: Any = error.instance
    if error.validator == "required":
        yield from ((".".join([*path, name]), "is missing") for name in wanted if name not in found)
    else:
        yield ".".join(path) or WHOLE, REASONS[str(error.validator)](wanted)


# Beyond the schema


def _is_day(text: str) -> bool:
    with suppress(ValueError):
        return bool(date(int(text[4:]), int(text[2:4]), int(text[:2])))
    return False


def _is_time(text: str) -> bool:
    with suppress(ValueError):
        return bool(datetime.fromisoformat(text))
    return False


def _is_country(text: str) -> bool:
    return pycountry.countries.get(alpha_3=text) is not None


NAMES = ("Login.Username", "Login.Password", "FirstName", "LastName")
PLACES = ("Address.Street", "Address.ZipCode", "Address.City")

VALUE_RULES: Mapping[str, tuple[Callable[[str], object], str]] = {
    "Party.Email": (re.compile(r"[^\s@]+@[^\s@]+").fullmatch, "must be an e-mail address"),
    "Party.LanguageId": (re.compile("[a-z]{2}").fullmatch, "must be a language of ISO 639-1, such as fr"),
    "Party.BirthDate": (_is_day, "must be a day that exists, DDMMYYYY"),
    "Party.Address.CountryId": (_is_country, "must be a country of ISO 3166-1 alpha-3"),
    **{f"Party.{name}": (str.strip, "must not be empty: what is not known is not sent") for name in NAMES + PLACES},
}
"""Dotted path → what a value that is there must satisfy, and the reason otherwise."""


def broken_values(body: Json, kept: Json | None = None) -> dict[str, str]:
    """The values that break a rule: dotted path → reason.

    A value that `kept`, the record before, has already may come back as it is: whoever updates a record gives back
    unchanged what it was given.
    """
    return {
        path: reason
        for path, (satisfied, reason) in VALUE_RULES.items()
        if (value := at(body, path)) is not None and not satisfied(value) and value != at(kept, path)
    }


def _services_rules(body: Json) -> Iterator[tuple[str, str]]:
    seen = set()
    for place, service in enumerate(body.get("Services", [])):
        if not _is_time(service["ActivationDate"]):
            yield f"Services.{place}.ActivationDate", "must be a time that exists"
        if not service["ServiceId"].strip():
            yield f"Services.{place}.ServiceId", "must not be empty"
        if service["ServiceId"] in seen:
            yield f"Services.{place}.ServiceId", "is there twice"
        seen.add(service["ServiceId"])


def _create_rules(body: Json) -> Iterator[tuple[str, str]]:
    party = body["Party"]
    if "PartyId" in party:
        yield "Party.PartyId", "is Openfield's to give, so it cannot be there on Create"
    if party["Version"] != 1:
        yield "Party.Version", "must be 1 on Create"
    if "Login" in party and "Password" not in party["Login"]:
        yield "Party.Login.Password", "is missing: nobody could log in"
    yield from _services_rules(body)


def _update_rules(body: Json) -> Iterator[tuple[str, str]]:
    if "PartyId" not in body["Party"]:
        yield "Party.PartyId", "is missing"
    if "Password" in body["Party"].get("Login", {}):
        yield "Party.Login.Password", "is for Create only"
    yield from _services_rules(body)


OPERATION_RULES: Mapping[str, Callable[[Json], Iterable[tuple[str, str]]]] = {
    "Authenticate": lambda _: (),
    "Get": lambda _: (),
    "Create": _create_rules,
    "Update": _update_rules,
}
