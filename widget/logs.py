"""What is logged, as `flask serve` and `flask worker` write it to standard error: one JSON object a line.

Everything logs by the standard library, `logging.getLogger(__name__)`: a message that is one of a few sentences, and in
`extra` what goes with it. A line has `time`, `level`, `logger` and `message`, what `about` has bound, the scalars of
`extra`, and `traceback` where there is one.

Nothing personal: of an exception a line has its class and the way there, not what it says, which may quote what
somebody typed. Other people's loggers give their message alone, and from WARNING up.

Not here: what is worth a line.
"""

from __future__ import annotations

import logging
import logging.config
import math
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime
from typing import Any, Literal
from uuid import UUID

from structlog.contextvars import bound_contextvars, get_contextvars
from structlog.processors import JSONRenderer
from structlog.stdlib import ExtraAdder, ProcessorFormatter
from structlog.typing import EventDict, Processor

Style = Literal["json", "words"]
"""`words` is for a person who watches: short, and without a line for each request."""

OURS = "widget"
"""The logger above all of ours."""

requests = logging.getLogger("widget.requests")
"""Has a line for each request."""

security = logging.getLogger("widget.security")
"""Has what somebody may want to be alerted of: refused posts, log-ins and handles."""

UNSAID = ("time", "level", "logger", "request_id", "traceback")
"""What is not among a line's words."""

DEEPEST = 40
"""How many calls a traceback shows: the innermost."""

_given = ExtraAdder()


def about(**ids: object) -> AbstractContextManager[None]:
    """Puts these on every line that is logged inside, in this thread: `with about(delivery_id=delivery.id): ...`."""
    return bound_contextvars(**ids)


def switch_on(style: Style) -> None:
    """From now on this process logs so, warnings and what nobody caught included."""
    logging.config.dictConfig(configuration(style))
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # it would print what was to be logged, whatever that is
    sys.excepthook = lambda _, error, __: _tell(error)
    threading.excepthook = lambda args: _tell(args.exc_value)


def configuration(style: Style) -> dict[str, Any]:
    """For `logging.config.dictConfig`, by ourselves or by whoever starts processes of ours."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter, "style": style}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "stream": "ext://sys.stderr", "formatter": "line"}},
        "root": {"level": "WARNING", "handlers": ["stderr"]},
        "loggers": {
            OURS: {"level": "INFO"},
            requests.name: {"level": "INFO" if style == "json" else "CRITICAL"},
            "_granian": {"level": "INFO", "propagate": True},
        },
    }


def formatter(style: Style) -> logging.Formatter:
    """Makes a line of a record."""
    write: Processor = JSONRenderer() if style == "json" else _in_words
    return ProcessorFormatter(processors=(_line, write))


def _line(logger: logging.Logger, method: str, event: EventDict) -> EventDict:
    """What the line has, in order."""
    record: logging.LogRecord = event["_record"]
    line: EventDict = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": event["event"],
    }
    ours = record.name == OURS or record.name.startswith(f"{OURS}.")
    given = _given(logger, method, {"_record": record}) if ours else {}
    for name, value in (get_contextvars() | dict(given)).items():
        if name not in line and _is_scalar(value):
            line[name] = _written(value)
    _, error, _ = event.get("exc_info") or (None, None, None)
    if error is not None:
        line["traceback"] = "".join(_way_of(error))
    return line


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | UUID | date)


def _written(value: Any) -> str | int | float | None:
    if isinstance(value, UUID | date) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    scalar: str | int | float | None = value
    return scalar


def _way_of(error: BaseException) -> Iterator[str]:
    """As Python writes a traceback, but for what the exceptions say."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        yield from _way_of(before)
    yield from traceback.format_tb(error.__traceback__, limit=-DEEPEST)
    yield f"{type(error).__module__}.{type(error).__qualname__}\n"


def _in_words(_: object, __: str, line: EventDict) -> str:
    fields = {name: value for name, value in line.items() if name not in UNSAID}
    words = [str(fields.pop("message")), *(f"{name}={value}" for name, value in fields.items())]
    if line["level"] != "info":
        words.insert(0, f"{str(line['level']).upper()}:")
    return "\n".join([" ".join(words), *str(line.get("traceback", "")).splitlines()])


def _tell(error: BaseException | None) -> None:
    logging.getLogger(OURS).critical("ended by an error that nobody caught", exc_info=error)
