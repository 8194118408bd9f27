"""The embedded PostgreSQL among its processes, what happens when a database goes away, and the migrations."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import IO

import psutil
import psycopg
import pytest
import requests
from sqlalchemy import Connection, Engine, create_engine, event, func, make_url, select, text
from sqlalchemy.exc import DBAPIError, InternalError, OperationalError
from sqlalchemy.orm import Session

from tests import factories
from tests.conftest import Http, Sandbox
from tests.processes import answers, end, free_port, is_alive, postmaster, remove, wait_until
from tests.screens import visit
from widget import db, migrations, postgres
from widget.config import Settings, environment
from widget.db import Database, NoAnswer, unhurried
from widget.models import Base, Delivery, Participation
from widget.postgres import Postgres, PostgresFailed

TOP = Path(__file__).parents[2]

USER = """
import sys
from pathlib import Path
from widget.postgres import Postgres

server = Postgres(Path(sys.argv[1]))
print(server.start(), flush=True)
sys.stdin.read()
server.stop()
"""
"""A process that uses the server until its standard input ends."""


class User:
    """Another process that uses the server of an instance."""

    def __init__(self, instance: Path) -> None:
        self.process = subprocess.Popen(
            (sys.executable, "-c", USER, str(instance)),
            cwd=TOP,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def url(self) -> str:
        """Where the server is, once the process uses it."""
        return _pipe(self.process.stdout).readline().strip()

    def end(self) -> None:
        """Lets the process end in order."""
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0

    def kill(self) -> None:
        """Ends it before it can do anything about it."""
        self.process.kill()
        self.process.wait(timeout=60)
        _pipe(self.process.stdin).close()
        _pipe(self.process.stdout).close()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Path]:
    """A folder for an instance, with nothing in it."""
    yield tmp_path / "instance"
    assert postmaster(tmp_path / "instance") is None
    remove(tmp_path / "instance")


@pytest.fixture
def connected() -> Iterator[Callable[[str], Connection]]:
    """`connected(url)` is a connection of this process."""
    with ExitStack() as stack:

        def connect(url: str) -> Connection:
            engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
            stack.callback(engine.dispose)
            return stack.enter_context(engine.connect())

        yield connect


def test_nothing_starts_before_it_is_used(settings: Settings, instance: Path) -> None:
    Database(replace(settings, instance=instance)).close()
    assert not instance.exists()


def test_the_server_keeps_what_it_was_told(settings: Settings, instance: Path) -> None:
    database = Database(replace(settings, instance=instance))
    with database.engine.begin() as connection:
        connection.execute(text("CREATE TABLE told AS SELECT 'Héllo' AS it"))
    database.close()
    assert postmaster(instance) is None

    with database.engine.connect() as connection:
        assert connection.scalar(text("SELECT it FROM told")) == "Héllo"
        assert connection.scalar(text("SHOW timezone")) == "UTC"
        assert connection.scalar(text("SHOW listen_addresses")) == ""
    database.close()


def test_a_first_start_takes_about_a_second(instance: Path) -> None:
    server = Postgres(instance)
    began = time.monotonic()
    server.start()
    took = time.monotonic() - began
    server.stop()
    assert took < 5  # a second when nothing else runs


def test_processes_that_start_at_once_share_one_server_until_the_last_ends(instance: Path) -> None:
    users = [User(instance) for _ in range(3)]
    assert len({user.url() for user in users}) == 1
    server = postmaster(instance)
    assert server is not None

    users[0].end()
    users[1].end()
    assert postmaster(instance) == server

    users[2].end()
    assert postmaster(instance) is None


def test_a_killed_process_does_not_keep_the_server_alive(instance: Path) -> None:
    eve, alice = User(instance), User(instance)
    assert eve.url() == alice.url()
    eve.kill()
    alice.end()
    assert postmaster(instance) is None


def test_a_server_whose_users_were_all_killed_is_found_and_stopped_by_the_next(instance: Path) -> None:
    eve = User(instance)
    eve.url()
    server = postmaster(instance)
    eve.kill()
    assert postmaster(instance) == server

    alice = User(instance)
    alice.url()
    assert postmaster(instance) == server
    alice.end()


def test_a_killed_server_starts_again_although_its_process_number_is_taken(instance: Path) -> None:
    server = Postgres(instance)
    server.start()
    killed = postmaster(instance)
    assert killed is not None
    family = [psutil.Process(killed), *psutil.Process(killed).children()]
    os.kill(killed, signal.SIGKILL)
    psutil.wait_procs(family, timeout=30)
    lock_file = instance / "postgres" / "data" / "postmaster.pid"
    _, *others = lock_file.read_text().splitlines(keepends=True)
    lock_file.write_text("".join([f"{os.getpid()}\n", *others]))
    server.stop()

    server.start()
    assert postmaster(instance) is not None
    server.stop()


def test_a_data_folder_that_was_left_half_made_is_made_anew(instance: Path) -> None:
    first = Postgres(instance)
    first.start()
    first.stop()
    cluster = (instance / "postgres").resolve()
    (cluster / "data").rename(cluster / "data.new")
    (cluster / "data.new" / "PG_VERSION").unlink()

    second = Postgres(instance)
    second.start()
    second.stop()


def test_an_instance_folder_that_was_deleted_begins_anew(
    instance: Path, connected: Callable[[str], Connection]
) -> None:
    first = Postgres(instance)
    connected(first.start()).execute(text("CREATE TABLE old ()"))
    old = (instance / "postgres").resolve()
    first.stop()
    shutil.rmtree(instance)

    second = Postgres(instance)
    assert connected(second.start()).scalar(text("SELECT to_regclass('old')")) is None
    second.stop()
    shutil.rmtree(old, ignore_errors=True)


@pytest.mark.parametrize("name", ["a b'c", "a,b", "ünïcode%20", "long" * 40])
def test_any_path_will_do(name: str, connected: Callable[[str], Connection], monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        monkeypatch.setattr(postgres, "STATE", Path(folder) / name)  # what root has in the place of the instance
        instance = Path(folder) / name / "instance"
        server = Postgres(instance)
        assert connected(server.start()).scalar(text("SELECT 1")) == 1
        socket_folder = (instance / "postgres" / "socket").resolve()
        server.stop()
        assert not (socket_folder / ".s.PGSQL.5432").exists()
        assert postmaster(instance) is None


def modes(*paths: Path) -> dict[Path, tuple[int, int, int]]:
    """Mode, owner and group of these and of all folders above them."""
    every = {each for path in paths for each in (path, *path.parents)}
    status = {each: each.stat() for each in every}
    return {each: (found.st_mode, found.st_uid, found.st_gid) for each, found in status.items()}


def test_no_folder_of_anybody_elses_changes(instance: Path) -> None:
    closed = instance / "closed"
    closed.mkdir(mode=0o700, parents=True)
    wheel = postgres.wheel()
    others = (TOP, closed, Path(sys.prefix), wheel, *(wheel / postgres.PROGRAMS / "bin").iterdir())
    before = modes(*others)

    server = Postgres(closed / "instance")
    server.start()
    server.stop()

    assert modes(*others) == before
    remove(closed / "instance")


def test_only_the_owner_may_come_near_the_data_and_the_socket(instance: Path) -> None:
    server = Postgres(instance)
    server.start()
    for folder in ("postgres", "postgres/data", "postgres/socket"):
        assert not stat.S_IMODE((instance / folder).stat().st_mode) & 0o067, folder
    server.stop()


def test_the_server_asks_the_kernel_who_connects(instance: Path, connected: Callable[[str], Connection]) -> None:
    server = Postgres(instance)
    url = server.start()
    connected(url)
    assert (instance / "postgres" / "pg_hba.conf").read_text() == "local all all peer map=owner\n"

    (instance / "postgres" / "pg_ident.conf").write_text('owner "somebody-else" postgres\n')
    connected(url).execute(text("SELECT pg_reload_conf()"))

    def connect_until_refused() -> None:
        for _ in range(100):  # the server reads its files again a moment later
            connected(url)

    with pytest.raises(OperationalError, match="Peer authentication failed"):
        connect_until_refused()
    server.stop()


def test_a_server_that_cannot_start_says_why(instance: Path) -> None:
    server = Postgres(instance)
    server.start()
    server.stop()
    (instance / "postgres" / "data" / "postgresql.conf").write_text("fsync = perhaps\n")
    with pytest.raises(PostgresFailed, match="fsync"):
        server.start()


def test_a_database_that_is_not_there_does_not_answer(settings: Settings, database: Database) -> None:
    nobody = Database(replace(settings, database_url="postgresql://127.0.0.1:1/nothing"))
    with pytest.raises(NoAnswer):
        nobody.ask(migrations.current)
    assert database.ask(migrations.current) is not None
    nobody.close()


def test_the_address_of_another_database_is_taken_as_it_is(settings: Settings) -> None:
    for scheme in ("postgresql", "postgresql+psycopg"):
        external = Database(
            replace(settings, database_url=f"{scheme}://ada:p%40ss@db.example:6432/widget?sslmode=require")
        )
        assert external.conninfo == "postgresql://ada:p%40ss@db.example:6432/widget?sslmode=require"
        external.close()


# When the embedded server dies ------------------------------------------------------------------------------------


@pytest.fixture
def own(settings: Settings, instance: Path) -> Iterator[Callable[[], Database]]:
    """`own()` is a way to the database of an instance of the test's own, as another process would have it."""
    databases: list[Database] = []

    def open_database() -> Database:
        databases.append(Database(replace(settings, instance=instance)))
        return databases[-1]

    yield open_database
    for database in databases:
        database.close()


