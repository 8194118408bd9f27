"""What a valid setting is: integrations, websites, master forms, campaigns and push rules, as frozen values.

The rules for the settings file now and for the console's forms later. Not here: where settings are kept (`models`),
whether what they name exists and fits together (`settings_file`), which push rule wins (`campaigns`).

Validation takes `context={"private_hosts": frozenset[str]}`: the hosts (`name` or `name:port`) that a URL may name
although they are private or plain http. `reasons` puts what pydantic found in words that say what to do.
Origins are as RFC 6454 section 6.2 writes them, since browsers compare them letter for letter.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from datetime import UTC, datetime
from enum import StrEnum
from ipaddress import AddressValueError, IPv4Address, ip_address
from typing import Annotated, Any, Self, get_args
from urllib.parse import SplitResult, urlsplit

import pydantic
from pydantic import AfterValidator, AwareDatetime, ValidationInfo, field_validator
from pydantic import Field as Setting
from pydantic_core import ErrorDetails, PydanticCustomError

from widget import profile
from widget.models import Scope
from widget.openfield import guard, wire
from widget.profile import LOCKED, Variable

NONE = "none"
"""What a push rule names to switch Openfield off."""

MAX_NAME, MAX_TEXT, MAX_ENTRIES = 200, 20_000, 100
"""Bounds: characters of a name and of a text, and how many origins, opt-ins or overrides one setting may have."""

YEARS = range(2000, 9000)
"""The years that a campaign may open or close in: clear of what time zones and PostgreSQL cannot reckon with."""

SLUG = re.compile(r"[a-z0-9-]{1,64}")
OPTIN_VARIABLE = re.compile(r"optin_[a-z0-9_]{1,58}")
HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
MAX_HOST = 253
"""Characters of a host name: RFC 1035 section 2.3.4, less its framing."""

DEFAULT_PORTS = {"http": 80, "https": 443}

Location = tuple[str | int, ...]


# Origins and addresses -------------------------------------------------------------------------------------------


def check_page(url: str, private_hosts: Set[str]) -> None:
    """Checks the address of a page that participants are sent to, whole and as it is.

    Raises:
        ValueError: it is no absolute https URL, or it holds a user name; http is for loopback and `private_hosts`.
    """
    parts = _split(url)
    if re.search(r"[\s\\]", url) or profile.CONTROL.search(url) or len(url) > MAX_TEXT:
        raise ValueError("an address has no blanks and no backslashes: write them as %20 and %5C")
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise ValueError("write a whole address that starts with https://")
    if "@" in parts.netloc:
        raise ValueError("leave the user name out of the address: everybody would see it")
    port = parts.port or DEFAULT_PORTS[parts.scheme]
    near = _is_loopback(parts.hostname) or guard.is_listed(parts.hostname, port, private_hosts)
    if parts.scheme == "http" and not near:
        raise ValueError("must start with https://; http is for this machine, and for hosts that the operator lists")


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        _ = parts.port  # a port that is none shows only when it is asked for
    except ValueError:
        raise ValueError('cannot be read as an address: write one such as "https://news.acme.example"') from None
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def check_origin(text: str) -> str:
    """`text`, which has to be an origin letter for letter as browsers send it.

    Raises:
        ValueError: it is not; the message says what to write instead.
    """
    parts = _split(text)
    if "*" in text:
        raise ValueError("an origin has no wildcard: name each origin that may embed")
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise ValueError('an origin is https:// (or http://) and a host, such as "https://news.acme.example"')
    if "@" in parts.netloc:
        raise ValueError("an origin has no user name and no password: leave them out")
    _check_host(parts.hostname)
    origin = f"{parts.scheme}://{parts.hostname}"
    if parts.port == DEFAULT_PORTS[parts.scheme]:
        raise ValueError(f"browsers leave the default port out: write {origin}")
    if parts.port is not None:
        origin += f":{parts.port}"
    if text != origin:
        raise ValueError(f"an origin is a scheme, a lower-case host and a port, and nothing after them: write {origin}")
    return text


def _check_host(host: str) -> None:
    if not host.isascii():
        raise ValueError(f"write {host} in punycode (xn--…), as browsers send it")
    if ":" in host:
        raise ValueError("browsers cannot be told to let an IPv6 address embed: use a host name")
    if not HOST.fullmatch(host) or len(host) > MAX_HOST or not _is_canonical(host):
        raise ValueError(f'"{host}" is not a host as browsers send it: write one such as "news.acme.example"')


def _is_canonical(host: str) -> bool:
    """Whether browsers send it so: what ends in a number is an IPv4 address to them, in four decimal parts."""
    if not re.fullmatch(r"[0-9]+|0x[0-9a-f]*", host.rpartition(".")[2]):
        return True
    try:
        return str(IPv4Address(host)) == host
    except AddressValueError:
        return False


# Values ----------------------------------------------------------------------------------------------------------


def is_slug(text: str) -> bool:
    """Whether `text` may name a website, master form or campaign in an address."""
    return SLUG.fullmatch(text) is not None


def _slug(text: str) -> str:
    if not is_slug(text):
        raise ValueError("a slug has 1 to 64 characters, of a to z, 0 to 9 and hyphens: it stands in addresses")
    return text


def _name(text: str) -> str:
    if not text or text != text.strip() or len(text) > MAX_NAME or profile.CONTROL.search(text):
        raise ValueError(f"write 1 to {MAX_NAME} characters on one line, without blanks at its ends")
    return text


def _text(text: str) -> str:
    text = text.replace("\r\n", "\n")
    if not text.strip() or len(text) > MAX_TEXT:
        raise ValueError(f"write 1 to {MAX_TEXT:,} characters, or leave it out")
    if profile.CONTROL.search(text.replace("\n", "").replace("\t", "")):
        raise ValueError("there is a control character in it: leave it out")
    return text


def _language(text: str) -> str:
    if text not in profile.LANGUAGES:
        raise ValueError(f"is not a language of ours: write one of {', '.join(profile.LANGUAGES)}")
    return text


def _optin_variable(text: str) -> str:
    if not OPTIN_VARIABLE.fullmatch(text):
        raise ValueError('must be optin_ and a name of a to z, 0 to 9 and _, such as "optin_newsletter"')
    return text


def _time(moment: datetime) -> datetime:
    if moment.year not in YEARS:
        raise ValueError(f"the year must be from {YEARS.start} to {YEARS.stop - 1}")
    return moment.astimezone(UTC)


def _integration_name(text: str) -> str:
    if text.casefold() == NONE:
        raise ValueError(f'"{text}" is what a push rule says to switch Openfield off: choose another name')
    return _name(text)


Slug = Annotated[str, AfterValidator(_slug)]
Name = Annotated[str, AfterValidator(_name)]
Text = Annotated[str, AfterValidator(_text)]
Language = Annotated[str, AfterValidator(_language)]
Time = Annotated[AwareDatetime, AfterValidator(_time)]
Origin = Annotated[str, AfterValidator(check_origin)]
Worded = Mapping[Language, Text]
"""Language → text."""
Labels = Mapping[Language, Name]
"""Language → one line."""


class Prefilled(StrEnum):
    """How a field shows what Openfield knows already."""

    EDITABLE = "editable"
    READONLY = "readonly"
    HIDDEN = "hidden"


class Rule(pydantic.BaseModel):
    """What all settings have in common: unknown keys and near-miss types are refused, and nothing changes later."""

    model_config = pydantic.ConfigDict(strict=True, extra="forbid", frozen=True)

    def to_json(self) -> dict[str, Any]:
        """What differs from the defaults, as JSON; for the columns that hold JSON."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def trusted(cls, row: Mapping[str, Any]) -> Self:
        """What `to_json` wrote, not checked again: a rule that grows stricter does not break what is live."""
        return cls.model_construct(**row)


