"""The product as an operator runs it, to be killed: sandbox, web, workers and PostgreSQL, each a real process.

Everything is on this machine, in a folder of the stage's own, on free ports. The stage is the operator's service
manager too: what was killed is started again with the same port and the same data. It leaves nothing behind.

Not here: who takes part (`people`), and what has to be true in the end (`history`).
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_urlsafe
from types import TracebackType
from typing import Any, Self

import psutil
import psycopg
import requests
import tomlkit
from cryptography.fernet import Fernet

from tests import factories
from tests.conftest import Sandbox
from tests.processes import free_port, postmaster, remove, wait_until
from widget.config import environment
from widget.postgres import Postgres

TOP = Path(__file__).parents[2]

START_SECONDS = 60.0
STOP_SECONDS = 60.0
"""How long a part may take to start, and to end by itself: more than a request and a delivery may."""

FIELDS: list[factories.Entry] = [
    {"variable": "email", "mandatory": True},
    {"variable": "firstname", "mandatory": True},
    {"variable": "lastname", "mandatory": True},
    {"variable": "zipcode"},
    {"variable": "locality"},
    {"variable": "country"},
]
"""What the campaign asks; whoever comes back may change all of it."""

CAMPAIGN = "summer"


class Part:
    """One process, `flask <command>`, with whatever it starts: a process group of its own.

    Args:
        log: where what it says is collected, over its restarts.
        environment: read anew at each start.
    """

    def __init__(self, log: Path, environment: Mapping[str, str], *command: str) -> None:
        self.name = log.stem
        self.log = log
        self._environment = environment
        self._command = (sys.executable, "-m", "flask", "--app", "wsgi", *command)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether its main process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts it, unless it runs; what is left of an earlier one is killed before."""
        if self.is_running:
            return
        self.kill()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=TOP, env=environment(**self._environment), start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def kill(self) -> None:
        """Kill -9, all of it at once."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def kill_child(self, which: int) -> None:
        """Kill -9 for one process that the main process started, if there is one."""
        if children := self.children():
            children[which % len(children)].kill()

    def stop(self) -> int:
        """SIGTERM, and waits until it has ended. Gives its exit code.

        Raises:
            subprocess.TimeoutExpired: it does not end.
        """
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.terminate()
        return self._process.wait(STOP_SECONDS)

    def pause(self) -> None:
        """SIGSTOP, all of it: it is there and does nothing."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    def children(self) -> list[psutil.Process]:
        """What the main process started."""
        if self._process is None:
            return []
        try:
            return psutil.Process(self._process.pid).children()
        except psutil.NoSuchProcess:
            return []

    def said(self) -> str:
        """What it has said so far."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""


class Openfield(Sandbox):
    """The stage's sandbox, as seen by a test; `changes` outlive its process."""

    def changes(self) -> list[dict[str, Any]]:
        """Each Create and Update that took effect, in order: {"operation": …, "record": …}."""
        changes: list[dict[str, Any]] = self._ask("GET", "changes")
        return changes

    def faults(self) -> list[dict[str, Any]]:
        """Those that no call has met yet, or that stay."""
        faults: list[dict[str, Any]] = self._ask("GET", "faults")
        return faults


