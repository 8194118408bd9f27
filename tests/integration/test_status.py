"""What whoever runs it can ask: /healthz, /readyz, /metrics; and all of it with the processes that run in earnest."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import IO, Any

import pytest
import requests
from sqlalchemy import text
from sqlalchemy.orm import Session

from tests.conftest import Http, Sandbox, Site
from tests.processes import answers, end, free_port, wait_until
from tests.screens import visit
from widget import migrations
from widget.config import Settings, environment
from widget.db import Database, NoAnswer
from widget.models import Delivery, DeliveryState
from widget.wiring import Wiring

Campaign = Callable[..., str]

TOP = Path(__file__).parents[2]


def numbers(page: requests.Response) -> dict[str, float]:
    """Each line's name with its labels, and its number."""
    page.raise_for_status()
    lines = (line.rpartition(" ") for line in page.text.splitlines() if not line.startswith("#"))
    return {name: float(number) for name, _, number in lines}


# Ready ------------------------------------------------------------------------------------------------------------


@contextmanager
def revision(session: Session, number: str) -> Iterator[None]:
    """The tables of another version."""
    before = session.scalar(text("SELECT version_num FROM alembic_version"))
    change = text("UPDATE alembic_version SET version_num = :number")
    session.execute(change, {"number": number})
    session.commit()
    try:
        yield
    finally:
        session.execute(change, {"number": before})
        session.commit()


def test_with_tables_of_this_version_it_is_ready(http: Http) -> None:
    assert http.get("/readyz").text == "ok\n"


def test_with_older_tables_it_says_how_to_get_ready(http: Http, session: Session, database: Database) -> None:
    with revision(session, "0000"):
        response = http.get("/readyz")
        with pytest.raises(migrations.NotUpToDate):
            migrations.require_newest(database)
    assert response.status_code == 503
    assert response.text.startswith("the tables are at revision 0000, not ")
    assert response.text.endswith(": run `flask db upgrade`\n")


def test_with_a_newer_versions_tables_it_works_on(http: Http, session: Session, database: Database) -> None:
    with revision(session, "9999"):
        migrations.require_newest(database)
        migrations.upgrade(database)
        assert migrations.current(database) == "9999"
        assert http.get("/readyz").status_code == 200


def test_openfield_does_not_count(http: Http, campaign: Campaign, sandbox: Sandbox) -> None:
    campaign()
    sandbox.fault("status", status=503)
    assert http.get("/readyz").status_code == 200
    assert sandbox.calls() == []


def timed(http: Http, path: str) -> tuple[int, float]:
    """The status, and the seconds that it took."""
    began_at = time.monotonic()
    status = http.get(path).status_code
    return status, time.monotonic() - began_at


def test_an_exhausted_pool_is_said_in_time(http: Http, database: Database) -> None:
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(database.engine.connect())
        status, seconds = timed(http, "/readyz")
    assert (status, seconds < 6) == (503, True)
    assert http.get("/readyz").status_code == 200


