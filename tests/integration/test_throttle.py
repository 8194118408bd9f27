"""Token buckets."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from widget import throttle
from widget.db import Database
from widget.throttle import Limit

LIMIT = Limit(burst=3, per_second=0.5)


def test_a_burst_goes_through_and_then_there_is_a_wait(session: Session, now: datetime) -> None:
    waits = [throttle.take(session, b"key", LIMIT, now) for _ in range(4)]
    assert waits == [0.0, 0.0, 0.0, 4.0]
    assert throttle.take(session, b"key", LIMIT, now + timedelta(seconds=4)) == 0.0


def test_the_wait_grows_with_each_try_but_is_bounded(session: Session, now: datetime) -> None:
    waits = [throttle.take(session, b"key", LIMIT, now) for _ in range(20)]
    assert waits[3:6] == [4.0, 6.0, 8.0]
    assert max(waits) == (LIMIT.burst + 1) / LIMIT.per_second


def test_the_wait_ends_by_itself(session: Session, now: datetime) -> None:
    for _ in range(4):
        throttle.take(session, b"key", LIMIT, now)
    assert throttle.take(session, b"key", LIMIT, now + timedelta(seconds=4)) == 0.0
    assert throttle.take(session, b"key", LIMIT, now + timedelta(days=1)) == 0.0


def test_a_clock_that_goes_back_gives_and_takes_nothing(session: Session, now: datetime) -> None:
    throttle.take(session, b"key", LIMIT, now)
    assert throttle.take(session, b"key", LIMIT, now - timedelta(hours=1)) == 0.0
    assert throttle.take(session, b"key", LIMIT, now - timedelta(hours=1)) == 0.0
    assert throttle.take(session, b"key", LIMIT, now - timedelta(hours=1)) > 0.0


def test_a_success_gives_its_token_back_and_never_more_than_the_burst(session: Session, now: datetime) -> None:
    for _ in range(10):
        assert throttle.take(session, b"key", LIMIT, now) == 0.0
        throttle.give_back(session, b"key", LIMIT)
    throttle.give_back(session, b"key", LIMIT)
    assert [throttle.take(session, b"key", LIMIT, now) for _ in range(4)][-1] > 0.0


def test_buckets_are_apart(session: Session, now: datetime) -> None:
    for _ in range(4):
        throttle.take(session, b"key", LIMIT, now)
    assert throttle.take(session, b"another", LIMIT, now) == 0.0


def test_processes_share_a_bucket_without_losing_a_token(database: Database, now: datetime) -> None:
    waits: list[float] = []

    def take() -> None:
        with database.session() as session:
            waits.append(throttle.take(session, b"key", LIMIT, now))
            session.commit()

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(waits) == [0.0, 0.0, 0.0, 4.0, 6.0, 8.0, 8.0, 8.0]
