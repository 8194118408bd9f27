"""`flask serve | worker | sandbox | demo | db | config | deliveries`: the product's commands.

Not here: what they do. Each command reads its options, calls one verb, and says what came of it; a command's imports
are its own, so that none waits for another's.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click
from flask import Flask, current_app
from flask.cli import AppGroup, with_appcontext
from sqlalchemy.exc import OperationalError

from widget import logs, metrics, migrations
from widget.circuit import Circuit
from widget.config import BadEnvironment
from widget.models import DeliveryState, Operation
from widget.postgres import PostgresFailed

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from widget.wiring import Wiring

CONNECTIONS = 1024
"""How many connections a web worker holds; the others wait in the kernel. granian counts idle ones too: few would let
browsers that keep theirs open lock everybody out."""

LOG = click.option(
    "--log", "style", type=click.Choice(("json", "words")), default="json", show_default=True, help="How to log."
)

SETTINGS = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)


def init_app(app: Flask) -> None:
    """Adds the commands."""
    for command in (serve, worker, sandbox, demo, db, config, deliveries):
        app.cli.add_command(command)


@contextmanager
def _plainly() -> Iterator[Wiring]:
    """The app's wiring, closed in the end; what an operator can mend is told without a traceback."""
    wiring: Wiring = current_app.extensions["widget"]
    try:
        yield wiring
    except (PostgresFailed, migrations.NotUpToDate, BadEnvironment) as error:
        raise click.ClickException(str(error)) from error
    except OperationalError as error:
        raise click.ClickException(f"the database cannot be reached: {str(error.orig).strip()}") from error
    finally:
        wiring.close()


# Processes --------------------------------------------------------------------------------------------------------


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
@click.option(
    "--workers", default=lambda: min(os.cpu_count() or 1, 8), show_default="one a core, up to 8", type=click.IntRange(1)
)
@click.option(
    "--threads", default=16, show_default=True, type=click.IntRange(1, 20), help="Requests at once, per worker."
)
@click.option("--migrate", is_flag=True, help="Bring the tables up to date first.")
@LOG
@with_appcontext
def serve(host: str, port: int, workers: int, threads: int, migrate: bool, style: logs.Style) -> None:
    """Serve the widget until SIGTERM or SIGINT.

    On the internet, a proxy that reads requests whole before it passes them on (nginx, Caddy) belongs in front: a
    request that comes in slowly holds a thread.
    """
    from granian.constants import HTTPModes, Interfaces
    from granian.server import Server

    with _plainly() as wiring:
        if migrate:
            migrations.upgrade(wiring.database)
        migrations.require_newest(wiring.database)
        _require_free(host, port)
        _be_seen(wiring, style)
        wiring.database.engine.dispose()  # the workers are forks: connections are not for sharing
        server = Server(
            "wsgi:app", host, port, interface=Interfaces.WSGI, http=HTTPModes.http1, websockets=False, workers=workers,
            blocking_threads=threads, backpressure=CONNECTIONS, workers_kill_timeout=30,
            respawn_failed_workers=True,
            log_dictconfig=logs.configuration(style),
        )  # fmt: skip
        logging.getLogger("_granian").addFilter(_without_advice)
        server.serve()


def _be_seen(wiring: Wiring, style: logs.Style) -> None:
    """Logs, and counts together with the instance's other processes, from now on."""
    logs.switch_on(style)
    metrics.share(wiring.settings.instance / "metrics")


def _require_free(host: str, port: int) -> None:
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise click.ClickException(f"cannot listen at {host}:{port}: {os.strerror(error.errno or 0)}") from None


def _without_advice(record: logging.LogRecord) -> bool:
    """Drops granian's warning that threads outnumber cores: ours wait for Openfield, not for a core."""
    return "Python threads" not in record.getMessage()


@click.command()
@click.option("--concurrency", default=8, show_default=True, type=click.IntRange(1, 64), help="Deliveries at once.")
@LOG
@with_appcontext
def worker(concurrency: int, style: logs.Style) -> None:
    """Deliver what waits for Openfield, until SIGTERM or SIGINT."""
    from widget import jobs

    with _plainly() as wiring:
        migrations.require_newest(wiring.database)
        _be_seen(wiring, style)
        jobs.run_worker(wiring, concurrency=concurrency)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; never where others reach it.")
@click.option("--port", default=5001, show_default=True, type=click.IntRange(0, 65535))
@click.option("--file", "record_file", type=click.Path(dir_okay=False, path_type=Path), help="Keep the records there.")
@click.option("--ignore-idempotency", is_flag=True, help="Take no notice of Idempotency-Key.")
@click.option("--keep-calls", default=10_000, show_default=True, type=click.IntRange(0), help="Calls to remember.")
def sandbox(host: str, port: int, **options: Any) -> None:
    """Run an Openfield to develop against, with faults on demand."""
    from widget.openfield.sandbox import run_sandbox

    run_sandbox(host, port, **options)