def kill(instance: Path, *, all_of_it: bool = True) -> None:
    """Kill -9 for the server: its first process, or each."""
    head = postmaster(instance)
    assert head is not None
    family = [psutil.Process(head), *(psutil.Process(head).children() if all_of_it else ())]
    for process in family:
        process.kill()
    wait_until(lambda: not is_alive(head))


def starts(instance: Path) -> int:
    """How often the server was started, so far."""
    return (instance / "postgres" / "data" / "log").read_text().count("starting PostgreSQL")


def one(database: Database) -> int | None:
    """1, if a query gets through."""
    with database.engine.connect() as connection:
        found: int | None = connection.scalar(text("SELECT 1"))
        return found


@pytest.mark.parametrize("all_of_it", [True, False], ids=["all of it", "only its head"])
def test_a_server_that_was_killed_is_started_again_by_who_needs_it_and_has_kept_all(
    own: Callable[[], Database], instance: Path, all_of_it: bool
) -> None:
    alice, eve = own(), own()
    with alice.engine.begin() as connection:
        connection.execute(text("CREATE TABLE told AS SELECT 'Héllo' AS it"))
    assert one(eve) == 1
    kill(instance, all_of_it=all_of_it)

    began = time.monotonic()
    with eve.engine.connect() as connection:
        assert connection.scalar(text("SELECT it FROM told")) == "Héllo"
    assert one(alice) == 1
    assert time.monotonic() - began < 5
    assert starts(instance) == 2