class Stage:
    """Everything, running, with one campaign. Leaving the context ends it and deletes its folder.

    Args:
        embedded: PostgreSQL is the product's, which starts it again when it has died; else it is a server of its own to
            the product, and only the stage starts it.
        ignore_idempotency: Openfield takes no notice of Idempotency-Key.
        workers: how many `flask worker` there are.
        keep: leave the folder, with the database and what the parts said.
    """

    def __init__(
        self, *, embedded: bool = False, ignore_idempotency: bool = False, workers: int = 1, keep: bool = False
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="widget-stage-"))
        self._keep = keep
        self._embedded = embedded
        self._instance = self.folder / "instance"
        self._postgres = Postgres(self._instance)
        self._sandbox_port, web_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{web_port}"
        self.environment = {
            "PYTHONUNBUFFERED": "1",
            "WIDGET_DATABASE_URL": "",
            "WIDGET_INSTANCE": str(self._instance),
            "WIDGET_PUBLIC_URL": self.url,
            "WIDGET_OPENFIELD_PRIVATE_HOSTS": f"127.0.0.1:{self._sandbox_port}",
            "WIDGET_SECRET_KEY": token_urlsafe(48),
            "WIDGET_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
            "WIDGET_PROXY_HOPS": "1",
        }
        ignoring = ("--ignore-idempotency",) if ignore_idempotency else ()
        self.sandbox = self._part(
            "sandbox", "--port", str(self._sandbox_port), "--file", str(self.folder / "openfield.jsonl"), *ignoring
        )
        self.web = self._part("serve", "--workers", "2", "--port", str(web_port))
        self.workers = [self._part("worker", number=number) for number in range(1, workers + 1)]
        self.openfield = Openfield(f"http://127.0.0.1:{self._sandbox_port}")

    def _part(self, command: str, *options: str, number: int = 1) -> Part:
        return Part(self.folder / f"{command}-{number}.log", self.environment, command, *options)

    @property
    def parts(self) -> list[Part]:
        """All but PostgreSQL."""
        return [self.sandbox, self.web, *self.workers]

    # From beginning to end

    def __enter__(self) -> Self:
        try:
            self.conninfo = self._postgres.start()
            if not self._embedded:
                self.environment["WIDGET_DATABASE_URL"] = self.conninfo
            self.sandbox.start()
            self._run("db", "upgrade")
            self.set_integration()
            self.mend()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all of it, whatever state it is in."""
        for part in reversed(self.parts):
            part.kill()
        self.openfield.close()
        self.kill_postgres()
        self._postgres.stop()
        if not self._keep:
            remove(self._instance)
            shutil.rmtree(self.folder, ignore_errors=True)

    def mend(self) -> None:
        """Starts what does not run, and waits until all of it is ready, as a service manager does.

        Raises:
            AssertionError: something does not get ready.
        """
        self.start_postgres()
        for part in self.parts:
            part.start()
        wait_until(lambda: self._is_ready(self.sandbox, self.openfield.url), START_SECONDS)
        wait_until(lambda: self._is_ready(self.web, f"{self.url}/readyz"), START_SECONDS)

    def _is_ready(self, part: Part, url: str) -> bool:
        part.start()
        try:
            return requests.get(url, timeout=5).ok
        except requests.RequestException:
            return False

    # PostgreSQL

    def kill_postgres(self) -> None:
        """Kill -9 for the postmaster and all of its processes."""
        number = postmaster(self._instance)
        if number is None:
            return
        with suppress(psutil.NoSuchProcess):
            server = psutil.Process(number)
            family = [server, *server.children(recursive=True)]
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(family, timeout=STOP_SECONDS)

    def start_postgres(self) -> None:
        """Starts it, unless it runs."""
        if postmaster(self._instance) is None:
            self._postgres.stop()
            self._postgres.start()

    @contextmanager
    def database(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """A connection of the test's own; each statement commits by itself, unless there is a `transaction()`."""
        with psycopg.connect(self.conninfo, autocommit=True, application_name="stage") as connection:
            yield connection

    def query(self, statement: Any) -> list[tuple[Any, ...]]:
        """What a query gives, over a connection of its own."""
        with self.database() as connection:
            return connection.execute(statement).fetchall()

    def change(self, statement: Any) -> None:
        """Carries out a statement that gives nothing."""
        with self.database() as connection:
            connection.execute(statement)

    @contextmanager
    def deliveries_locked(self) -> Iterator[None]:
        """Nobody writes to the outbox meanwhile: who wants to, waits."""
        with self.database() as connection, connection.transaction():
            connection.execute("LOCK TABLE delivery IN SHARE ROW EXCLUSIVE MODE")
            yield

    def let_time_pass(self) -> None:
        """Leases, pauses and rests end now, jobs are due, and who has not answered a post is taken for dead."""
        self.change("UPDATE delivery SET due_at = now() WHERE state IN ('waiting', 'sending')")
        self.change("UPDATE integration SET rests_until = now() WHERE rests_until > now()")
        self.change("UPDATE procrastinate_jobs SET scheduled_at = now() WHERE status = 'todo'")
        self.change("UPDATE visit SET used_at = used_at - interval '1 minute'")

    def waits_for_a_lock(self) -> bool:
        """Whether a process of the product waits for somebody else's lock."""
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name <> 'stage'"
        return bool(self.query(waiting))

    def deliveries(self) -> dict[str, int]:
        """How many deliveries are in each state; states that none is in are left out."""
        return dict(self.query("SELECT state, count(*) FROM delivery GROUP BY state"))

    def is_open(self) -> bool:
        """Whether a delivery is still on its way."""
        return bool(self.query("SELECT 1 FROM delivery WHERE state NOT IN ('delivered', 'buried') LIMIT 1"))

    # Settings

    def set_integration(self, **keys: object) -> None:
        """Applies the stage's settings with these keys of the integration, by `flask config apply`."""
        wanted = factories.settings(
            openfield_url=self.openfield.url,
            origins=[],
            integration=[factories.integration(self.openfield.url) | keys],
            master_form=[{"slug": "contest", "name": "Contest", "fields": FIELDS}],
            campaign=[factories.campaign(CAMPAIGN)],
        )
        file = self.folder / "settings.toml"
        file.write_text(tomlkit.dumps(wanted), encoding="utf-8")
        self._run("config", "apply", str(file))

    def rotate_keys(self) -> None:
        """Puts a new encryption key in front, for every part that is started from now on."""
        keys = self.environment["WIDGET_ENCRYPTION_KEYS"]
        self.environment["WIDGET_ENCRYPTION_KEYS"] = f"{Fernet.generate_key().decode()},{keys}"

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            (sys.executable, "-m", "flask", "--app", "wsgi", *command), cwd=TOP, env=environment(**self.environment),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout

    # Openfield

    @contextmanager
    def openfield_deaf(self) -> Iterator[None]:
        """There is no Openfield, and whoever connects to where it was hears nothing: not even that nobody is there."""
        self.sandbox.kill()
        with socket.create_server(("127.0.0.1", self._sandbox_port), backlog=0) as full:
            calls = [socket.socket() for _ in range(4)]
            for call in calls:
                call.setblocking(False)
                call.connect_ex(full.getsockname())
            try:
                yield
            finally:
                for call in calls:
                    call.close()
        self.mend()
