"""The queue's tasks, and the worker that runs them.

Not here: what a delivery is (`deliveries`) and how it is sent (`participation.deliver`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import procrastinate

from widget import deliveries, participation, throttle, visits
from widget.wiring import Wiring

DEADLINE = 30.0
"""Seconds that Openfield may take when nobody waits."""


def deliver(wiring: Wiring, delivery_id: UUID) -> None:
    """One attempt at one delivery; what comes of it is in its row."""
    with wiring.database.session() as session:
        participation.deliver(session, wiring, delivery_id, deadline=DEADLINE, now=datetime.now(UTC))


def purge(wiring: Wiring) -> None:
    """Deletes what has done its work: visits that expired, buckets that are full again."""
    with wiring.database.session() as session:
        now = datetime.now(UTC)
        visits.forget(session, now)
        throttle.forget(session, now)


def run_worker(wiring: Wiring, *, concurrency: int = 4, wait: bool = True) -> None:
    """Runs jobs until SIGTERM or SIGINT, then finishes those under way; with `wait` off, until none is due."""
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=wiring.database.conninfo))

    @app.task(name=deliveries.DELIVER)
    def _deliver(delivery_id: str) -> None:
        deliver(wiring, UUID(delivery_id))

    @app.periodic(cron="*/10 * * * *")
    @app.task(name="purge")
    def _purge(timestamp: int) -> None:
        purge(wiring)

    app.run_worker(
        concurrency=concurrency,
        wait=wait,
        delete_jobs="successful",
        shutdown_graceful_timeout=DEADLINE + 5,
        fetch_job_polling_interval=1.0,
    )
