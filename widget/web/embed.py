"""What a campaign site loads: the loader that the snippet names."""

from __future__ import annotations

from flask import Blueprint, request, send_from_directory
from werkzeug.wrappers import Response

from widget.web.context import STATIC

embed = Blueprint("embed", __name__)


@embed.get("/embed.js")
def loader() -> Response:
    """The loader: for any site, briefly cached, so that a snippet never has to be pasted again."""
    response = send_from_directory(STATIC, "embed.js", mimetype="text/javascript")
    response.headers["Cache-Control"] = "public, max-age=300, stale-while-revalidate=86400"
    response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    return response.make_conditional(request)
