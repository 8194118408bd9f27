"""The sandbox's own page at `/`, and the JSON under `/_sandbox/` by which tests and scripts see and steer it.

Not here: the protocol's operations (`protocol`). There is no JavaScript.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, current_app, redirect, render_template, request
from markupsafe import Markup, escape
from werkzeug.exceptions import Forbidden
from werkzeug.wrappers import Response as BaseResponse

from widget.openfield.sandbox.faults import ABOUT, LONGEST, Fault, respond
from widget.openfield.sandbox.judge import OPERATIONS, WHOLE, SchemaValidator, violations
from widget.openfield.sandbox.message import Json, Refused, at, masked, parse, serialize
from widget.openfield.sandbox.people import Person
from widget.openfield.sandbox.registry import registry

SHOWN = 50
"""How many parties and calls the page shows, the newest first; the JSON has all that are kept."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}

PERSON_SCHEMA: Json = {
    "type": "object",
    "required": ["Party"],
    "additionalProperties": False,
    "properties": {
        "Party": {
            "type": "object",
            "properties": {
                "PartyId": {"type": "string"},
                "Version": {"type": "integer"},
                "Login": {
                    "type": "object",
                    "properties": {"Username": {"type": "string"}, "Password": {"type": "string"}},
                },
            },
        },
        "Services": {"type": "array", "items": {"type": "object", "required": ["ServiceId"]}},
        "Locked": {"type": "boolean"},
    },
}
"""What a person must have to be kept at all; every other value is kept unjudged."""

LOCK_SCHEMA: Json = {
    "type": "object",
    "required": ["username"],
    "additionalProperties": False,
    "properties": {"username": {"type": "string"}, "locked": {"type": "boolean"}},
}

page = Blueprint("page", __name__)


@page.get("/")
def show() -> str:
    parties, calls = registry().parties(), registry().calls()
    return render_template(
        "page.html",
        parties=parties[: -SHOWN - 1 : -1],
        calls=calls[: -SHOWN - 1 : -1],
        party_count=len(parties),
        call_count=len(calls),
        faults=registry().faults(),
        kinds=ABOUT,
        operations=OPERATIONS,
        longest=LONGEST,
        live="live" in request.args,
        address=request.url_root.rstrip("/"),
        tenant=current_app.config["TENANT"],
        application=current_app.config["APPLICATION"],
    )


@page.get("/_sandbox/parties")
def list_parties() -> Response:
    return _json([masked(party.record) for party in registry().parties()])


@page.get("/_sandbox/changes")
def list_changes() -> Response:
    return _json([change.to_json() for change in registry().changes()])


@page.get("/_sandbox/calls")
def list_calls() -> Response:
    return _json([call.to_json() for call in registry().calls()])


@page.get("/_sandbox/faults")
def list_faults() -> Response:
    return _json([fault.to_json() for fault in registry().faults()])


@page.post("/_sandbox/faults")
def add_fault() -> Response:
    fault = Fault.from_json(_body())
    registry().add_fault(fault)
    return _json(fault.to_json(), 201)


@page.delete("/_sandbox/faults")
def clear_faults() -> Response:
    registry().clear_faults()
    return Response(status=204)


@page.post("/_sandbox/people")
def add_person() -> Response:
    return respond(registry().add(_person(_body(PERSON_SCHEMA))), None, None)


@page.post("/_sandbox/lock")
def lock() -> Response:
    order = _body(LOCK_SCHEMA)
    registry().lock(order["username"], order.get("locked", True))
    return Response(status=204)


@page.post("/_sandbox/reset")
def reset() -> Response:
    registry().reset()
    return Response(status=204)


# The page's buttons: a form can send neither JSON nor DELETE.


@page.post("/_sandbox/page/fault")
def add_fault_by_form() -> BaseResponse:
    registry().add_fault(Fault.from_json(_fault_of_form()))
    return redirect("/#faults", 303)


@page.post("/_sandbox/page/clear")
def clear_faults_by_form() -> BaseResponse:
    registry().clear_faults()
    return redirect("/#faults", 303)


@page.post("/_sandbox/page/reset")
def reset_by_form() -> BaseResponse:
    registry().reset()
    return redirect("/", 303)


@page.before_request
def refuse_other_sites() -> None:
    """A page elsewhere must not steer the sandbox of whoever looks at it; scripts send no Sec-Fetch-Site."""
    if request.method != "GET" and request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        raise Forbidden("that came from another site")


@page.after_app_request
def add_headers(response: Response) -> Response:
    response.headers.update(HEADERS)
    return response


@page.app_errorhandler(Refused)
def refuse(refusal: Refused) -> Response:
    return respond(refusal.answer(), None, None)


def _json(value: Any, status: int = 200) -> Response:
    return Response(serialize(value), status, mimetype="application/json")


def _body(schema: Json | None = None) -> Any:
    """The request's JSON.

    Raises:
        Refused: 422, it is not JSON, or not of that schema.
    """
    try:
        body = parse(request.get_data())
    except ValueError as error:
        raise Refused(422, "INVALID_REQUEST", f"the body is not sound JSON: {error}") from None
    if schema and (wrong := violations(SchemaValidator(schema), body)):
        raise Refused(422, "INVALID_REQUEST", "the request is not as it must be", wrong)
    return body


def _person(body: Json) -> Person:
    party, password = body["Party"], at(body, "Party.Login.Password")
    if password is not None:
        party = {**party, "Login": {name: value for name, value in party["Login"].items() if name != "Password"}}
    services = {"Services": body["Services"]} if "Services" in body else {}
    return Person({"Party": party, **services}, password, body.get("Locked", False))


def _fault_of_form() -> Json:
    """What the page's form says, as JSON. A field left empty says nothing; without times, it is until cleared."""
    reads: dict[str, Callable[[str], Any]] = {"times": int, "seconds": float, "status": int, "chance": float}
    try:
        told = {name: reads.get(name, str)(text) for name, text in request.form.items() if text}
    except ValueError:
        raise Refused(422, "INVALID_FAULT", "the fault is not as it must be", {WHOLE: "must hold numbers"}) from None
    return {"times": None, **told}


TOKEN = re.compile(r'(?P<text>"(?:[^"\\]|\\.)*")(?P<colon>:)?|(?P<other>[^"]+)')


@page.app_template_filter("json")
def highlighted(value: Any) -> Markup:
    """JSON for the eye: indented, passwords masked, names set apart from values."""
    spans = []
    for token in TOKEN.finditer(serialize(masked(value), indent=2)):
        if token["other"]:
            spans.append(escape(token["other"]))
        else:
            kind = "name" if token["colon"] else "text"
            spans.append(Markup('<span class="{}">{}</span>{}').format(kind, token["text"], token["colon"] or ""))
    return Markup("").join(spans)