def test_what_a_killed_server_left_running_is_ended(own: Callable[[], Database], instance: Path) -> None:
    database = own()
    with ThreadPoolExecutor(1) as pool, database.engine.connect() as connection:
        busy = connection.scalar(text("SELECT pg_backend_pid()"))
        question = pool.submit(connection.execute, text("SELECT count(*) FROM generate_series(1, 1e9)"))
        assert busy is not None
        wait_until(lambda: psutil.Process(busy).cpu_times().user > 0.1)
        kill(instance, all_of_it=False)
        assert one(database) == 1
        assert not is_alive(busy)
        with pytest.raises(OperationalError):
            question.result()


def test_of_all_who_find_it_dead_at_once_one_starts_it(own: Callable[[], Database], instance: Path) -> None:
    databases = [own() for _ in range(4)]
    assert [one(each) for each in databases] == [1] * 4
    kill(instance)
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(one, databases * 4)) == [1] * 16
    assert starts(instance) == 2


def test_a_connection_that_is_cut_by_the_death_ends_its_transaction_and_nothing_else(
    own: Callable[[], Database], instance: Path
) -> None:
    database = own()
    with database.session() as session:
        session.execute(text("CREATE TABLE half ()"))
        kill(instance)
        with pytest.raises(OperationalError):
            session.execute(text("SELECT 1"))
        session.rollback()
        assert session.scalar(text("SELECT to_regclass('half')")) is None


def test_a_server_that_repairs_its_data_is_waited_for(own: Callable[[], Database], instance: Path) -> None:
    database = own()
    with database.engine.connect() as connection:
        backend = connection.scalar(text("SELECT pg_backend_pid()"))
        assert backend is not None
        head = postmaster(instance)
        os.kill(backend, signal.SIGKILL)  # then the server ends all others, and begins anew
        with pytest.raises(OperationalError):
            connection.execute(text("SELECT 1"))
    assert one(database) == 1
    assert postmaster(instance) == head


