"""The worker: the queue's one task, and what keeps house beside it.

Not here: what a delivery is (`deliveries`) and how it is sent (`participation.deliver`). The queue may lose everything:
what a job is about is in the deliveries' rows, and the sweep makes it anew. So the sweep is no job itself: each worker
calls it every few seconds, by a clock that nobody sets.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import procrastinate
import psycopg
from procrastinate.exceptions import ProcrastinateException
from psycopg_pool import PoolTimeout
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from widget import deliveries, participation, throttle, visits
from widget.db import TCP, unhurried
from widget.deliveries import Busy
from widget.postgres import PostgresFailed
from widget.wiring import Wiring

CONCURRENCY = 8
"""Deliveries at once, of one worker."""

DEADLINE = 30.0
"""Seconds that an attempt may take when nobody waits."""

PATIENCE = 40
"""How often a delivery looks for room, BREATH seconds apart, before it leaves its place to others."""

BREATH = 0.25

RECONNECT = 1.0
"""Seconds until a worker that lost its queue looks for it again."""

SWEEP = 5.0
PURGE = 600.0
"""Seconds from one to the next."""

LOST = (ProcrastinateException, psycopg.Error, PoolTimeout, SQLAlchemyError, PostgresFailed, OSError)
"""How the database's absence shows."""

log = logging.getLogger(__name__)


def deliver(wiring: Wiring, delivery_id: UUID) -> None:
    """One attempt at one delivery; what comes of it is in its row."""
    breath = threading.Event()
    with wiring.database.session() as session:
        for _ in range(PATIENCE):
            try:
                now = deliveries.clock(session)
                participation.deliver(session, wiring, delivery_id, deadline=DEADLINE, now=now)
                return
            except Busy:
                breath.wait(BREATH)


def sweep(wiring: Wiring) -> None:
    """See `deliveries.sweep`."""
    with wiring.database.session() as session:
        try:
            deliveries.sweep(session, deliveries.clock(session))
        except OperationalError as error:
            if not isinstance(error.orig, psycopg.errors.QueryCanceled | psycopg.errors.DeadlockDetected):
                raise
            log.error("a sweep took too long; what has a job goes on")


def purge(wiring: Wiring) -> None:
    """Deletes what has done its work: visits that expired, buckets that are full again."""
    with wiring.database.session() as session:
        now = datetime.now(UTC)
        for forget in (visits.forget, throttle.forget):
            unhurried(session)
            forget(session, now)


def run_worker(wiring: Wiring, *, concurrency: int = CONCURRENCY, wait: bool = True) -> None:
    """Runs jobs until SIGTERM or SIGINT, then finishes those under way; with `wait` off, until none is due.

    It outlives the database: when that goes away, it comes back to it.
    """
    asyncio.run(_work(wiring.for_worker(concurrency), concurrency, wait=wait))


async def _work(wiring: Wiring, concurrency: int, *, wait: bool) -> None:
    stopping = _told_to_stop()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(concurrency + 2))
    while not stopping.is_set():
        try:
            await asyncio.to_thread(wiring.database.revive)
            await _until(stopping, _run(wiring, concurrency, wait=wait))
        except LOST as loss:
            log.warning("the database is out of reach (%s); trying again", type(loss).__name__)
        if not wait:
            return
        await _until(stopping, asyncio.sleep(RECONNECT))


def _told_to_stop() -> asyncio.Event:
    stopping = asyncio.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping


async def _until(stopping: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Does the work to its end; told to stop meanwhile, has it end in order."""
    await _first_of(work, _wait(stopping))


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def _run(wiring: Wiring, concurrency: int, *, wait: bool) -> None:
    """Works until it is cancelled, or the database is lost; then what is under way comes to its end first."""
    connector = procrastinate.PsycopgConnector(
        conninfo=wiring.database.conninfo, min_size=1, max_size=4, timeout=10.0, kwargs={"connect_timeout": 5, **TCP}
    )
    queue = procrastinate.App(connector=connector)

    @queue.task(name=deliveries.DELIVER)
    def _deliver(delivery_id: str) -> None:
        deliver(wiring, UUID(delivery_id))

    async with queue.open_async():
        await asyncio.to_thread(sweep, wiring)
        log.info("working", extra={"concurrency": concurrency})
        worker = queue.run_worker_async(
            concurrency=concurrency, wait=wait, delete_jobs="always", install_signal_handlers=False,
            shutdown_graceful_timeout=DEADLINE + 5, fetch_job_polling_interval=1.0,
        )  # fmt: skip
        await _first_of(worker, _every(SWEEP, sweep, wiring), _every(PURGE, purge, wiring))


async def _every(seconds: float, work: Callable[[Wiring], None], wiring: Wiring) -> None:
    while True:
        await asyncio.sleep(seconds)
        await asyncio.to_thread(work, wiring)


async def _first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Does them all at once. The first to end ends the others; what goes wrong in any of them is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end
