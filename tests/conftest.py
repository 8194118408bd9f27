"""What tests stand on: a real PostgreSQL, a sandbox Openfield, the widget and a host page over HTTP, and a browser.

Nothing starts before a test asks for it. Servers last as long as the test run; what they remember lasts one test.

    settings, database, session, vault, wiring, now       for tests of verbs
    sandbox                                               Openfield; `.url`, `.parties()`, `.calls()`, `.fault(…)`
    site, http                                            the widget at `http://localhost:…`, and a client of it
    campaign                                              puts a campaign there: `campaign(language="nl", …)`
    host                                                  a campaign site at `http://127.0.0.1:…`: not the widget's site
    page, page_without_javascript, page_without_cookies   Chromium
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import pytest
import requests
from cryptography.fernet import Fernet
from flask import Flask
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, sync_playwright
from sqlalchemy import text
from sqlalchemy.orm import Session
from werkzeug import Response
from werkzeug.serving import make_server

from tests import factories
from tests.processes import remove
from widget import migrations
from widget.app import create_app
from widget.config import Settings
from widget.db import Database
from widget.metrics import Metrics
from widget.openfield import Clients
from widget.openfield import sandbox as sandbox_server
from widget.vault import Vault
from widget.wiring import Wiring

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

# Servers of this run ----------------------------------------------------------------------------------------------


def _listening() -> socket.socket:
    """A socket on a free port: its number is known before there is anything to serve."""
    return socket.create_server(("127.0.0.1", 0))


@contextmanager
def _serving(app: Any, listening: socket.socket) -> Iterator[None]:
    """The WSGI app, served by threads of this process."""
    server = make_server("127.0.0.1", 0, app, threaded=True, fd=listening.fileno())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _port(listening: socket.socket) -> int:
    port: int = listening.getsockname()[1]
    return port


@pytest.fixture(scope="session")
def _site_socket() -> Iterator[socket.socket]:
    with _listening() as listening:
        yield listening


@pytest.fixture(scope="session")
def _sandbox_url() -> Iterator[str]:
    with sandbox_server.serving(sandbox_server.create_sandbox()) as url:
        yield url


# Settings and database --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def settings(_site_socket: socket.socket, _sandbox_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """With a temporary instance folder, the site's address, and the sandbox as a host that may be private."""
    return Settings(
        instance=tmp_path_factory.mktemp("instance"),
        secret_key="a secret of the tests, long enough",
        encryption_keys=(Fernet.generate_key().decode(),),
        public_url=f"http://localhost:{_port(_site_socket)}",
        private_hosts=frozenset({urlsplit(_sandbox_url).netloc}),
    )


@pytest.fixture(scope="session")
def _migrated(settings: Settings) -> Iterator[Database]:
    database = Database(settings)
    migrations.upgrade(database)
    yield database
    database.close()
    remove(settings.instance)


EMPTY = """
    DO $$
    DECLARE each text;
    BEGIN
        SET LOCAL session_replication_role = replica;
        FOR each IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version' LOOP
            EXECUTE format('DELETE FROM %I', each);
        END LOOP;
    END $$
"""
"""Quicker than TRUNCATE, which makes new files; as a replica does it, without foreign keys or triggers in the way."""


@pytest.fixture
def database(_migrated: Database) -> Iterator[Database]:
    """Migrated, and empty when a test begins."""
    yield _migrated
    with _migrated.engine.begin() as connection:
        connection.execute(text(EMPTY))


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    """A session of the test's own."""
    with database.session() as session:
        yield session


@pytest.fixture
def vault(settings: Settings) -> Vault:
    """With the same keys as the site's."""
    return Vault(settings.encryption_keys, settings.secret_key)


@pytest.fixture
def now() -> datetime:
    """The time when the test began."""
    return datetime.now(UTC)


@pytest.fixture
def wiring(settings: Settings, database: Database, vault: Vault) -> Iterator[Wiring]:
    """What verbs are handed, and the site in its turn: clients of Openfield that remember no earlier test."""
    metrics = Metrics()
    clients = Clients(settings.private_hosts, observe=metrics.call)
    yield Wiring(settings=settings, database=database, vault=vault, clients=clients, metrics=metrics)
    clients.close()


