"""How the tables come to be as `models` says: Alembic's revisions, forward only, one file each in `versions`.

Not here: what the tables hold (`models`). The queue's tables are Procrastinate's own; a revision lays them too.
"""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text

from widget.db import Database, unhurried

LOCK = 0x0F1E1D_DB
"""The advisory lock that one migrating process holds; any number that nobody else takes."""


class NotUpToDate(Exception):
    """The tables are not as this version needs them; the message says what to do."""


def upgrade(database: Database, revision: str = "head") -> None:
    """Brings the tables up to a revision, all of it or nothing; those of a newer version are left alone.

    When several processes do it at once, one does the work and the others wait for it.
    """
    with database.engine.begin() as connection:
        unhurried(connection)
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        if _is_older(MigrationContext.configure(connection).get_current_revision()):
            command.upgrade(_config(connection), revision)


def current(database: Database) -> str | None:
    """The revision that the tables are at; None before the first."""
    with database.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def require_newest(database: Database) -> None:
    """Cheap enough for every start, and to ask every few seconds.

    A newer version's tables will do: every revision leaves the version before able to work, so that an upgrade can
    migrate while that still runs.

    Raises:
        NotUpToDate: the tables are at an older revision than this version's newest.
    """
    found = current(database)
    if _is_older(found):
        raise NotUpToDate(f"the tables are at revision {found}, not {_newest()}: run `flask db upgrade`")


def check(database: Database) -> None:
    """Compares the tables with `models`.

    Raises:
        NotUpToDate: they are at an older revision, or `models` changed without one.
    """
    require_newest(database)
    with database.engine.connect() as connection:
        try:
            command.check(_config(connection))
        except CommandError as error:
            raise NotUpToDate(f"models and revisions differ: {error}") from None


def write_revision(database: Database, message: str) -> None:
    """Drafts the next revision from what `models` has and the tables have not: to be read and corrected."""
    with database.engine.connect() as connection:
        command.revision(_config(connection), message, autogenerate=True, rev_id=_next_id())


def _next_id() -> str:
    return f"{int(_newest()) + 1:04d}"


def _is_older(revision: str | None) -> bool:
    """Than this version needs. Revisions are numbers of four digits."""
    return (revision or "") < _newest()


@cache
def _newest() -> str:
    return ScriptDirectory.from_config(_config()).get_current_head() or "0000"


def _config(connection: Connection | None = None) -> Config:
    config = Config(stdout=io.StringIO(), attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    return config