def test_a_silent_database_is_said_in_time_to_all_who_ask(http: Http, site: Site, settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        site.app.extensions["widget"] = Wiring.of(
            replace(settings, database_url=f"postgresql://nobody@127.0.0.1:{port}/nothing")
        )
        with ThreadPoolExecutor(6) as pool:
            ready = [pool.submit(timed, http, "/readyz") for _ in range(4)]
            metrics = pool.submit(timed, http, "/metrics")
            assert all(future.result()[0] == 503 for future in ready)
            assert metrics.result()[0] == 200
            assert all(future.result()[1] < 6 for future in (*ready, metrics))
            assert timed(http, "/healthz")[0] == 200
        silent.setblocking(False)
        for _ in ("/readyz", "/metrics"):  # each asked once, and not for everybody
            silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_nobody_waits_for_an_answer_that_does_not_come(database: Database) -> None:
    came, began_at = Event(), time.monotonic()
    with pytest.raises(NoAnswer):
        database.ask(lambda _: came.wait(30))
    came.set()
    assert time.monotonic() - began_at < 6


# Metrics ----------------------------------------------------------------------------------------------------------


def test_requests_calls_and_attempts_are_counted(http: Http, campaign: Campaign) -> None:
    form = visit(http, f"/c/{campaign()}").send("login", username="alice", password="alice-likes-waffles")
    form.send("submit", firstname="Alice")
    found = numbers(http.get("/metrics"))
    assert found['widget_request_seconds_count{endpoint="pages.login",status="200"}'] == 1
    assert found['widget_openfield_call_seconds_count{operation="authenticate",outcome="ok"}'] == 1
    assert found['widget_openfield_call_seconds_count{operation="update",outcome="ok"}'] == 1
    assert found['widget_delivery_attempts_total{outcome="delivered"}'] == 1


def test_calls_that_failed_are_counted_by_what_went_wrong(http: Http, campaign: Campaign, sandbox: Sandbox) -> None:
    first = visit(http, f"/c/{campaign()}")
    first.send("login", username="alice", password="not hers")
    sandbox.fault("status", status=503)
    first.send("login", username="alice", password="alice-likes-waffles")
    found = numbers(http.get("/metrics"))
    for outcome in ("InvalidCredentials", "Unavailable"):
        name = f'widget_openfield_call_seconds_count{{operation="authenticate",outcome="{outcome}"}}'
        assert found[name] == 1


def test_the_outbox_stands_in_it(http: Http, campaign: Campaign, sandbox: Sandbox, session: Session) -> None:
    form = visit(http, f"/c/{campaign()}").send("login", username="alice", password="alice-likes-waffles")
    sandbox.fault("status", status=503)
    form.send("submit", firstname="Alice")
    assert session.query(Delivery).one().state is DeliveryState.WAITING
    found = numbers(http.get("/metrics"))
    assert found["widget_database_up"] == 1
    assert found['widget_deliveries{integration="acme",state="waiting"}'] == 1
    assert found['widget_circuit{integration="acme",state="flowing"}'] == 1
    assert found["widget_oldest_delivery_seconds"] > 0
    assert found["widget_workers"] == 0


def test_without_a_database_there_are_metrics_still(site: Site, http: Http, settings: Settings) -> None:
    nowhere = replace(settings, database_url="postgresql://nobody@127.0.0.1:1/nothing")
    site.app.extensions["widget"] = Wiring.of(nowhere)
    assert http.get("/c/summer").status_code == 503
    found = numbers(http.get("/metrics"))
    assert found["widget_database_up"] == 0
    assert found['widget_request_seconds_count{endpoint="pages.first",status="503"}'] == 1


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("127.0.0.1", 200), ("10.1.2.3", 200), ("100.64.0.1", 200), ("::1", 200), ("fd00::1", 200),
        ("::ffff:10.1.2.3", 200), ("8.8.8.8", 404), ("2606:4700::1111", 404), ("::ffff:8.8.8.8", 404), ("", 404),
    ],
)  # fmt: skip
def test_the_internet_is_not_shown_them(site: Site, address: str, status: int) -> None:
    response = site.app.test_client().get("/metrics", environ_overrides={"REMOTE_ADDR": address})
    assert response.status_code == status


# The processes ----------------------------------------------------------------------------------------------------

CANARIES = {
    "email": "canary-mail@example.org",
    "username": "canary-user",
    "password": "canary-password",
    "firstname": "Canaryfirst",
    "lastname": "Canarylast",
    "civility": "MME",
    "country": "BEL",
}