# Openfield --------------------------------------------------------------------------------------------------------


class Sandbox:
    """A running sandbox, as seen by a test: what Openfield has, what it was asked, and how it is to fail."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = requests.Session()
        self._http.trust_env = False

    def parties(self) -> list[dict[str, Any]]:
        """The records as they are kept; the one that changed last comes last."""
        parties: list[dict[str, Any]] = self._ask("GET", "parties")
        return parties

    def party(self, username: str) -> dict[str, Any]:
        """The record of the person with this user name."""
        return next(each for each in self.parties() if each["Party"]["Login"]["Username"] == username)

    def calls(self, operation: str = "*") -> list[dict[str, Any]]:
        """What was received of an operation, in order, passwords masked."""
        return [each for each in self._ask("GET", "calls") if operation in ("*", each["operation"])]

    def fault(self, kind: str, operation: str = "*", **details: Any) -> None:
        """What goes wrong with the next call; see `widget.openfield.sandbox.faults.Fault`."""
        self._ask("POST", "faults", {"kind": kind, "operation": operation, **details})

    def clear_faults(self) -> None:
        """No fault waits any longer, and the calls that one holds go on."""
        self._ask("DELETE", "faults")

    def add_person(self, record: dict[str, Any]) -> None:
        """Somebody whom no Create has told about."""
        self._ask("POST", "people", record)

    def lock(self, username: str, locked: bool = True) -> None:
        """Lets the person log in no longer, or again."""
        self._ask("POST", "lock", {"username": username, "locked": locked})

    def reset(self) -> None:
        """Back to the people of the start: no calls, no faults."""
        self._ask("POST", "reset")

    def _ask(self, method: str, what: str, body: Any = None) -> Any:
        response = self._http.request(method, f"{self.url}/_sandbox/{what}", json=body, timeout=10)
        response.raise_for_status()
        return response.json() if response.content else None

    def close(self) -> None:
        """Ends the connection."""
        self._http.close()


@pytest.fixture
def sandbox(_sandbox_url: str) -> Iterator[Sandbox]:
    """A sandbox with the people of its start, no calls and no faults."""
    sandbox = Sandbox(_sandbox_url)
    sandbox.clear_faults()
    sandbox.reset()
    yield sandbox
    sandbox.clear_faults()
    sandbox.close()


# The widget -------------------------------------------------------------------------------------------------------


class Site:
    """The widget, served over HTTP."""

    def __init__(self, app: Flask, url: str) -> None:
        self.app = app
        self.url = url


@pytest.fixture(scope="session")
def _served(settings: Settings, _site_socket: socket.socket) -> Iterator[Site]:
    app = create_app(settings)
    with _serving(app, _site_socket):
        yield Site(app, settings.public_url)


@pytest.fixture
def site(_served: Site, wiring: Wiring) -> Site:
    """The widget with the test's wiring; its database is empty but for what the test puts there."""
    _served.app.extensions["widget"] = wiring
    return _served