def test_a_socket_that_moves_is_found_again(
    settings: Settings, instance: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "LONGEST_SOCKET_FOLDER", 1)
    alice, eve = (Database(replace(settings, instance=instance)) for _ in range(2))
    before = alice.conninfo
    assert (one(alice), one(eve)) == (1, 1)
    kill(instance)
    assert (one(alice), one(eve)) == (1, 1)
    assert alice.conninfo == eve.conninfo != before
    assert not Path(make_url(before).query["host"]).exists()  # type: ignore[arg-type]  # one host, not several
    for each in (alice, eve):
        each.close()


def test_who_connects_without_the_pool_has_it_revived(own: Callable[[], Database], instance: Path) -> None:
    database = own()
    assert database.revive()  # nothing has been started, so nothing has died
    assert postmaster(instance) is None
    assert one(database) == 1
    kill(instance)
    assert database.revive()
    psycopg.connect(database.conninfo).close()
    database.close()
    assert postmaster(instance) is None


def test_what_was_closed_is_not_started_again(own: Callable[[], Database], instance: Path) -> None:
    database = own()
    engine = database.engine
    engine.connect().close()
    database.close()
    with pytest.raises(OperationalError):
        engine.connect()
    assert postmaster(instance) is None

    alice, eve = own(), own()
    assert (one(alice), one(eve)) == (1, 1)
    kill(instance)
    alice.close()
    assert postmaster(instance) is None
    assert one(eve) == 1


