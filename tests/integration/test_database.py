"""The embedded PostgreSQL among its processes, and the migrations."""

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
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO

import psutil
import pytest
from sqlalchemy import Connection, Engine, create_engine, make_url, text
from sqlalchemy.exc import OperationalError

from tests.processes import postmaster, remove
from widget import migrations, postgres
from widget.config import Settings
from widget.db import Database, NoAnswer
from widget.models import Base
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
        assert connection.scalar(text("SHOW fsync")) == "on"
        assert connection.scalar(text("SHOW full_page_writes")) == "on"
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
    "SELECT table_name, column_name, ordinal_position, data_type, udt_name, character_maximum_length, is_nullable,"
    " column_default FROM information_schema.columns WHERE table_schema = 'public'",
    "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
    " WHERE connamespace = 'public'::regnamespace",
    "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
)


def catalogue(engine: Engine) -> set[tuple[object, ...]]:
    """Every column, constraint and index of our tables, to the letter."""
    theirs = ("procrastinate_", "alembic_version")
    with engine.connect() as connection:
        rows = {tuple(row) for query in CATALOGUE for row in connection.execute(text(query))}
    return {row for row in rows if not str(row[0]).startswith(theirs)}


def test_the_revisions_make_exactly_the_tables_of_the_models(database: Database, bare: Database) -> None:
    Base.metadata.create_all(bare.engine)
    assert len(catalogue(bare.engine)) > 100
    assert catalogue(database.engine) == catalogue(bare.engine)
    migrations.check(database)


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


def test_the_queue_has_its_tables(database: Database) -> None:
    with database.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM procrastinate_jobs")) == 0
