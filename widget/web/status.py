"""For whoever runs it: is the process up, is it ready, what does it do. /healthz, /readyz, /metrics, a line a request.

Every request has an id: it stands on every line that is logged meanwhile, and goes back as `X-Request-Id`. A trusted
proxy may have given it.

Not here: how a line is written (`logs`), what is counted (`metrics`), how the outbox stands (`backlog`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING
from uuid import uuid4

from flask import Blueprint, Flask, Response, abort, g, request

from widget import backlog, deliveries, logs, migrations
from widget.db import Database, NoAnswer
from widget.web.context import wiring

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

status = Blueprint("status", __name__)

ID = "widget.request_id"
BEGAN = "widget.began_at"

GIVEN_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
"""What an id from outside may look like."""

TEXT = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus' text format."""


def init_app(app: Flask, *, trusting: bool) -> None:
    """Numbers requests, and tells of each when it is over.

    Args:
        trusting: whether there is a proxy in front that may have numbered them.
    """
    app.wsgi_app = _Numbered(app.wsgi_app, trusting=trusting)  # type: ignore[method-assign]
    app.after_request(tell)


@status.get("/healthz")
def healthz() -> str:
    """The process answers."""
    return "ok\n"


@status.get("/readyz")
def readyz() -> tuple[str, int]:
    """The database answers as well, with tables that will do. Openfield does not count: the widget works without it."""
    try:
        wiring().database.ask(migrations.require_newest)
    except NoAnswer:
        return "the database does not answer\n", 503
    except migrations.NotUpToDate as error:
        return f"{error}\n", 503
    return "ok\n", 200


@status.get("/metrics")
def metrics() -> Response:
    """Everything that is counted; not for the internet, since it names integrations."""
    if not _is_near(request.remote_addr or ""):
        abort(404)
    try:
        health = wiring().database.ask(_health)
    except NoAnswer:
        health = None
    return Response(wiring().metrics.page(health), content_type=TEXT)


def _health(database: Database) -> backlog.Health:
    with database.session() as session:
        return backlog.health(session, deliveries.clock(session))


def _is_near(text: str) -> bool:
    """Whether an address is this machine's or of a private network."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return not address.is_global


# Each request -----------------------------------------------------------------------------------------------------


class _Numbered:
    """The app, with an id for each request."""

    def __init__(self, app: WSGIApplication, *, trusting: bool) -> None:
        self._app = app
        self._trusting = trusting

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        given = environ.get("HTTP_X_REQUEST_ID", "")
        environ[ID] = given if self._trusting and GIVEN_ID.fullmatch(given) else uuid4().hex
        environ[BEGAN] = time.perf_counter()
        with logs.about(request_id=environ[ID]):
            return self._app(environ, start_response)


def tell(response: Response) -> Response:
    """For `after_request`. Neither address, query nor anything that was sent stands in the line."""
    seconds = time.perf_counter() - request.environ[BEGAN]
    endpoint = request.endpoint or "none"
    response.headers["X-Request-Id"] = request.environ[ID]
    wiring().metrics.request(endpoint, response.status_code, seconds)
    if request.blueprint != status.name:
        line = {
            "endpoint": endpoint,
            "method": request.method,
            "status": response.status_code,
            "milliseconds": round(seconds * 1000, 1),
        }
        logs.requests.info("answered", extra=line | ({"campaign": g.slug} if "slug" in g else {}))
    return response
