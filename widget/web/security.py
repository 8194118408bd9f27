"""What every response carries and what every post must show: policy as data. Shown row by row in docs/SECURITY.md.

Not here: handles (`visits`), throttles (`throttle`), locked fields (`fields`).
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from urllib.parse import urlsplit

from flask import Flask, Response, g, request
from markupsafe import Markup
from werkzeug.exceptions import RequestEntityTooLarge

from widget import logs
from widget.web.context import STATIC, wiring

INLINE_STYLES = ("widget.css",)
INLINE_SCRIPTS = ("frame.js",)

MAX_BODY = 64 * 1024
"""Bytes of a post."""

MAX_FIELDS = 100

DENIED_FEATURES = (
    "accelerometer", "browsing-topics", "camera",
    "display-capture", "encrypted-media", "fullscreen", "geolocation", "gyroscope", "hid", "identity-credentials-get",
    "idle-detection", "local-fonts", "magnetometer", "microphone", "midi", "payment", "picture-in-picture",
    "screen-wake-lock", "serial", "storage-access", "usb", "window-management", "xr-spatial-tracking",
)  # fmt: skip
"""All that the iframe never needs; `autofill` is left to the host."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": ", ".join(f"{feature}=()" for feature in DENIED_FEATURES),
}

HSTS = "max-age=31536000"


class FromElsewhere(Exception):
    """A post that did not come from a page of ours."""


def init_app(app: Flask) -> None:
    """Bounds what is read and puts the headers on every response."""
    app.config["MAX_CONTENT_LENGTH"] = app.config["MAX_FORM_MEMORY_SIZE"] = MAX_BODY
    app.config["MAX_FORM_PARTS"] = MAX_FIELDS
    app.after_request(add_headers)
    app.add_template_global(inline)


def check_post() -> None:
    """Lets a post through only when it comes from a page of ours, and is of a sane size.

    Browsers say so themselves (Fetch Metadata, W3C; the Origin header, RFC 6454).

    Raises:
        FromElsewhere: another site sent it, or nobody says who did.
        RequestEntityTooLarge: too many fields, or too many bytes.
    """
    site = request.headers.get("Sec-Fetch-Site")
    ours = site == "same-origin" if site else request.headers.get("Origin") in _own_origins()
    if not ours:
        logs.security.warning("refused a post from elsewhere")
        raise FromElsewhere
    if sum(1 for _ in request.form.items(multi=True)) > MAX_FIELDS:
        raise RequestEntityTooLarge


def may_embed(origins: list[str]) -> None:
    """Says which origins may show this response in a frame; without a call, none may."""
    g.frame_ancestors = origins


def content_security_policy(ancestors: list[str]) -> str:
    """The policy of an HTML response (CSP level 3)."""
    directives = {
        "default-src": "'none'",
        "script-src": " ".join(_hash(name) for name in INLINE_SCRIPTS),
        "style-src": " ".join(_hash(name) for name in INLINE_STYLES),
        "connect-src": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "object-src": "'none'",
        "frame-ancestors": " ".join(ancestors) or "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in directives.items())


def add_headers(response: Response) -> Response:
    """For `after_request`."""
    headers = response.headers
    ancestors = g.get("frame_ancestors") or []
    headers.update(HEADERS)
    if request.is_secure:
        headers["Strict-Transport-Security"] = HSTS
    if response.mimetype == "text/html":
        headers["Content-Security-Policy"] = content_security_policy(ancestors)
        headers.setdefault("Cache-Control", "no-store")
    if not ancestors:
        headers["X-Frame-Options"] = "DENY"
    if "frame_ancestors" in g:
        headers["Cross-Origin-Embedder-Policy"] = "require-corp"
        headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
    return response


@cache
def inline(name: str) -> Markup:
    """A file of ours, to stand in a page whose policy allows exactly it."""
    if name not in (*INLINE_STYLES, *INLINE_SCRIPTS):
        raise KeyError(name)
    return Markup((STATIC / name).read_text(encoding="utf-8"))  # noqa: S704 - a file of ours


def fold(page: str) -> str:
    """The page without what stands in every page: most of it."""
    for name in (*INLINE_STYLES, *INLINE_SCRIPTS):
        page = page.replace(inline(name), _mark(name))
    return page


def unfold(page: str) -> str:
    """The page that was folded; with what its policy allows now, though we have been upgraded meanwhile."""
    for name in (*INLINE_STYLES, *INLINE_SCRIPTS):
        page = page.replace(_mark(name), inline(name))
    return page


def _mark(name: str) -> str:
    return f"\0{name}\0"  # HTML has no such character


@cache
def _hash(name: str) -> str:
    digest = hashlib.sha256(inline(name).encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _own_origins() -> set[str]:
    asked = urlsplit(request.host_url)
    return {wiring().settings.public_url, f"{asked.scheme}://{asked.netloc}"}
