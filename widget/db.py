"""The database: its address and its connections, and how they come back when it goes away.

* A connection that was cut while it was idle is replaced before it is used; one that is cut in use ends its request.
* When the embedded server has died, whoever needs a connection next starts it again and waits for it, PATIENCE at
  most. An external server is its operator's: connections to it come back when it does.
* No transaction can hold a process up for good: see LIMITS.

Not here: the tables (`models`), how they come to be (`migrations`) and how the embedded server is run (`postgres`).
"""

from __future__ import annotations

import atexit
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from threading import Event, Lock, RLock, Thread
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Connection, Dialect, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from widget.config import Settings
from widget.postgres import Postgres, PostgresFailed

PATIENCE = 5
"""Seconds that a request waits for a place in the pool, for a connection, and for a server that is starting again:
the browser waits 20 altogether."""

LIMITS = {
    "statement_timeout": "10s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "30s",
}
"""How long the server lets a statement run, wait for a lock, and a transaction stand still. Nothing that somebody waits
for takes nearly as long; what may is `unhurried`. The queue's own connections have no such limits."""

TCP = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 2, "tcp_user_timeout": 15_000}
"""When a server that fell silent is taken for dead (libpq; seconds, the last one milliseconds)."""

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


class NoAnswer(Exception):
    """The database did not answer, or not in time."""


class Database:
    """One process's way to PostgreSQL. Nothing is started or connected before it is first used.

    After `close`, the next use starts it again.
    """

    def __init__(self, settings: Settings) -> None:
        self._external = settings.database_url
        self._embedded = Postgres(settings.instance)
        self._lock = RLock()
        self._started = False
        self._engine: Engine | None = None
        self._asking = Lock()
        self._asked: dict[Callable[[Database], Any], Future[Any]] = {}

    @property
    def conninfo(self) -> str:
        """The address as libpq understands it, password included. The embedded server's may change when it `revive`s.

        Raises:
            PostgresFailed: the embedded server doesn't start.
        """
        with self._lock:
            if self._external is not None:
                return make_url(self._external).set(drivername="postgresql").render_as_string(hide_password=False)
            if not self._started:
                atexit.register(self.close)
                self._embedded.start()
                self._started = True
            return self._embedded.url

    @property
    def engine(self) -> Engine:
        """The pool: up to 20 connections, in UTC; a request waits at most PATIENCE for one.

        Its errors show no parameters: those are personal data.

        Raises:
            PostgresFailed: the embedded server doesn't start.
        """
        with self._lock:
            if self._engine is None:
                settings = {"timezone": "UTC", **LIMITS}
                options = " ".join(f"-c {name}={value}" for name, value in settings.items())
                self._engine = create_engine(
                    make_url(self.conninfo).set(drivername="postgresql+psycopg"),
                    hide_parameters=True, pool_pre_ping=True, pool_size=10, max_overflow=10, pool_timeout=PATIENCE,
                    connect_args={"connect_timeout": PATIENCE, "options": options, "application_name": "widget", **TCP},
                )  # fmt: skip
                if self._external is None:
                    event.listen(self._engine, "do_connect", self._connect)
            return self._engine

    def session(self) -> Session:
        """A new session; what it read stays readable after a commit."""
        return _Session(self.engine, expire_on_commit=False)

    def ask(self, question: Callable[[Database], _T]) -> _T:
        """What the question returns or raises, for who must not hang whatever the database does.

        However many ask the same at once, it is put once: a database that is silent is not given all connections.

        Raises:
            NoAnswer: after PATIENCE at most.
        """
        with self._asking:
            answer = self._asked.get(question)
            if answer is None or answer.done():
                answer = Future()
                Thread(target=self._put, args=(question, answer), daemon=True).start()
                self._asked[question] = answer
        try:
            found: _T = answer.result(PATIENCE)
        except (TimeoutError, SQLAlchemyError, PostgresFailed) as error:
            raise NoAnswer from error
        return found

    def revive(self) -> bool:
        """Makes sure that the embedded server runs: it is started again if it died, unless `close` has been called.

        For who connects by `conninfo`, and cannot: afterwards, ask for that again. Waits PATIENCE at most.

        Returns:
            Whether it is worth while to connect now; always with an external server. Why not is in the log.
        """
        return self._external is not None or not self._started or self._revived(PATIENCE)

    def close(self) -> None:
        """Gives the connections back; the last process that uses the embedded server stops it."""
        atexit.unregister(self.close)
        with self._lock:
            if self._engine is not None:
                self._engine.dispose()
            self._engine, self._started = None, False
            try:
                self._embedded.stop()
            except PostgresFailed as error:
                logger.error("%s", error)

    def _put(self, question: Callable[[Database], Any], answer: Future[Any]) -> None:
        try:
            answer.set_result(question(self))
        except Exception as error:  # noqa: BLE001 - a thread has nobody to raise it to; who asked is told
            answer.set_exception(error)

    def _connect(self, dialect: Dialect, _record: Any, arguments: Any, parameters: dict[str, Any]) -> Any:
        """Connects to the embedded server, and starts it again if it died. For SQLAlchemy's `do_connect`."""
        pause, until = Event(), time.monotonic() + PATIENCE
        while True:
            try:
                return dialect.connect(*arguments, **{**parameters, "host": self._embedded.host})
            except psycopg.OperationalError:
                left = until - time.monotonic()
                if left <= 0 or not self._revived(left):
                    raise
            pause.wait(0.1)  # it is there, but repairs its data, or has no place left

    def _revived(self, seconds: float) -> bool:
        try:
            self._embedded.revive(seconds)
        except PostgresFailed:
            return False
        return True


class _Session(Session):
    """Ends quietly though its connection was cut: what it has not committed is gone, as it should be."""

    def close(self) -> None:
        try:
            super().close()
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            self.invalidate()


def unhurried(connection: Connection | Session) -> None:
    """Lifts the LIMITS for the rest of the transaction: for what nobody waits for."""
    connection.execute(text("SELECT " + ", ".join(f"set_config('{name}', '0', true)" for name in LIMITS)))