def test_a_server_that_cannot_start_again_is_not_waited_for_until_it_can(
    own: Callable[[], Database], instance: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = own()
    assert one(database) == 1
    kill(instance)
    file = instance / "postgres" / "data" / "postgresql.conf"
    right = file.read_text()
    file.write_text("shared_buffers = perhaps\n")

    monkeypatch.setattr(postgres, "REST_SECONDS", 3)
    began = time.monotonic()
    for _ in range(20):
        with pytest.raises(DBAPIError):
            one(database)
    assert time.monotonic() - began < 3
    assert caplog.text.count("pg_ctl failed") == 1
    assert "shared_buffers" in caplog.text

    file.write_text(right)
    wait_until(database.revive)
    assert one(database) == 1


def test_a_data_folder_that_was_deleted_is_not_made_anew_under_its_users(
    own: Callable[[], Database], instance: Path
) -> None:
    database = own()
    assert one(database) == 1
    kill(instance)
    data = (instance / "postgres" / "data").resolve()
    data.rename(data.with_name("elsewhere"))
    with pytest.raises(OperationalError):
        one(database)
    assert not data.exists()


def test_an_external_server_is_its_operators_to_start(
    settings: Settings, own: Callable[[], Database], instance: Path
) -> None:
    operator = own()
    database = Database(replace(settings, database_url=operator.conninfo))
    assert one(database) == 1
    kill(instance)
    with pytest.raises(OperationalError):
        one(database)
    assert database.revive()
    assert postmaster(instance) is None
    assert operator.revive()
    assert one(database) == 1
    database.close()


@pytest.mark.parametrize("all_of_it", [True, False], ids=["all of it", "only its head"])
def test_the_web_and_the_worker_outlive_it(settings: Settings, instance: Path, all_of_it: bool) -> None:
    port = free_port()
    variables = environment(
        WIDGET_INSTANCE=str(instance), WIDGET_SECRET_KEY=settings.secret_key, WIDGET_ENCRYPTION_KEYS="",
        WIDGET_DATABASE_URL="",
    )  # fmt: skip

    def start(*command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            (sys.executable, "-m", "flask", *command), cwd=TOP, env=variables, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    site = f"http://127.0.0.1:{port}"

    def ask(_: object = None) -> tuple[int, float]:
        response = requests.get(f"{site}/c/summer", timeout=20)
        return response.status_code, response.elapsed.total_seconds()

    web = start("serve", "--port", str(port), "--workers", "2", "--migrate")
    try:
        wait_until(lambda: answers(f"{site}/readyz"))
        worker = start("worker")
        database = Database(replace(settings, instance=instance))
        wanted = factories.settings(openfield_url="https://acme.example", origins=[], campaign=[factories.campaign()])
        with database.session() as session:
            factories.apply(session, wanted, settings.private_hosts)
        database.close()
        assert ask()[0] == 200

        kill(instance, all_of_it=all_of_it)
        with ThreadPoolExecutor(16) as pool:
            told = list(pool.map(ask, range(64)))
        assert {status for status, _ in told} <= {200, 503}
        assert max(seconds for _, seconds in told) < 8
        wait_until(lambda: ask()[0] == 200)
        assert starts(instance) == 2
        for process in (web, worker):
            assert process.poll() is None
            process.terminate()
            process.wait(timeout=30)
        assert postmaster(instance) is None
    finally:
        for process in (web, worker):
            end(process)


# When connections are cut, or there are none ----------------------------------------------------------------------


class Scissors:
    """Cuts every connection of the widget's at the nth moment from `before(n)` on: a statement, a transaction's end."""

    MOMENTS = ("before_cursor_execute", "commit", "rollback")

    def __init__(self, database: Database) -> None:
        self._own = psycopg.connect(database.conninfo, autocommit=True)
        self._left = 0
        self._engine = database.engine
        for moment in self.MOMENTS:
            event.listen(self._engine, moment, self._count)

    def before(self, number: int) -> None:
        """Cuts once, just before the moment of this number from now on."""
        self._left = number

    @property
    def have_cut(self) -> bool:
        """Whether it came so far."""
        return self._left <= 0

    def cut(self) -> None:
        """All connections but the scissors' own, now."""
        self._own.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name = 'widget' AND pid <> pg_backend_pid()"
        )

    def _count(self, *_: object) -> None:
        self._left -= 1
        if self._left == 0:
            self.cut()

    @contextmanager
    def keeping_away(self) -> Iterator[None]:
        """Meanwhile, nobody whose connection was cut gets another one."""
        allow = "UPDATE pg_database SET datallowconn = %s WHERE datname = current_database()"
        self._own.execute(allow, [False])
        try:
            yield
        finally:
            self._own.execute(allow, [True])

    def put_away(self) -> None:
        """For the end of a test."""
        for moment in self.MOMENTS:
            event.remove(self._engine, moment, self._count)
        self._own.close()


@pytest.fixture
def scissors(database: Database) -> Iterator[Scissors]:
    """For the connections of the site and of the test."""
    scissors = Scissors(database)
    yield scissors
    scissors.put_away()


NEWCOMER = {
    "password": "pâss wörd", "civility": "MME", "firstname": "Dora", "lastname": "Dubois", "country": "BEL",
}  # fmt: skip


def test_connections_that_were_cut_while_they_were_idle_are_not_missed(
    http: Http, campaign: Callable[..., str], scissors: Scissors
) -> None:
    address = f"/c/{campaign()}"
    assert http.get(address).status_code == 200
    scissors.cut()
    assert http.get(address).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "fields"),
    [
        ("GET", "", {}),
        ("POST", "/login", {"username": "alice", "password": "alice-likes-waffles"}),
        ("POST", "/signup", {}),
    ],
)
def test_a_connection_may_be_cut_at_any_moment(
    http: Http,
    campaign: Callable[..., str],
    database: Database,
    scissors: Scissors,
    session: Session,
    method: str,
    path: str,
    fields: dict[str, str],
) -> None:
    address = f"/c/{campaign()}{path}"
    session.close()
    for number in range(1, 50):
        scissors.before(number)
        response = http.request(method, address, data=fields)
        if not scissors.have_cut:
            break
        assert response.status_code in (200, 503)
        if response.status_code == 503:
            assert "try again" in response.text.lower()
            assert response.headers["Retry-After"]
    assert number > 3
    assert response.status_code == 200
    wait_until(lambda: database.engine.pool.status().endswith("Current Checked out connections: 0"))


def test_a_connection_may_be_cut_at_any_moment_of_a_submission_and_sending_it_again_ends_in_one_participation(
    http: Http, campaign: Callable[..., str], sandbox: Sandbox, session: Session, scissors: Scissors
) -> None:
    slug = campaign()
    session.close()
    for number in range(1, 100):
        form = visit(http, f"/c/{slug}").send("signup")
        fields = {**form.fields("submit"), **NEWCOMER, "email": f"{number}@example.org", "username": f"dora{number}"}
        scissors.before(number)
        response = http.post(f"/c/{slug}/submit", data=fields)
        if not scissors.have_cut:
            break
        scissors.before(1000)
        assert response.status_code in (200, 503)
        again = http.post(f"/c/{slug}/submit", data=fields)
        assert again.status_code == 200
        assert 'data-step="thanks"' in again.text
    scissors.before(1000)
    assert number > 20
    assert response.status_code == 200
    assert session.scalar(select(func.count()).select_from(Participation)) == number