class Http(requests.Session):
    """A browser without a screen: paths are the site's, and posts come from the site's own pages."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.trust_env = False
        self.headers["Sec-Fetch-Site"] = "same-origin"
        self._url = url

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        """As requests does, with a time-out of ten seconds."""
        return super().request(method, urljoin(self._url, str(url)), *args, **{"timeout": 10, **kwargs})


@pytest.fixture
def http(site: Site) -> Iterator[Http]:
    """Speaks to the site: `http.get("/c/summer")`."""
    with Http(site.url) as http:
        yield http


@pytest.fixture
def campaign(session: Session, settings: Settings, sandbox: Sandbox, host: Host) -> Callable[..., str]:
    """`campaign()` puts a campaign there with all that it needs, and gives its slug; keys as in `factories.campaign`.

    `kinds` replaces entries of other kinds: `campaign(language="nl", kinds={"push_rule": []})`.
    """

    def put(*, kinds: dict[str, list[factories.Entry]] | None = None, **keys: Any) -> str:
        entry = factories.campaign(**keys)
        wanted = factories.settings(openfield_url=sandbox.url, origins=[host.origin], **(kinds or {}), campaign=[entry])
        factories.apply(session, wanted, settings.private_hosts)
        return str(entry["slug"])

    return put


# A campaign site --------------------------------------------------------------------------------------------------


class Host:
    """A web site on another site than the widget's, with whatever pages a test gives it."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self._pages: dict[str, tuple[str, dict[str, str]]] = {}

    def page(self, html: str, path: str = "/", **headers: str) -> str:
        """Puts a page there and gives its address; `headers` have underscores for hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._pages[path] = (html, named)
        return self.origin + path

    def embed(self, url: str, path: str = "/", loader: str = "") -> str:
        """Puts a page there that embeds `url`, with the loader's address if one is given; gives the page's address."""
        script = f'<script src="{loader}" async></script>' if loader else ""
        return self.page(
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>Host</title><h1>Our contest</h1>'
            f'<iframe src="{url}" title="Contest" allow="autofill" style="width:100%;min-height:560px;border:0">'
            "</iframe>"
            f"{script}</html>",
            path,
        )

    def clear(self) -> None:
        """No pages any more."""
        self._pages.clear()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """The WSGI app."""
        html, headers = self._pages.get(environ["PATH_INFO"], ("", {}))
        response = Response(html, 200 if html else 404, headers, content_type="text/html; charset=utf-8")
        return response(environ, start_response)


@pytest.fixture(scope="session")
def _host() -> Iterator[Host]:
    with _listening() as listening:
        host = Host(f"http://127.0.0.1:{_port(listening)}")
        with _serving(host, listening):
            yield host


@pytest.fixture
def host(_host: Host) -> Host:
    """A campaign site at 127.0.0.1, which to a browser is another site than localhost; without pages yet."""
    _host.clear()
    return _host


# Browsers ---------------------------------------------------------------------------------------------------------

NO_COOKIES = {"profile": {"default_content_setting_values": {"cookies": 2}}}
"""Chromium's preferences for refusing every cookie, and all other storage with them."""


def _launch_options() -> dict[str, Any]:
    nowhere = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"
    args = [nowhere, "--disable-background-networking", "--disable-component-update", "--no-first-run"]
    if os.geteuid() == 0:
        args.append("--no-sandbox")  # Chromium's own sandbox needs an ordinary user
    return {"executable_path": shutil.which("chromium"), "args": args}


@pytest.fixture(scope="session")
def _playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="session")
def browser(_playwright: Playwright) -> Iterator[Browser]:
    """Chromium: the system's where there is one, otherwise Playwright's own. It finds no host but this one."""
    browser = _playwright.chromium.launch(**_launch_options())
    yield browser
    browser.close()


@pytest.fixture
def new_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """`new_page(viewport=…, locale=…)` opens a page in a browser context of its own."""
    contexts: list[BrowserContext] = []

    def new(**options: Any) -> Page:
        context = browser.new_context(**options)
        context.set_default_timeout(10_000)
        contexts.append(context)
        return context.new_page()

    yield new
    for context in contexts:
        context.close()


@pytest.fixture
def page(new_page: Callable[..., Page]) -> Page:
    """An ordinary page."""
    return new_page()


@pytest.fixture
def page_without_javascript(new_page: Callable[..., Page]) -> Page:
    """A page on which no script runs."""
    return new_page(java_script_enabled=False)


@pytest.fixture
def page_without_cookies(_playwright: Playwright, tmp_path: Path) -> Iterator[Page]:
    """A page of a browser that refuses every cookie, first-party ones included."""
    preferences = tmp_path / "profile" / "Default" / "Preferences"
    preferences.parent.mkdir(parents=True)
    preferences.write_text(json.dumps(NO_COOKIES), encoding="utf-8")
    with _playwright.chromium.launch_persistent_context(preferences.parents[1], **_launch_options()) as context:
        context.set_default_timeout(10_000)
        yield context.new_page()
