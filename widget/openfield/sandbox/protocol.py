"""The four operations over HTTP: each call is noted, judged, done and answered, or meets a fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, current_app, request
from werkzeug.exceptions import HTTPException

from widget.openfield.sandbox.faults import REPLACING, Kind, respond
from widget.openfield.sandbox.judge import OPERATIONS, judge
from widget.openfield.sandbox.message import Answer, Json, Refused, parse
from widget.openfield.sandbox.registry import Registry, registry

protocol = Blueprint("protocol", __name__)

DEEDS: Mapping[str, Callable[[Registry, Json, str | None], Answer]] = {
    "Authenticate": lambda registry, body, _: registry.authenticate(body),
    "Get": lambda registry, body, _: registry.get(body),
    "Create": Registry.create,
    "Update": Registry.update,
}


def call(operation: str) -> Response:
    body, unreadable = _read()
    received = registry().receive(operation, body, request.headers.get("Idempotency-Key"))
    fault = registry().take_fault(operation)
    if fault and fault.kind is Kind.DELAY:
        fault.released.wait(fault.seconds)
    answer = fault.answer() if fault and fault.kind in REPLACING else unreadable or _perform(operation, body)
    registry().settle(received, answer, fault)
    return respond(answer, fault, request.environ.get("werkzeug.socket"))


for operation in OPERATIONS:
    protocol.add_url_rule(
        f"/Party/{operation}",
        endpoint=operation,
        view_func=partial(call, operation),
        methods=["POST"],
        provide_automatic_options=False,
    )


def _read() -> tuple[Any, Answer | None]:
    """The request's body; or None, and the answer to one that cannot be read."""
    charset = request.mimetype_params.get("charset", "utf-8").casefold()
    if request.mimetype != "application/json" or charset != "utf-8":
        return None, Refused(415, "UNSUPPORTED_MEDIA_TYPE", "the body must be application/json in UTF-8").answer()
    try:
        return parse(request.get_data()), None
    except ValueError as error:
        return None, Refused(400, "MALFORMED_REQUEST", f"the body is not sound JSON: {error}").answer()


def _perform(operation: str, body: Any) -> Answer:
    settings = current_app.config
    key = None if settings["IGNORE_IDEMPOTENCY"] else request.headers.get("Idempotency-Key")
    try:
        judge(operation, body, tenant=settings["TENANT"], application=settings["APPLICATION"])
        return DEEDS[operation](registry(), body, key)
    except Refused as refusal:
        return refusal.answer()


@protocol.app_errorhandler(HTTPException)
def refuse(error: HTTPException) -> Response:
    """Whatever is none of the operations is answered in the protocol's words too, and noted."""
    status = error.code or 500
    message = "there is nothing at this path" if status == 404 else error.description or ""
    answer = Refused(status, HTTPStatus(status).name, message).answer()
    if not is_own(request.path):
        registry().settle(registry().receive(f"{request.method} {request.path}", None), answer)
    response = respond(answer, None, None)
    response.headers.extend((name, value) for name, value in error.get_headers() if name != "Content-Type")
    return response


def is_own(path: str) -> bool:
    """Whether a path is the sandbox's, not the protocol's."""
    return path in ("/", "/favicon.ico") or path.startswith("/_sandbox")