def test_a_database_that_stays_away_is_told_in_the_campaigns_own_page(
    http: Http, campaign: Callable[..., str], scissors: Scissors, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "PATIENCE", 0.1)
    slug = campaign(language="fr")
    session.close()
    form = visit(http, f"/c/{slug}").send("login", username="alice", password="alice-likes-waffles")
    scissors.before(4)
    with scissors.keeping_away():
        screen = form.send("submit")
    assert scissors.have_cut
    assert screen.status == 503
    assert screen.root.get("lang") == "fr"
    assert any(link.get("href") == f"/c/{slug}" for link in screen.links().values())


def test_a_pool_without_room_is_told_in_time_and_hurts_nobody_else(
    http: Http, campaign: Callable[..., str], database: Database, settings: Settings, session: Session
) -> None:
    address = f"/c/{campaign()}"
    session.close()
    other = Database(settings)
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(database.engine.connect())
        began = time.monotonic()
        response = http.get(address)
        assert response.status_code == 503
        assert time.monotonic() - began < db.PATIENCE + 2
        assert one(other) == 1
    assert http.get(address).status_code == 200
    other.close()


# What a transaction may do to others ------------------------------------------------------------------------------


def test_what_is_committed_is_on_the_disk_whatever_the_settings_say(
    instance: Path, own: Callable[[], Database]
) -> None:
    one(own())
    kill(instance)
    with (instance / "postgres" / "data" / "postgresql.conf").open("a") as settings:
        settings.write("fsync = off\nsynchronous_commit = off\nfull_page_writes = off\n")
    with own().engine.connect() as connection:
        for name in ("fsync", "synchronous_commit", "full_page_writes", "data_checksums"):
            assert connection.scalar(text(f"SHOW {name}")) == "on", name


def test_only_what_somebody_may_wait_for_is_limited(database: Database) -> None:
    with database.session() as session:
        for name, limit in db.LIMITS.items():
            assert session.scalar(text(f"SHOW {name}")) == limit
        unhurried(session)
        for name in db.LIMITS:
            assert session.scalar(text(f"SHOW {name}")) == "0"
        session.commit()
        for name, limit in db.LIMITS.items():
            assert session.scalar(text(f"SHOW {name}")) == limit
    with psycopg.connect(database.conninfo) as queue:
        for name in db.LIMITS:
            assert queue.execute(f"SHOW {name}").fetchone() == ("0",)


@pytest.mark.parametrize(
    ("limit", "statement"),
    [
        ("statement_timeout", "SELECT pg_sleep(10)"),
        ("lock_timeout", "SELECT pg_advisory_xact_lock(7)"),
        ("idle_in_transaction_session_timeout", "SELECT 1"),
    ],
)
def test_a_transaction_that_is_stuck_is_ended(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch, limit: str, statement: str
) -> None:
    monkeypatch.setattr(db, "LIMITS", {limit: "100ms"})
    hurried = Database(replace(settings, database_url=database.conninfo))
    with database.engine.connect() as other, hurried.session() as stuck:
        other.execute(text("SELECT pg_advisory_xact_lock(7)"))
        pid = stuck.scalar(text("SELECT pg_backend_pid()"))
        if limit.startswith("idle"):
            assert pid is not None
            wait_until(lambda: not is_alive(pid))
        with pytest.raises((OperationalError, InternalError)):
            stuck.execute(text(statement))
    assert one(hurried) == 1
    hurried.close()


# Migrations -------------------------------------------------------------------------------------------------------


@pytest.fixture
def bare(database: Database, settings: Settings, connected: Callable[[str], Connection]) -> Iterator[Database]:
    """A second database on the same server, without a table."""
    connection = connected(database.conninfo)
    connection.execute(text("CREATE DATABASE bare"))
    bare = Database(replace(settings, database_url=database.conninfo.replace("/postgres?", "/bare?")))
    yield bare
    bare.close()
    connection.execute(text("DROP DATABASE bare"))


