"""The database: its address and its connections.

Not here: the tables (`models`), how they come to be (`migrations`) and how the embedded server is run (`postgres`).
"""

from __future__ import annotations

import atexit
import logging
from threading import RLock

from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from widget.config import Settings
from widget.postgres import Postgres, PostgresFailed

logger = logging.getLogger(__name__)


class Database:
    """One process's way to PostgreSQL. Nothing is started or connected before it is first used.

    After `close`, the next use starts it again.
    """

    def __init__(self, settings: Settings) -> None:
        self._external = settings.database_url
        self._embedded = Postgres(settings.instance)
        self._lock = RLock()
        self._conninfo: str | None = None
        self._engine: Engine | None = None

    @property
    def conninfo(self) -> str:
        """The address as libpq understands it, password included.

        Raises:
            PostgresFailed: the embedded server doesn't start.
        """
        with self._lock:
            if self._conninfo is None:
                if self._external is None:
                    atexit.register(self.close)
                    self._conninfo = self._embedded.start()
                else:
                    url = make_url(self._external).set(drivername="postgresql")
                    self._conninfo = url.render_as_string(hide_password=False)
            return self._conninfo

    @property
    def engine(self) -> Engine:
        """The pool: up to 20 connections, in UTC; a request waits at most five seconds for one.

        Its errors show no parameters: those are personal data.

        Raises:
            PostgresFailed: the embedded server doesn't start.
        """
        with self._lock:
            if self._engine is None:
                self._engine = create_engine(
                    make_url(self.conninfo).set(drivername="postgresql+psycopg"),
                    hide_parameters=True, pool_pre_ping=True, pool_size=10, max_overflow=10, pool_timeout=5,
                    connect_args={"connect_timeout": 5, "options": "-c timezone=UTC", "application_name": "widget"},
                )  # fmt: skip
            return self._engine

    def session(self) -> Session:
        """A new session; what it read stays readable after a commit."""
        return Session(self.engine, expire_on_commit=False)

    def answers(self) -> bool:
        """Whether a query gets through now; False takes a few seconds at most."""
        try:
            with self.engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except (SQLAlchemyError, PostgresFailed):
            return False
        return True

    def close(self) -> None:
        """Gives the connections back; the last process that uses the embedded server stops it."""
        atexit.unregister(self.close)
        with self._lock:
            if self._engine is not None:
                self._engine.dispose()
            self._engine = self._conninfo = None
            try:
                self._embedded.stop()
            except PostgresFailed as error:
                logger.error("%s", error)
