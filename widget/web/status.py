"""For whoever runs it: is the process up, is it ready to serve."""

from __future__ import annotations

from flask import Blueprint

from widget.web.context import wiring

status = Blueprint("status", __name__)


@status.get("/healthz")
def healthz() -> str:
    """The process answers."""
    return "ok\n"


@status.get("/readyz")
def readyz() -> tuple[str, int]:
    """The database answers as well. Openfield does not count: the widget works on without it."""
    if wiring().database.answers():
        return "ok\n", 200
    return "the database does not answer\n", 503
