"""create_app(settings): the assembly, on one screen."""

from __future__ import annotations

from flask import Flask
from sqlalchemy import exc
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix

from widget import cli
from widget.config import Settings
from widget.deliveries import Crowded
from widget.postgres import PostgresFailed
from widget.web import context, i18n, pages, security, status
from widget.web.embed import embed
from widget.wiring import Wiring


def create_app(settings: Settings) -> Flask:
    """The widget as a WSGI application, with its commands. Nothing is started or connected yet."""
    app = Flask("widget", template_folder="../templates", static_folder=None)
    app.jinja_options = {"trim_blocks": True, "lstrip_blocks": True}
    if settings.proxy_hops:
        hops = settings.proxy_hops
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops)  # type: ignore[method-assign]

    context.init_app(app, Wiring.of(settings))
    security.init_app(app)
    i18n.init_app(app)
    status.init_app(app, trusting=settings.proxy_hops > 0)

    app.register_blueprint(pages.pages)
    app.register_blueprint(embed)
    app.register_blueprint(status.status)
    app.register_error_handler(security.FromElsewhere, pages.from_elsewhere)
    app.register_error_handler(HTTPException, pages.http_error)
    database = (exc.OperationalError, exc.InternalError, exc.InterfaceError, exc.TimeoutError, PostgresFailed)
    for failure in (*database, Crowded):
        app.register_error_handler(failure, pages.overloaded)

    cli.init_app(app)
    return app