@click.command()
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535 - 2), help="The widget's.")
@with_appcontext
def demo(port: int) -> None:
    """Run everything: sandbox, widget, worker and a campaign site, with people to try it as."""
    from widget.demo import run_demo

    with _plainly() as wiring:
        run_demo(wiring, port)


# Tables -----------------------------------------------------------------------------------------------------------


db = AppGroup("db", help="The database's tables.")


@db.command()
def upgrade() -> None:
    """Bring the tables up to this version."""
    with _plainly() as wiring:
        migrations.upgrade(wiring.database)
        click.echo(f"The tables are at revision {migrations.current(wiring.database)}.")


@db.command()
def current() -> None:
    """Say which revision the tables are at."""
    with _plainly() as wiring:
        click.echo(migrations.current(wiring.database) or "none")


@db.command()
def check() -> None:
    """Exit with 1 unless the tables are as this version's models say."""
    with _plainly() as wiring:
        migrations.check(wiring.database)
        click.echo("The tables are up to date.")


@db.command()
@click.argument("message")
def revision(message: str) -> None:
    """Draft the next revision from the models, for a developer to correct."""
    with _plainly() as wiring:
        migrations.write_revision(wiring.database, message)


# Settings ---------------------------------------------------------------------------------------------------------


config = AppGroup("config", help="What marketers and admins set, as TOML.")


@config.command("apply")
@click.argument("file", type=SETTINGS)
def apply_file(file: Path) -> None:
    """Make the database's settings what FILE says; again and again, to the same end."""
    from widget import settings_file

    with _plainly() as wiring:
        migrations.require_newest(wiring.database)
        with wiring.database.session() as session, _problems_of(file):
            known = settings_file.stored(session)
            settings = settings_file.parse(_read(file), private_hosts=wiring.settings.private_hosts, known=known)
            tallies = settings_file.apply(session, settings)
            session.commit()
    for kind, tally in tallies.items():
        click.echo(f"{kind}: {tally.created} created, {tally.changed} changed, {tally.unchanged} unchanged")


@config.command("check")
@click.option("--stored", is_flag=True, help="Let FILE refer to what the database has, as `apply` does.")
@click.argument("file", type=SETTINGS)
def check_file(file: Path, stored: bool) -> None:
    """Say what is wrong with FILE, changing nothing; exit with 1 if anything is."""
    from widget import settings_file

    with _plainly() as wiring, _problems_of(file):
        known = settings_file.SettingsFile()
        if stored:
            migrations.require_newest(wiring.database)
            with wiring.database.session() as session:
                known = settings_file.stored(session)
        settings_file.parse(_read(file), private_hosts=wiring.settings.private_hosts, known=known)
    click.echo(f"{file} is in order.")


@config.command("export")
def export_settings() -> None:
    """Print the database's settings as TOML that `apply` takes."""
    from widget import settings_file

    with _plainly() as wiring:
        migrations.require_newest(wiring.database)
        with wiring.database.session() as session:
            click.echo(settings_file.export(session), nl=False)


def _read(file: Path) -> str:
    try:
        with click.open_file(str(file), encoding="utf-8") as opened:
            text: str = opened.read()
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{file} is not UTF-8: {error}") from None
    return text


@contextmanager
def _problems_of(file: Path) -> Iterator[None]:
    """Tells a wrong file's problems, one a line, and exits with 1."""
    from widget.settings_file import WrongFile

    try:
        yield
    except WrongFile as wrong:
        for problem in wrong.problems:
            click.echo(f"{file}:{problem.line}: {problem.place}: {problem.reason}", err=True)
        raise click.exceptions.Exit(1) from None


# The outbox -------------------------------------------------------------------------------------------------------


deliveries = AppGroup("deliveries", help="What is to reach Openfield, and how far it has come.")

by_state = click.option("--state", type=click.Choice([state.value for state in DeliveryState]), help="Those in it.")
by_campaign = click.option("--campaign", metavar="SLUG", help="Those of this campaign.")


WHY = {
    Circuit.RESTING: "Openfield has been failing; a probe now and then finds out when it is back",
    Circuit.OFF: "the integration is switched off",
}


@contextmanager
def _outbox() -> Iterator[tuple[Session, datetime]]:
    """A session, and the time by the database's clock."""
    from widget.deliveries import clock

    with _plainly() as wiring:
        migrations.require_newest(wiring.database)
        with wiring.database.session() as session:
            yield session, clock(session)