CATALOGUE = (
    "SELECT table_name, column_name, data_type, udt_name, character_maximum_length, is_nullable,"
    " column_default FROM information_schema.columns WHERE table_schema = 'public'",
    "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
    " WHERE connamespace = 'public'::regnamespace",
    "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
)


def catalogue(engine: Engine) -> set[tuple[object, ...]]:
    """Every column, constraint and index of our tables, to the letter; not the order of the columns."""
    theirs = ("procrastinate_", "alembic_version")
    with engine.connect() as connection:
        rows = {tuple(row) for query in CATALOGUE for row in connection.execute(text(query))}
    return {row for row in rows if not str(row[0]).startswith(theirs)}


def test_the_revisions_make_exactly_the_tables_of_the_models(database: Database, bare: Database) -> None:
    Base.metadata.create_all(bare.engine)
    assert len(catalogue(bare.engine)) > 100
    assert catalogue(database.engine) == catalogue(bare.engine)
    migrations.check(database)


OLD_DELIVERIES = """
    INSERT INTO integration (id, name, enabled, openfield_url, id_tenant, id_application, forgot_password_url,
                             operations, parameters) VALUES (1, 'acme', true, '', '', '', '', '{}', '{}');
    INSERT INTO website (id, slug, name, origins, language) VALUES (1, 'news', '', '{}', 'en');
    INSERT INTO master_form (id, slug, name, fields, optins, legal) VALUES (1, 'contest', '', '[]', '[]', '{}');
    INSERT INTO campaign (id, slug, name, website_id, master_form_id, language, texts)
        VALUES (1, 'summer', '', 1, 1, 'en', '{}');
    INSERT INTO participation (id, journey_id, campaign_id, entrance, language, taken_at, sealed_profile)
        SELECT gen_random_uuid(), gen_random_uuid(), 1, 'login', 'en', now() - day * interval '1 day', ''
        FROM generate_series(1, 3) AS day;
    INSERT INTO delivery (id, participation_id, integration_id, operation, person_hash, state, attempts, created_at,
                          due_at, leased_until, sealed_payload)
        SELECT gen_random_uuid(), id, 1, 'update', 'alice', 'sending', 1, taken_at, taken_at,
               taken_at + interval '2 minutes', ''
        FROM participation ORDER BY random();
"""


def test_deliveries_of_the_version_before_keep_their_order_and_their_leases(bare: Database) -> None:
    migrations.upgrade(bare, "0001")
    with bare.engine.begin() as connection:
        connection.execute(text(OLD_DELIVERIES))
    migrations.upgrade(bare)
    with bare.session() as session:
        found = session.scalars(select(Delivery).order_by(Delivery.created_at)).all()
    assert [each.number for each in found] == [1, 2, 3]
    assert all(each.due_at - each.created_at == timedelta(minutes=2) for each in found)
    assert all(each.give_up_at - each.created_at == timedelta(days=7) for each in found)
    assert [each.person_hashes for each in found] == [[b"alice"]] * 3
    with bare.engine.begin() as connection:
        assert connection.scalar(text("SELECT nextval(pg_get_serial_sequence('delivery', 'number'))")) == 4


def test_a_model_without_a_revision_is_noticed(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE campaign DROP COLUMN texts"))
    with pytest.raises(migrations.NotUpToDate, match="texts"):
        migrations.check(database)
    with database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE campaign ADD COLUMN texts jsonb NOT NULL"))


def test_processes_that_migrate_at_once_make_the_tables_once(bare: Database) -> None:
    with pytest.raises(migrations.NotUpToDate, match="flask db upgrade"):
        migrations.require_newest(bare)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(migrations.upgrade, [bare] * 3))
    migrations.require_newest(bare)


def test_who_migrates_waits_for_others_as_long_as_it_takes(
    bare: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "LIMITS", {"statement_timeout": "1ms", "lock_timeout": "1ms"})
    hurried = Database(replace(settings, database_url=bare.conninfo))
    with ThreadPoolExecutor(1) as pool:
        with bare.engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": migrations.LOCK})
            upgrade = pool.submit(migrations.upgrade, hurried)
            waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            wait_until(lambda: connection.scalar(waiting))
            wait_until(lambda: connection.scalar(text("SELECT clock_timestamp() - now() > '100 ms'")))
        upgrade.result()
    migrations.require_newest(bare)
    hurried.close()


def test_the_queue_has_its_tables(database: Database) -> None:
    with database.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM procrastinate_jobs")) == 0
