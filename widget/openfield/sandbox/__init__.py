"""Openfield in miniature: a server of its own to develop and test against, and an independent judge.

It speaks the protocol of `webservice.yaml` over HTTP, judges every request by that file and by rules that JSON Schema
cannot say, keeps what it accepts, shows all of it on a page, and fails on demand. Nothing of the widget is imported
here, so that a mistake in its mapping cannot be repeated by its judge. It is no place for real people's data: passwords
are hashed cheaply, and whoever reaches the page reads everything else.

    message.py    JSON that keeps its spelling, answers, refusals
    judge.py      what is wrong with a request
    people.py     whom it knows from the start
    faults.py     the ways in which it fails
    registry.py   what it remembers
    protocol.py   /Party/…: the four operations
    page.py       / and /_sandbox/…

Beside the protocol, for tests and scripts (a 422 says what is wrong with an order):

    GET    /_sandbox/parties   the records as they are kept; the one that changed last comes last
    GET    /_sandbox/changes   each Create and Update that took effect, in order, with the record as it stood then
    GET    /_sandbox/calls     what was received, in order, passwords masked, with the answer and the reason
    GET    /_sandbox/faults    those that wait for a call
    POST   /_sandbox/faults    {"kind": …, "operation": "Create"|…|"*", "times": n|null, "seconds": …, "status": …,
                               "retry_after": …, "location": …, "chance": 0…1, "seed": …}: see `faults.Fault`; all
                               but the kind have defaults
    DELETE /_sandbox/faults    clears them, and lets go of the calls that they hold
    POST   /_sandbox/people    {"Party": {…, "Login": {"Username": …, "Password": …}}, "Services": […], "Locked": bool}:
                               kept unjudged; replaces the record of the same PartyId
    POST   /_sandbox/lock      {"username": …, "locked": bool}
    POST   /_sandbox/reset     back to the people of the start: no calls, no faults
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from flask import Flask
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from widget.openfield.sandbox.page import page
from widget.openfield.sandbox.people import ALICE, BOB, CAROL, PEOPLE, Person
from widget.openfield.sandbox.protocol import protocol
from widget.openfield.sandbox.registry import KEPT_CALLS, Registry

__all__ = [
    "ALICE",
    "APPLICATION",
    "BOB",
    "CAROL",
    "PEOPLE",
    "TENANT",
    "Person",
    "create_sandbox",
    "run_sandbox",
    "serving",
]

TENANT = "demo"
APPLICATION = "campaigns"

MAX_BODY = 1 << 20
TOP = Path(__file__).resolve().parents[3]


def create_sandbox(
    *,
    tenant: str = TENANT,
    application: str = APPLICATION,
    people: Sequence[Person] = PEOPLE,
    record_file: Path | None = None,
    ignore_idempotency: bool = False,
    keep_calls: int = KEPT_CALLS,
) -> Flask:
    """A sandbox that knows this one caller and these people.

    Args:
        record_file: keeps records and changes over a restart; read where it exists (then `people` are those of a reset
            only), made otherwise. Without it, everything is forgotten when the process ends.
        ignore_idempotency: be a server that takes no notice of Idempotency-Key, as the protocol allows.
        keep_calls: how many of the calls it received are remembered.

    Raises:
        ValueError: the record file is not a sandbox's.
    """
    app = Flask(
        __name__,
        root_path=str(TOP),
        template_folder="templates/sandbox",
        static_folder="static/sandbox",
        static_url_path="/_sandbox/static",
    )
    app.config.update(
        TENANT=tenant,
        APPLICATION=application,
        IGNORE_IDEMPOTENCY=ignore_idempotency,
        MAX_CONTENT_LENGTH=MAX_BODY,
    )
    app.extensions[Registry.NAME] = Registry(people, record_file, keep_calls)
    app.url_map.merge_slashes = False
    app.register_blueprint(protocol)
    app.register_blueprint(page)
    return app


class _QuietHandler(WSGIRequestHandler):
    """Logs mistakes of the sandbox, not calls: the page lists those."""

    # Small writes one after the other would wait for each other's acknowledgement.
    disable_nagle_algorithm = True

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


def _server(app: Flask, host: str, port: int) -> BaseWSGIServer:
    # Resets need the caller's socket, which werkzeug's server gives; threads let one call wait while others go on.
    return make_server(host, port, app, threaded=True, request_handler=_QuietHandler)


@contextmanager
def serving(app: Flask, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve a sandbox, or another app that developers need, from a thread as long as the context lasts.

    Gives its address. Port 0 takes any that is free.
    """
    server = _server(app, host, port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run_sandbox(host: str, port: int, **options: Any) -> None:
    """Say where, and serve a sandbox there until the process is told to end; options as `create_sandbox` takes them."""
    server = _server(create_sandbox(**options), host, port)
    click.echo(f"The sandbox Openfield is at http://{host}:{server.port} (tenant {TENANT}, application {APPLICATION}).")
    server.serve_forever()