@deliveries.command("list")
@by_state
@by_campaign
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
def list_deliveries(state: str | None, campaign: str | None, limit: int) -> None:
    """List deliveries, the newest first."""
    from widget import backlog

    with _outbox() as (session, _):
        found = backlog.found(session, *backlog.of(state=state, campaign=campaign), limit=limit + 1)
    _tell_table(
        ("id", "state", "what", "taken at", "tried", "campaign", "why"),
        [
            (
                each.id, each.state, each.operation, _time(each.created_at), each.attempts,
                each.participation.campaign.slug, each.reason or "",
            )
            for each in found[:limit]
        ],
    )  # fmt: skip
    if len(found) > limit:
        click.echo(f"There are more than {limit}: see --limit.", err=True)


@deliveries.command("show")
@click.argument("delivery_id", type=click.UUID)
def show_delivery(delivery_id: UUID) -> None:
    """Show how far one delivery has come, and nothing of what is in it."""
    from widget import backlog

    with _outbox() as (session, _):
        found = backlog.found(session, *backlog.of(ids=[delivery_id]), limit=1)
    if not found:
        raise click.ClickException(f"there is no delivery {delivery_id}")
    delivery = found[0]
    waits = {DeliveryState.WAITING: "due at", DeliveryState.SENDING: "leased until"}.get(delivery.state)
    notes = {
        "an earlier attempt may have taken effect": delivery.in_doubt and waits,
        "a later one of the same person is in Openfield already": delivery.superseded,
        "its password is no longer kept": delivery.state is DeliveryState.BURIED
        and delivery.operation is Operation.CREATE
        and delivery.sealed_password is None,
    }
    rows: list[tuple[str, object]] = [
        ("state", delivery.state),
        ("why", delivery.reason),
        ("what", delivery.operation),
        ("campaign", delivery.participation.campaign.slug),
        ("integration", delivery.integration.name),
        ("taken at", _time(delivery.created_at)),
        ("tried", f"{delivery.attempts} times" + (f", {delivery.crashes} broke off" if delivery.crashes else "")),
        (waits or "settled at", _time(delivery.due_at if waits else delivery.settled_at)),
        ("gives up at", _time(delivery.give_up_at) if waits else None),
        *(("note", note) for note, holds in notes.items() if holds),
    ]
    for name, value in rows:
        if value is not None:
            click.echo(f"{name:<13}{value}")


@deliveries.command("retry")
@click.argument("ids", type=click.UUID, nargs=-1)
@by_state
@by_campaign
@click.option("--all", "everything", is_flag=True, help="All that wait or are buried.")
def retry_deliveries(ids: tuple[UUID, ...], state: str | None, campaign: str | None, everything: bool) -> None:
    """Try again now what waits or is buried: by id, by state, by campaign, or all.

    An integration whose deliveries rest or are paused goes on at once.
    """
    from widget import backlog
    from widget.deliveries import retry

    if not (ids or state or campaign or everything):
        raise click.UsageError("Say which: ids, --state, --campaign or --all.")
    with _outbox() as (session, now):
        count = retry(session, now, *backlog.of(ids=ids, state=state, campaign=campaign))
    click.echo(f"{count} will be tried again now.")
    if missed := len(set(ids)) - count if ids else 0:
        raise click.ClickException(f"{missed} of those named do not wait and are not buried")


@deliveries.command("stats")
def show_stats() -> None:
    """Count deliveries by campaign and state; say how integrations and workers fare."""
    from widget import backlog

    with _outbox() as (session, now):
        health, counts = backlog.health(session, now), backlog.tally(session)
    _tell_table(
        ("campaign", *DeliveryState),
        [(slug, *(row.get(each, 0) for each in DeliveryState)) for slug, row in counts.items()],
    )
    click.echo()
    _tell_table(
        ("integration", "deliveries are", "why"),
        [
            (name, circuit, health.troubles.get(name) or WHY.get(circuit, ""))
            for name, circuit in health.circuits.items()
        ],
    )
    click.echo()
    if health.oldest:
        click.echo(f"The oldest that is open was taken {timedelta(seconds=round(health.oldest))} ago.")
    click.echo(f"Workers alive: {health.workers}")


def _time(time: datetime | None) -> str:
    return "" if time is None else f"{time:%Y-%m-%d %H:%M:%S}Z"


def _tell_table(heads: Sequence[object], rows: Sequence[Sequence[object]]) -> None:
    """As wide as it needs to be: for `grep` and `cut` too."""
    lines = [[str(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(heads))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
