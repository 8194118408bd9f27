"""What goes over the wire: JSON that keeps its spelling, answers, refusals.

Not here: what may stand in it (`judge`), and who says it (`protocol`).
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Self

import simplejson

Json = dict[str, Any]
"""A JSON object as `parse` gives it; treated as immutable."""

MASK = "•••"
MAX_DEPTH = 64

HALF_A_PAIR = re.compile("[\ud800-\udfff]")


class Number(Decimal):
    """A number that keeps its spelling: 1.10 stays 1.10, and 1e5 stays 1e5."""

    text: str

    def __new__(cls, text: str) -> Self:
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __str__(self) -> str:
        return self.text


def parse(data: bytes) -> Any:
    """The JSON document in `data` (RFC 8259, in UTF-8).

    Raises:
        ValueError: it is not one, or one that receivers understand differently: a byte order mark, a name twice in one
            object, half of a surrogate pair, NaN, a number beyond measure, more than MAX_DEPTH levels. The message
            quotes nothing of the document.
    """
    if data.startswith(codecs.BOM_UTF8):
        raise ValueError("it begins with a byte order mark")
    try:
        document = simplejson.loads(data.decode(), parse_float=Number, object_pairs_hook=_object)
    except simplejson.JSONDecodeError as error:
        raise ValueError(f"there is a mistake at line {error.lineno}, column {error.colno}") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except (ArithmeticError, RecursionError):
        raise ValueError("a number is too large, or it is nested too deep") from None
    _check_sound(document, MAX_DEPTH)
    return document


def _object(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a name twice")
    return found


def _check_sound(value: Any, depth: int) -> None:
    if not depth:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    if isinstance(value, str) and HALF_A_PAIR.search(value):
        raise ValueError("a text holds half of a surrogate pair")
    for each in _within(value):
        _check_sound(each, depth - 1)


def _within(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return value if isinstance(value, list) else []


def serialize(value: Any, indent: int | None = None) -> str:
    return simplejson.dumps(value, use_decimal=True, ensure_ascii=False, indent=indent)


def at(document: Any, path: str) -> Any:
    """What stands at the dotted path, or None."""
    for name in path.split("."):
        document = document.get(name) if isinstance(document, dict) else None
    return document


def masked(value: Any) -> Any:
    """`value` with whatever stands under a name "Password", at any depth, replaced by MASK."""
    if isinstance(value, dict):
        return {name: MASK if name.casefold() == "password" else masked(each) for name, each in value.items()}
    return [masked(each) for each in value] if isinstance(value, list) else value


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call is answered. `repeated`: it is the answer that the same Idempotency-Key was given before."""

    status: int
    body: Json
    headers: Mapping[str, str] = field(default_factory=dict)
    repeated: bool = False

    def data(self) -> bytes:
        return serialize(self.body).encode()


class Refused(Exception):
    """A call is refused. `fields` maps dotted paths (`Party.Gender`, `Services.0.ServiceId`) to what is wrong there."""

    def __init__(self, status: int, code: str, message: str, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.fields = dict(fields or {})

    def answer(self) -> Answer:
        fields = {"Fields": self.fields} if self.fields else {}
        return Answer(self.status, {"Code": self.code, "Message": self.message, **fields})


def invalid_party(wrong: Mapping[str, str]) -> Refused:
    return Refused(422, "INVALID_PARTY", "the record is not as it must be", wrong)
