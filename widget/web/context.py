"""What a view works with: the process's wiring, the request's session, the time."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from flask import Flask, current_app, g

from widget.wiring import Wiring

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

STATIC = Path(__file__).parents[2] / "static"


def wiring() -> Wiring:
    """The process's one wiring."""
    found: Wiring = current_app.extensions["widget"]
    return found


def session() -> Session:
    """The request's session; closed, and rolled back unless a verb committed, when the request ends."""
    if "session" not in g:
        g.session = wiring().database.session()
    opened: Session = g.session
    return opened


def now() -> datetime:
    """Aware, in UTC."""
    return datetime.now(UTC)


def close_session(_: BaseException | None = None) -> None:
    """For the end of a request."""
    if opened := g.pop("session", None):
        opened.close()


def init_app(app: Flask, wired: Wiring) -> None:
    """Gives the app its wiring."""
    app.extensions["widget"] = wired
    app.teardown_appcontext(close_session)
