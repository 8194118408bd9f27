"""How a line of the log is made of a record."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from widget import logs

CANARY = "eve@canary.example"


def line(
    style: logs.Style = "json", name: str = "widget.deliveries", error: BaseException | None = None, **extra: Any
) -> str:
    """What is written of a record with this in its `extra`."""
    exc_info = error and (type(error), error, error.__traceback__)
    record = logging.getLogger(name).makeRecord(
        name, logging.WARNING, "file.py", 1, "gave %s up", ("it",), exc_info or None, extra=extra
    )
    return logs.formatter(style).format(record)


def read(text: str) -> dict[str, Any]:
    assert "\n" not in text
    found: dict[str, Any] = json.loads(text)
    return found


def raised() -> Exception:
    """An error whose causes say what somebody typed."""
    try:
        try:
            raise ValueError(CANARY)
        except ValueError as cause:
            raise LookupError(f"no {CANARY}") from cause
    except LookupError as error:
        return error


def test_a_line_has_when_how_bad_who_and_what() -> None:
    found = read(line())
    assert list(found) == ["time", "level", "logger", "message"]
    assert (found["level"], found["logger"], found["message"]) == ("warning", "widget.deliveries", "gave it up")
    assert abs((datetime.now(UTC) - datetime.fromisoformat(found["time"])).total_seconds()) < 60
    assert found["time"].endswith("+00:00")


def test_scalars_go_along_and_nothing_else_does() -> None:
    found = read(line(attempt=2, ratio=0.5, known=True, nothing=None, id=UUID(int=1), odd=float("inf"), a={}, b=[1]))
    del found["time"]
    assert found == {
        "level": "warning", "logger": "widget.deliveries", "message": "gave it up",
        "attempt": 2, "ratio": 0.5, "known": True, "nothing": None, "odd": "inf",
        "id": "00000000-0000-0000-0000-000000000001",
    }  # fmt: skip


def test_what_goes_along_replaces_nothing() -> None:
    found = read(line(level="none", time=0))
    assert found["level"] == "warning"
    assert found["time"] != 0


def test_what_it_is_about_stands_on_each_line_inside() -> None:
    with logs.about(delivery_id=UUID(int=1)):
        with logs.about(request_id="abc"):
            assert {"delivery_id", "request_id"} <= set(read(line()))
        assert read(line())["delivery_id"] == "00000000-0000-0000-0000-000000000001"
    assert "delivery_id" not in read(line())


def test_other_peoples_loggers_give_their_message_alone() -> None:
    found = read(line(name="procrastinate.worker", job="x", attempt=1))
    assert list(found) == ["time", "level", "logger", "message"]
    assert "attempt" not in read(line(name="widgets", attempt=1))
    assert "attempt" in read(line(name="widget", attempt=1))


@pytest.mark.parametrize("style", ["json", "words"])
def test_a_traceback_shows_the_way_and_not_what_was_typed(style: logs.Style) -> None:
    text = line(style, error=raised())
    assert CANARY not in text
    for word in ("builtins.ValueError", "builtins.LookupError", "in raised", "test_logs.py"):
        assert word in text


def test_a_traceback_is_one_field() -> None:
    found = read(line(error=raised()))
    assert found["traceback"].splitlines()[-1] == "builtins.LookupError"


def test_words_are_short() -> None:
    with logs.about(request_id="abc", delivery_id="def"):
        assert line("words", attempt=2) == "WARNING: gave it up delivery_id=def attempt=2"


def test_switched_on_it_takes_all_that_is_said_and_only_worth_saying(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.switch_on("json")
        for name in ("widget.jobs", "widget.requests", "_granian", "procrastinate", "sqlalchemy.pool"):
            logging.getLogger(name).info("info of %s", name)
        logging.getLogger("procrastinate").warning("warning of procrastinate")
        logging.getLogger("widget").info("%d", CANARY)
        sys.excepthook(ValueError, ValueError(CANARY), None)
    finally:
        logging.captureWarnings(False)
        root.handlers[:], root.level = handlers, level
    out, err = capsys.readouterr()
    assert out == ""
    said = [json.loads(each)["message"] for each in err.splitlines()]
    assert said == [
        "info of widget.jobs", "info of widget.requests", "info of _granian", "warning of procrastinate",
        "ended by an error that nobody caught",
    ]  # fmt: skip
    assert CANARY not in err