# The settings ----------------------------------------------------------------------------------------------------


class Integration(Rule):
    """A customer's Openfield. `operations` and `parameters` hold only what differs from the defaults of `wire`."""

    name: Annotated[str, AfterValidator(_integration_name)] = Setting(description='a name, such as "acme"')
    enabled: bool = Setting(description="true or false")
    openfield_url: str = Setting(description='the webservice\'s address, such as "https://openfield.acme.example/ws"')
    id_tenant: Name = Setting(description="the idTenant that your Openfield expert gave you")
    id_application: Name = Setting(description="the IdApplication that your Openfield expert gave you")
    forgot_password_url: str = Setting(description="the address of the page where people reset their password")
    operations: Mapping[str, str] = Setting({}, max_length=MAX_ENTRIES)
    parameters: Mapping[str, str] = Setting({}, max_length=MAX_ENTRIES)

    @field_validator("openfield_url")
    @classmethod
    def _within_the_guard(cls, url: str, info: ValidationInfo) -> str:
        guard.check_url(url, _private_hosts(info))
        return url

    @field_validator("forgot_password_url")
    @classmethod
    def _a_page(cls, url: str, info: ValidationInfo) -> str:
        check_page(url, _private_hosts(info))
        return url

    @field_validator("operations")
    @classmethod
    def _known_operations(cls, overrides: Mapping[str, str]) -> Mapping[str, str]:
        wire.check_operations(overrides)
        return _differing(overrides, wire.OPERATIONS)

    @field_validator("parameters")
    @classmethod
    def _known_parameters(cls, overrides: Mapping[str, str]) -> Mapping[str, str]:
        wire.check_parameters(overrides)
        return _differing(overrides, wire.PARAMETERS)