class Running:
    """`flask serve --workers 2` and workers, as an operator runs them, on the test's database."""

    def __init__(self, variables: dict[str, str], log: IO[str], folder: Path) -> None:
        self._variables = variables
        self._log = log
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Starts `flask <command>`."""
        process = subprocess.Popen(
            (sys.executable, "-m", "flask", *command), cwd=TOP, env=environment(**self._variables), text=True,
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def logged(self) -> str:
        """All that they have said."""
        return Path(self._log.name).read_text(encoding="utf-8")


@pytest.fixture
def url() -> str:
    """Where the widget is to be."""
    return f"http://localhost:{free_port()}"


@pytest.fixture
def running(settings: Settings, database: Database, tmp_path: Path, url: str) -> Iterator[Running]:
    """What an operator runs; nothing yet."""
    variables = {
        "PYTHONUNBUFFERED": "1",
        "WIDGET_INSTANCE": str(tmp_path / "instance"),
        "WIDGET_DATABASE_URL": database.conninfo,
        "WIDGET_SECRET_KEY": settings.secret_key,
        "WIDGET_ENCRYPTION_KEYS": ",".join(settings.encryption_keys),
        "WIDGET_PUBLIC_URL": url,
        "WIDGET_OPENFIELD_PRIVATE_HOSTS": ",".join(settings.private_hosts),
    }
    with (tmp_path / "log").open("w", encoding="utf-8") as log:
        running = Running(variables, log, tmp_path / "instance" / "metrics")
        yield running
        for process in running.processes:
            end(process)


def scrape(url: str) -> dict[str, float]:
    """The metrics, as a new connection finds them: any of the server's processes may answer."""
    return numbers(requests.get(f"{url}/metrics", timeout=10))


def requests_answered(found: dict[str, float]) -> float:
    """How many, but for those of who asks whether all is well."""
    name = "widget_request_seconds_count"
    return sum(count for each, count in found.items() if each.startswith(name) and '"status.' not in each)


def test_several_processes_are_watched_as_one_and_tell_nothing_personal(
    running: Running, url: str, campaign: Campaign, sandbox: Sandbox
) -> None:
    slug = campaign()
    running.start("serve", "--port", url.rpartition(":")[2], "--workers", "2")
    wait_until(lambda: answers(f"{url}/readyz"))
    asked = 0

    def both_have_answered() -> bool:
        nonlocal asked
        asked += 1
        requests.get(f"{url}/c/{slug}", timeout=10).raise_for_status()
        return len(list(running.folder.glob("histogram_*.db"))) == 2

    wait_until(both_have_answered)
    assert {requests_answered(scrape(url)) for _ in range(10)} == {asked}

    with Http(url) as http:  # four requests
        visit(http, f"/c/{slug}").send("login", username=CANARIES["email"], password=CANARIES["password"])
        form = visit(http, f"/c/{slug}").send("signup")
        sandbox.fault("status", operation="Create", status=503, times=1)
        assert form.send("submit", CANARIES).step == "thanks"  # one more
    assert requests_answered(scrape(url)) == asked + 5

    worker = running.start("worker")
    created = 'widget_openfield_call_seconds_count{operation="create",outcome="ok"}'
    wait_until(lambda: scrape(url).get('widget_delivery_attempts_total{outcome="delivered"}') == 1)
    wait_until(lambda: scrape(url).get("widget_workers") == 1)
    found = scrape(url)
    assert found['widget_openfield_call_seconds_count{operation="create",outcome="Unavailable"}'] == 1
    assert found[created] == 1
    assert sandbox.party(CANARIES["username"])

    worker.kill()
    worker.wait(timeout=30)
    other = running.start("worker")
    wait_until((running.folder / "counter_ended.db").exists)
    assert scrape(url)[created] == 1

    page = requests.get(f"{url}/metrics", timeout=10).text
    other.terminate()
    assert other.wait(timeout=30) == 0
    running.processes[0].terminate()
    assert running.processes[0].wait(timeout=30) == 0
    logged = running.logged()
    lines: list[dict[str, Any]] = [json.loads(line) for line in logged.splitlines()]
    assert not [line for line in lines for value in line.values() if isinstance(value, dict | list)]
    assert {"time", "level", "logger", "message"} <= set.intersection(*(set(line) for line in lines))
    assert {"_granian", "widget.requests", "widget.security", "widget.participation"} <= {
        line["logger"] for line in lines
    }
    for canary in set(CANARIES.values()) - {"MME", "BEL"}:
        assert canary not in logged
        assert canary not in page
