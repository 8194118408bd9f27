"""What is logged while somebody uses the widget."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.conftest import Http, Sandbox, Site
from tests.screens import visit
from widget import logs
from widget.app import create_app
from widget.config import Settings
from widget.participation import PER_ACCOUNT

Campaign = Callable[..., str]


class Log:
    """The lines that were logged."""

    def __init__(self) -> None:
        self.written = io.StringIO()

    def lines(self, logger: str = "widget") -> list[dict[str, Any]]:
        """Those of this logger and the ones below it."""
        every = [json.loads(line) for line in self.written.getvalue().splitlines()]
        return [line for line in every if f"{line['logger']}.".startswith(f"{logger}.")]


@pytest.fixture
def log(site: Site) -> Iterator[Log]:
    """What the site logs."""
    log, ours = Log(), logging.getLogger("widget")
    handler = logging.StreamHandler(log.written)
    handler.setFormatter(logs.formatter("json"))
    level = ours.level
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    yield log
    ours.setLevel(level)
    ours.removeHandler(handler)


def test_each_request_has_a_line_with_its_id(http: Http, campaign: Campaign, log: Log) -> None:
    response = http.get(f"/c/{campaign()}?email=dora@example.org")
    (line,) = log.lines("widget.requests")
    assert line["request_id"] == response.headers["X-Request-Id"]
    assert line["milliseconds"] > 0
    told = ("endpoint", "method", "status", "campaign")
    assert {name: line[name] for name in told} == {
        "endpoint": "pages.first", "method": "GET", "status": 200, "campaign": "summer",
    }  # fmt: skip
    assert "dora" not in log.written.getvalue()


def test_an_address_that_is_nothing_of_ours_is_not_repeated(http: Http, log: Log) -> None:
    http.get("/c/dora@example.org")
    http.get("/dora@example.org")
    first, second = log.lines("widget.requests")
    assert (first["endpoint"], first["status"]) == ("pages.first", 404)
    assert (second["endpoint"], second["status"]) == ("none", 404)
    assert "dora" not in log.written.getvalue()


def test_who_watches_the_process_is_not_logged(http: Http, log: Log) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert http.get(path).headers["X-Request-Id"]
    assert log.lines() == []


def test_requests_have_ids_of_their_own(http: Http) -> None:
    assert len({http.get("/healthz").headers["X-Request-Id"] for _ in range(3)}) == 3


def test_only_a_proxy_that_is_trusted_may_number_requests(settings: Settings) -> None:
    def numbered(hops: int, given: str) -> str:
        client = create_app(replace(settings, proxy_hops=hops)).test_client()
        return client.get("/healthz", headers={"X-Request-Id": given}).headers["X-Request-Id"]

    given = "b7e4d0c2-proxy_1"
    assert numbered(1, given) == given
    assert numbered(0, given) != given
    for odd in ("short", "x" * 65, "dora@example.org", "12345678 90", "<script>1</script>"):
        assert numbered(1, odd) != odd


def test_a_post_from_elsewhere_is_told_of(http: Http, campaign: Campaign, log: Log) -> None:
    response = http.post(f"/c/{campaign()}/login", headers={"Sec-Fetch-Site": "cross-site"})
    (line,) = log.lines("widget.security")
    assert (line["level"], line["message"]) == ("warning", "refused a post from elsewhere")
    assert line["request_id"] == response.headers["X-Request-Id"]


def test_a_log_in_that_is_refused_is_told_of(http: Http, campaign: Campaign, log: Log) -> None:
    visit(http, f"/c/{campaign()}").send("login", username="alice", password="not hers")
    (line,) = log.lines("widget.security")
    assert (line["message"], line["reason"]) == ("refused a log-in", "wrong")


def test_a_log_in_that_is_throttled_is_told_of(http: Http, campaign: Campaign, log: Log) -> None:
    first = visit(http, f"/c/{campaign()}")
    for _ in range(PER_ACCOUNT.burst + 1):
        first.send("login", username="alice", password="not hers")
    throttled = [line for line in log.lines("widget.security") if line["message"] == "throttled a log-in"]
    assert [line["by"] for line in throttled] == ["account"]


def test_a_handle_that_is_refused_is_told_of(http: Http, campaign: Campaign, log: Log) -> None:
    form = visit(http, f"/c/{campaign()}").send("signup")
    form.send("submit", firstname="Dora")
    form.send("submit", firstname="Dora", lastname="Dubois")
    form.send("submit", handle="x" * 43)
    told = [(line["message"], line["reason"]) for line in log.lines("widget.security")]
    assert told == [("refused a handle", "spent"), ("refused a handle", "expired or unknown")]


def test_a_delivery_is_told_of_with_its_id(http: Http, campaign: Campaign, sandbox: Sandbox, log: Log) -> None:
    form = visit(http, f"/c/{campaign()}").send("login", username="alice", password="alice-likes-waffles")
    form.send("submit")
    (line,) = log.lines("widget.participation")
    assert line["message"] == "delivered"
    assert line["delivery_id"] == sandbox.calls("Update")[0]["idempotency_key"]
    assert line["request_id"] == log.lines("widget.requests")[-1]["request_id"]