class Website(Rule):
    """A site that embeds campaigns; `origins` are the only ones that may."""

    slug: Slug = Setting(description='a slug, such as "acme-news"')
    name: Name = Setting(description="a name that your colleagues know it by")
    origins: tuple[Origin, ...] = Setting((), strict=False, max_length=MAX_ENTRIES)
    language: Language = Setting(description=f"one of {', '.join(profile.LANGUAGES)}")

    @field_validator("origins")
    @classmethod
    def _each_origin_once(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        _refuse([((position,), f'"{each}" is there already') for position, each in _repeated(origins)])
        return origins


class Field(Rule):
    """One field of a master form.

    `label` and `help` replace the product's own words, per language. `choices` may word the values of a locked
    variable, and can neither add nor remove any.
    """

    variable: Annotated[Variable, Setting(strict=False)] = Setting(description='a variable, such as "email"')
    mandatory: bool = False
    prefilled: Annotated[Prefilled, Setting(strict=False)] = Prefilled.EDITABLE
    label: Labels = {}
    help: Worded = {}
    choices: Mapping[str, Annotated[Labels, Setting(min_length=1)]] = {}

    @field_validator("choices", mode="before")
    @classmethod
    def _within_the_lock(cls, choices: Any, info: ValidationInfo) -> Any:
        variable = info.data.get("variable")
        if variable is None:
            return choices  # what is wrong with the variable is told already
        if variable not in LOCKED:
            raise ValueError(f"{variable} takes no choices: only {_listed(LOCKED)} have them")
        values = tuple(LOCKED[variable])
        if not isinstance(choices, Mapping) or not set(choices) <= set(values):
            example = ", ".join(f'{value} = {{ en = "…" }}' for value in values)
            raise ValueError(f"{variable} is locked to {_listed(values)}: only word these two, {{ {example} }}")
        return choices

    @classmethod
    def trusted(cls, row: Mapping[str, Any]) -> Self:
        prefilled = Prefilled(row.get("prefilled", Prefilled.EDITABLE))
        return super().trusted({**row, "variable": Variable(row["variable"]), "prefilled": prefilled})


class OptIn(Rule):
    """A box that a participant may tick. `variable` and `code` are those of its SSO variable in Openfield."""

    variable: Annotated[str, AfterValidator(_optin_variable)] = Setting(
        description='a variable, such as "optin_newsletter"'
    )
    code: Name = Setting(description='the code of its SSO variable in Openfield, such as "Newsletter"')
    mandatory: bool = False
    wording: Worded = Setting(min_length=1, description='what is consented to, such as { en = "…" }')


class MasterForm(Rule):
    """A form that campaigns share. A `password` among the fields is asked at sign-up only."""

    slug: Slug = Setting(description='a slug, such as "contest"')
    name: Name = Setting(description="a name that your colleagues know it by")
    fields: tuple[Field, ...] = Setting((), strict=False, max_length=MAX_ENTRIES)
    optins: tuple[OptIn, ...] = Setting((), strict=False, max_length=MAX_ENTRIES)
    legal: Worded = {}

    @field_validator("fields")
    @classmethod
    def _each_variable_once(cls, fields: tuple[Field, ...]) -> tuple[Field, ...]:
        _refuse(_repetitions(fields, "variable"))
        return fields

    @field_validator("optins")
    @classmethod
    def _each_optin_once(cls, optins: tuple[OptIn, ...]) -> tuple[OptIn, ...]:
        _refuse([*_repetitions(optins, "variable"), *_repetitions(optins, "code")])
        return optins

    def gaps(self, language: str) -> Iterator[Location]:
        """Where the form has no words in `language` although a campaign in it needs them.

        Consent counts only for words that were understood, so that neither opt-ins nor legal text may fall back to
        another language. Labels may: the product has its own.
        """
        for position, optin in enumerate(self.optins):
            if language not in optin.wording:
                yield "optins", position, "wording"
        if self.legal and language not in self.legal:
            yield ("legal",)


class Texts(Rule):
    """What a campaign says before the form and after it, in the campaign's language."""

    intro: Text | None = None
    thanks: Text | None = None


class Campaign(Rule):
    """One form on one website. Without a `language` it has its website's. It is closed from `closes_at` on."""

    slug: Slug = Setting(description='a slug, such as "summer"')
    name: Name = Setting(description="the heading that participants see")
    website: str = Setting(description="the slug of a website")
    master_form: str = Setting(description="the slug of a master form")
    language: Language | None = None
    opens_at: Time | None = None
    closes_at: Time | None = None
    texts: Texts = Texts()

    @field_validator("closes_at")
    @classmethod
    def _after_it_opens(cls, closes_at: datetime | None, info: ValidationInfo) -> datetime | None:
        opens_at = info.data.get("opens_at")
        if opens_at and closes_at and closes_at <= opens_at:
            raise ValueError("the campaign would close before it opens: write a time after opens_at")
        return closes_at


class PushRule(Rule):
    """Puts an integration, or "none", on everything in its scope."""

    scope: Annotated[Scope, Setting(strict=False)] = Setting(description=f"one of {', '.join(Scope)}")
    target: str | None = Setting(None, validate_default=True)
    integration: str = Setting(description='the name of an integration, or "none"')

    @field_validator("target")
    @classmethod
    def _as_the_scope_needs(cls, target: str | None, info: ValidationInfo) -> str | None:
        scope = info.data.get("scope")
        if scope is Scope.DEFAULT and target is not None:
            raise ValueError("a default rule is for all campaigns: leave the target out, or choose another scope")
        if scope not in (None, Scope.DEFAULT) and target is None:
            raise ValueError(f"is missing: give the slug of the {scope.replace('_', ' ')} that the rule is for")
        return target


def _private_hosts(info: ValidationInfo) -> Set[str]:
    hosts: Set[str] = (info.context or {}).get("private_hosts", frozenset())
    return hosts


def _differing(overrides: Mapping[str, str], defaults: Mapping[Any, str]) -> Mapping[str, str]:
    return {name: value for name, value in overrides.items() if value != defaults.get(name)}


def _listed(values: Iterable[str]) -> str:
    *most, last = values
    return f"{', '.join(most)} and {last}" if most else last


# Refusals in words -----------------------------------------------------------------------------------------------


def reasons(error: pydantic.ValidationError, rule: type[Rule]) -> Iterator[tuple[Location, str]]:
    """What is wrong with what was given to `rule`: where (keys, and positions from 0), and what to do about it."""
    for each in error.errors(include_url=False):
        location = tuple(part for part in each["loc"] if part != "[key]")
        if each["type"] == MISPLACED:
            yield from ((location + where, reason) for where, reason in each["ctx"]["problems"])
        else:
            yield location, _reason(each, location, rule)


MISPLACED = "misplaced"
"""The type of an error that holds several, each with its place inside the value."""

MANY = 20
"""How many names a refusal lists."""

SAYINGS = {
    "string_type": "must be text, in quotes",
    "bool_type": "must be true or false, without quotes",
    "tuple_type": "must be a list, in [ ]",
    "mapping_type": "must be a table of names and values, in { }",
    "dict_type": "must be a table of names and values, in { }",
    "model_type": "must be a table of names and values, in { }",
    "datetime_type": "must be a time with its offset, without quotes, such as 2026-06-01T00:00:00+02:00",
    "timezone_aware": "has no offset, so that it could be anywhere's time: write one, as in 2026-06-01T00:00:00+02:00",
}


def _reason(each: ErrorDetails, location: Location, rule: type[Rule]) -> str:
    if each["type"] == "value_error":
        return str(each["ctx"]["error"])
    if each["type"] == "extra_forbidden":
        return unknown("key", str(location[-1]), _rule_at(rule, location[:-1]).model_fields)
    description = _description(rule, location)
    if each["type"] == "missing":
        return f"is missing: give {description}"
    if each["type"] == "enum":
        return _unknown_member(each)
    if each["type"] == "too_long":
        return f"is too long: give at most {each['ctx']['max_length']}"
    if each["type"] == "too_short":
        return f"is empty: give {description}"
    return SAYINGS.get(each["type"], each["msg"])


def _unknown_member(each: ErrorDetails) -> str:
    members = re.findall(r"'(\w+)'", each["ctx"]["expected"])
    return unknown("value", str(each["input"]), members)


def unknown(what: str, name: str, names: Iterable[str]) -> str:
    """A refusal of a name that is none of `names`, with the nearest of them, or else the first few."""
    names = sorted(names)
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f'there is no {what} "{name}": did you mean "{near[0]}"?'
    return f'there is no {what} "{name}": ' + (
        f"choose from {', '.join(names[:MANY])}" if names else "there is none yet"
    )


def _rule_at(rule: type[Rule], location: Location) -> type[Rule]:
    """The rule that the table at `location` has to meet."""
    for part in location:
        if isinstance(part, str):
            rule = next(_rules_in(rule.model_fields[part].annotation), rule)
    return rule


def _rules_in(annotation: Any) -> Iterator[type[Rule]]:
    if isinstance(annotation, type) and issubclass(annotation, Rule):
        yield annotation
    for argument in get_args(annotation):
        yield from _rules_in(argument)


def _description(rule: type[Rule], location: Location) -> str:
    field = _rule_at(rule, location[:-1]).model_fields.get(str(location[-1])) if location else None
    return (field and field.description) or "something, or leave it out"


def _refuse(problems: Sequence[tuple[Location, str]]) -> None:
    """Refuses the value that is being validated for what is wrong inside it."""
    if problems:
        raise PydanticCustomError(MISPLACED, "something inside is wrong", {"problems": tuple(problems)})


def _repetitions(items: Sequence[Rule], key: str) -> list[tuple[Location, str]]:
    """The items whose `key` an earlier one has."""
    values = [str(getattr(item, key)) for item in items]
    return [((position, key), f'"{value}" is there already') for position, value in _repeated(values)]


def _repeated(values: Sequence[str]) -> list[tuple[int, str]]:
    return [(position, value) for position, value in enumerate(values) if value in values[:position]]
