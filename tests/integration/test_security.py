"""What docs/SECURITY.md promises, row by row; what is about the journey itself is in test_journey.py."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from tests import factories
from tests.conftest import Host, Http, Sandbox, Site
from tests.screens import Screen, visit
from widget import deliveries
from widget.app import create_app
from widget.config import Settings
from widget.models import Delivery, DeliveryState
from widget.web import security
from widget.wiring import Wiring

Campaign = Callable[..., str]

CANARY = "c4n4ry-p4ssw0rd-5f1d"


def policy(screen: Screen) -> dict[str, str]:
    directives = screen.headers["Content-Security-Policy"].split("; ")
    return {name: value for name, _, value in (each.partition(" ") for each in directives)}


def every_kind_of_page(http: Http, campaign: Campaign) -> list[Screen]:
    slug = campaign()
    first = visit(http, f"/c/{slug}")
    form = first.send("signup")
    return [
        first,
        form,
        first.send("login", username="alice", password="wrong"),
        first.send("login", username="alice", password="alice-likes-waffles").send("submit"),
        form.send("submit", email="x"),
        visit(http, "/c/nothing"),
        visit(http, "/nothing"),
        Screen(http, http.post(f"/c/{slug}/login", headers={"Sec-Fetch-Site": "cross-site"})),
        Screen(http, http.put(f"/c/{slug}")),
        visit(http, f"/c/{campaign(slug='over', closes_at=datetime(2020, 1, 1, tzinfo=UTC))}"),
    ]


# 1 Content Security Policy


def test_every_page_starts_from_nothing_allowed(http: Http, campaign: Campaign) -> None:
    for screen in every_kind_of_page(http, campaign):
        rules = policy(screen)
        assert rules["default-src"] == "'none'"
        assert rules["base-uri"] == "'none'"
        assert rules["object-src"] == "'none'"
        assert rules["form-action"] == "'self'"
        assert rules["require-trusted-types-for"] == "'script'"
        assert rules["trusted-types"] == "'none'"
        assert "unsafe" not in screen.headers["Content-Security-Policy"]


def test_script_and_style_are_allowed_by_the_hash_of_what_stands_in_the_page(http: Http, campaign: Campaign) -> None:
    for screen in every_kind_of_page(http, campaign):
        for tag, directive in (("script", "script-src"), ("style", "style-src")):
            (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", screen.html, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert policy(screen)[directive] == f"'sha256-{digest}'"
        assert not re.search(r"<[^>]+\s(style|on\w+)=", screen.html)
        assert " src=" not in re.sub(r"<script>.*</script>", "", screen.html, flags=re.DOTALL)


# 2 Who may embed


def test_a_campaign_may_be_embedded_by_its_websites_origins_and_no_others(
    http: Http, campaign: Campaign, host: Host
) -> None:
    for screen in every_kind_of_page(http, campaign):
        if "/c/" in screen.url and screen.status not in (404, 405):
            assert policy(screen)["frame-ancestors"] == host.origin
            assert "X-Frame-Options" not in screen.headers
        else:
            assert policy(screen)["frame-ancestors"] == "'none'"
            assert screen.headers["X-Frame-Options"] == "DENY"


def test_without_origins_nobody_may_embed(http: Http, campaign: Campaign) -> None:
    nowhere = [{"slug": "news", "name": "Acme News", "origins": [], "language": "en"}]
    screen = visit(http, f"/c/{campaign(kinds={'website': nowhere})}")
    assert policy(screen)["frame-ancestors"] == "'none'"
    assert screen.headers["X-Frame-Options"] == "DENY"


def test_another_website_has_its_own_list(http: Http, campaign: Campaign) -> None:
    two = [
        {"slug": "news", "name": "Acme News", "origins": ["https://news.acme.example"], "language": "en"},
        {
            "slug": "radio",
            "name": "Radio",
            "origins": ["https://a.example", "https://b.example:8443"],
            "language": "en",
        },
    ]
    screen = visit(http, f"/c/{campaign(website='radio', kinds={'website': two})}")
    assert policy(screen)["frame-ancestors"] == "https://a.example https://b.example:8443"


# 3 Other headers


def test_every_response_carries_the_headers(http: Http, campaign: Campaign) -> None:
    for screen in every_kind_of_page(http, campaign):
        assert screen.headers["X-Content-Type-Options"] == "nosniff"
        assert screen.headers["Referrer-Policy"] == "same-origin"
        assert "camera=()" in screen.headers["Permissions-Policy"]
        assert "autofill" not in screen.headers["Permissions-Policy"]
        assert "Strict-Transport-Security" not in screen.headers
    for path in ("/embed.js", "/healthz", "/readyz", "/nothing"):
        assert http.get(path).headers["X-Content-Type-Options"] == "nosniff"


def test_what_is_personal_is_not_stored_by_any_cache(http: Http, campaign: Campaign) -> None:
    first, *others = every_kind_of_page(http, campaign)
    assert first.headers["Cache-Control"] == "public, max-age=60"
    assert {screen.headers["Cache-Control"] for screen in others} == {"no-store"}


def test_hosts_that_isolate_themselves_may_embed(http: Http, campaign: Campaign) -> None:
    screen = visit(http, f"/c/{campaign()}")
    assert screen.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert screen.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert http.get("/embed.js").headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert http.get("/healthz").headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_over_https_browsers_are_told_to_stay_there(settings: Settings) -> None:
    response = create_app(settings).test_client().get("/healthz", base_url="https://widget.example")
    assert response.headers["Strict-Transport-Security"] == security.HSTS


# 8 Passwords


def test_a_password_is_found_nowhere_but_at_openfield(
    http: Http,
    campaign: Campaign,
    sandbox: Sandbox,
    session: Session,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    form = visit(http, f"/c/{campaign()}").send("signup")
    newcomer = {
        "email": "dora@example.org", "username": "dora", "password": CANARY, "civility": "MME", "firstname": "Dora",
        "lastname": "Dubois", "country": "BEL",
    }  # fmt: skip
    wrong = visit(http, "/c/summer").send("login", username="alice", password=CANARY)
    mistaken = form.send("submit", {**newcomer, "email": "x"})
    sandbox.fault("status", "Create", status=500)
    thanks = mistaken.send("submit", newcomer)
    assert thanks.step == "thanks"
    (delivery,) = session.query(Delivery)
    assert delivery.state is DeliveryState.WAITING

    assert all(CANARY not in screen.html for screen in (wrong, mistaken, thanks))
    assert CANARY not in caplog.text
    deliveries.sweep(session, delivery.due_at)
    assert session.scalar(text("SELECT count(*) FROM procrastinate_jobs")) == 1
    assert CANARY not in everything_in(session)
    assert CANARY not in http.get("/metrics").text

    session.execute(text("CHECKPOINT"))
    files = [path for path in (settings.instance / "postgres").resolve().rglob("*") if path.is_file()]
    assert [path for path in files if b"Summer contest" in path.read_bytes()]  # the search finds what is there
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []


def everything_in(session: Session) -> str:
    """Every row of every table, bytes as text."""
    tables = session.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all()
    rows = [row for table in tables for row in session.execute(text(f'SELECT * FROM "{table}"'))]  # noqa: S608 - the names are PostgreSQL's own
    assert rows
    return " ".join(
        value.decode("latin-1") if isinstance(value, bytes) else str(value) for row in rows for value in row
    )


def test_a_crash_shows_and_logs_no_password(
    http: Http, campaign: Campaign, site: Site, caplog: pytest.LogCaptureFixture, session: Session
) -> None:
    form = visit(http, f"/c/{campaign()}").send("signup")
    session.execute(text("ALTER TABLE participation RENAME TO elsewhere"))
    session.commit()
    try:
        response = http.post("/c/summer/submit", data={
            **form.fields("submit"), "email": "dora@example.org", "username": "dora", "password": CANARY,
            "civility": "MME", "firstname": "Dora", "lastname": "Dubois", "country": "BEL"})  # fmt: skip
    finally:
        session.execute(text("ALTER TABLE elsewhere RENAME TO participation"))
        session.commit()
    crashed = Screen(http, response)
    assert crashed.status == 500
    assert "Something went wrong here" in crashed.headings
    assert crashed.links()
    assert CANARY not in response.text
    assert CANARY not in caplog.text
    assert "Dubois" not in caplog.text


def test_without_a_database_everybody_is_told_to_try_again(site: Site, http: Http, settings: Settings) -> None:
    nowhere = dataclasses.replace(settings, database_url="postgresql://nobody@127.0.0.1:1/nothing")
    site.app.extensions["widget"] = Wiring.of(nowhere)
    screen = visit(http, "/c/summer")
    assert screen.status == 503
    assert "Too much is going on right now" in screen.headings
    assert screen.headers["Retry-After"] == "10"
    assert http.get("/readyz").status_code == 503
    assert http.get("/healthz").status_code == 200


# 18 Bounds


@pytest.mark.parametrize(
    "data",
    [{"username": "a" * 70_000, "password": "b"}, {f"field{number}": "x" for number in range(101)}],
    ids=["too many bytes", "too many fields"],
)
@pytest.mark.parametrize("action", ["login", "submit"])
def test_a_post_that_is_too_large_gets_a_clear_page(
    http: Http, campaign: Campaign, data: dict[str, str], action: str
) -> None:
    screen = Screen(http, http.post(f"/c/{campaign()}/{action}", data=data))
    assert screen.status == 413
    assert screen.step == "notice"
    assert "That was too much" in screen.headings


def test_a_field_that_is_too_long_is_said_at_the_field(http: Http, campaign: Campaign) -> None:
    form = visit(http, f"/c/{campaign()}").send("signup")
    again = form.send("submit", firstname="x" * 201, password="y" * 1025)
    assert again.status == 422
    assert {"firstname", "password"} <= set(again.errors)


@pytest.mark.parametrize("body", [b"\xff\xfe=%ff", b"username=%00&password=%00", b"=&=&&&", b"username[]=a&password"])
def test_odd_bytes_are_answered_with_the_form(http: Http, campaign: Campaign, body: bytes) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    screen = Screen(http, http.post(f"/c/{campaign()}/login", data=body, headers=headers))
    assert screen.status in (200, 422)


def test_a_post_of_another_kind_is_no_form(http: Http, campaign: Campaign) -> None:
    screen = Screen(http, http.post(f"/c/{campaign()}/submit", json={"handle": "x"}))
    assert screen.step == "first"


# 9 Openfield's address: the rule itself is in tests/unit/test_guard.py


def test_an_openfield_at_a_private_address_is_not_called_unless_the_operator_lists_it(
    http: Http, campaign: Campaign, sandbox: Sandbox, site: Site, session: Session
) -> None:
    port = sandbox.url.rpartition(":")[2]
    slug = campaign()
    moved = factories.integration(sandbox.url)["openfield_url"].replace("127.0.0.1", "localhost")
    session.execute(text("UPDATE integration SET openfield_url = :url"), {"url": moved})
    session.commit()
    screen = visit(http, f"/c/{slug}").send("login", username="alice", password="alice-likes-waffles")
    assert screen.status == 503
    assert port in moved
    assert sandbox.calls() == []
