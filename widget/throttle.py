"""Token buckets in the database, shared by all processes.

A bucket holds up to `burst` tokens and is filled at `per_second`; a try takes one, and a success gives it back, so
that only failures count. Nothing is ever locked for good: the wait grows with the failures and ends by itself.

Not here: what is limited, and how that is said (`participation`, `web.pages`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, literal, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from widget.models import Bucket


@dataclass(frozen=True, slots=True)
class Limit:
    """How many tries at once, and how many a second in the long run."""

    burst: int
    per_second: float


def take(session: Session, key: bytes, limit: Limit, now: datetime) -> float:
    """Takes a token, in one statement.

    Returns:
        0.0 when the try may go on; else the seconds until one may. A bucket never owes more than one burst, so that
        the wait is bounded by `(burst + 1) / per_second`.
    """
    filled = func.least(
        float(limit.burst),
        Bucket.tokens + limit.per_second * func.greatest(0.0, func.extract("epoch", literal(now) - Bucket.filled_at)),
    )
    left = func.greatest(filled - 1.0, float(-limit.burst))
    statement = (
        insert(Bucket)
        .values(key=key, tokens=limit.burst - 1.0, filled_at=now)
        .on_conflict_do_update(index_elements=[Bucket.key], set_={"tokens": left, "filled_at": now})
        .returning(Bucket.tokens)
    )
    tokens = session.execute(statement).scalar_one()
    return 0.0 if tokens >= 0 else (1.0 - tokens) / limit.per_second


def give_back(session: Session, key: bytes, limit: Limit) -> None:
    """Gives a token back: the try was a success."""
    more = func.least(float(limit.burst), Bucket.tokens + 1.0)
    session.execute(update(Bucket).where(Bucket.key == key).values(tokens=more))


def forget(session: Session, now: datetime) -> int:
    """Deletes the buckets that nobody has touched for a day: they are full again. Gives how many. Commits."""
    gone = session.scalars(delete(Bucket).where(Bucket.filled_at < now - timedelta(days=1)).returning(Bucket.key)).all()
    session.commit()
    return len(gone)
