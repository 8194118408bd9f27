"""What people sent and were told, and the verdict: whether Openfield has what it must have, and nothing else.

Each submission has a marker, which nobody else has: the city that is sent (CITY). So each change in Openfield says
whose it is. The verdict looks at three things: the history here, the changes that took effect in Openfield, in order,
and the records as they finally are. What it holds the product to:

* **lost**: a submission was acknowledged and never took effect. A newer one of the same person is no excuse: they go
  in order, so each has its turn.
* **twice**: a submission took effect more than once, acknowledged or not. A change that leaves the record as it stood,
  but for its version, is no effect: with a server that ignores Idempotency-Key, an Update may be repeated harmlessly.
* **created twice**: one user name, or one e-mail address, has two PartyIds.
* **out of order**: an older submission took effect after a newer one of the same person; or a value in the record is
  an older one's, where the newest acknowledged one, or an unknown one after it, said something else.
* **invented**: a record holds what nobody submitted, or a mixture of what was.
* **refused, but there**: somebody was told that it was not taken, and it took effect.
* **contradicted**: the same post, sent again, was acknowledged once and refused once.
* **open**, **buried**: deliveries that are still on their way when nothing is in their way, or that were given up.

A submission that nobody was told about (unknown) may take effect or not, at most once.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Json = dict[str, Any]

CITY = "Party.Address.City"
EMAIL = "Party.Email"
USERNAME = "Party.Login.Username"


class Kind(StrEnum):
    """What a submission is to do in Openfield."""

    CREATE = "create"
    UPDATE = "update"


class Outcome(StrEnum):
    """What somebody knows who sent something."""

    ACKNOWLEDGED = "acknowledged"
    """They were thanked."""
    REFUSED = "refused"
    """They were told that it was not taken."""
    UNKNOWN = "unknown"
    """The connection was lost, it took too long, or the server had an error."""


@dataclass(slots=True)
class Submission:
    """One person's answers, sent once or more often: the same post.

    Attributes:
        number: counts one person's submissions, from 1.
        sent: a dotted path in Openfield → what it must hold then; EMAIL only where it was changed.
        heard: what each post of it was answered, in no certain order.
    """

    person: str
    number: int
    kind: Kind
    sent: Mapping[str, str]
    heard: list[Outcome] = field(default_factory=list)

    @property
    def marker(self) -> str:
        """The city that is sent."""
        return self.sent[CITY]

    @property
    def outcome(self) -> Outcome:
        """All answers together: what was acknowledged once, is."""
        for outcome in (Outcome.ACKNOWLEDGED, Outcome.REFUSED):
            if outcome in self.heard:
                return outcome
        return Outcome.UNKNOWN


class History:
    """Everybody's submissions. Safe among threads.

    One person's must follow each other: the next one begins when what became of the one before is known, or known to
    stay unknown.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[str, list[Submission]] = defaultdict(list)
        self._tally: dict[Outcome, int] = defaultdict(int)

    def begin(self, person: str, kind: Kind, sent: Mapping[str, str]) -> Submission:
        """Notes that somebody is about to send this, with a marker put in."""
        with self._lock:
            number = len(self._of[person]) + 1
            submission = Submission(person, number, kind, {**sent, CITY: f"{person} {number}"})
            self._of[person].append(submission)
            return submission

    def heard(self, submission: Submission, outcome: Outcome) -> None:
        """Notes what one post of it was answered."""
        with self._lock:
            before = submission.outcome if submission.heard else None
            submission.heard.append(outcome)
            if before is not None:
                self._tally[before] -= 1
            self._tally[submission.outcome] += 1

    def count(self, outcome: Outcome) -> int:
        """How many submissions have come out so, as yet."""
        with self._lock:
            return self._tally[outcome]

    def all(self) -> list[Submission]:
        """Everybody's, one person's after the other, in order."""
        with self._lock:
            return [each for submissions in self._of.values() for each in submissions]

    def of(self, person: str) -> list[Submission]:
        """One person's, in order."""
        with self._lock:
            return list(self._of.get(person, ()))


FAULTS = (
    "lost",
    "twice",
    "created twice",
    "out of order",
    "invented",
    "refused, but there",
    "contradicted",
    "open",
    "buried",
)
"""What a verdict may find."""


class Verdict:
    """What was found; `faults` maps each of FAULTS to the cases, told one a line."""

    def __init__(self, delivered: int) -> None:
        self.delivered = delivered
        """How many submissions took effect."""
        self.faults: dict[str, list[str]] = {name: [] for name in FAULTS}

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not any(self.faults.values())

    def find(self, fault: str, case: str) -> None:
        """Adds a case."""
        self.faults[fault].append(case)

    def __str__(self) -> str:
        return "\n".join(f"{name}: {case}" for name, cases in self.faults.items() for case in cases) or "clean"


def judge(
    history: History,
    *,
    parties: Iterable[Json],
    changes: Iterable[Json],
    open: int = 0,  # noqa: A002 - as a delivery's state is called
    buried: Sequence[str] = (),
) -> Verdict:
    """The verdict.

    Args:
        parties: the records as they finally are, of `GET /_sandbox/parties`.
        changes: what took effect, in order, of `GET /_sandbox/changes`.
        open: how many deliveries are still on their way.
        buried: why each delivery was given up that was.
    """
    of_marker = {each.marker: each for each in history.all()}
    effects = _effects(changes)
    verdict = Verdict(delivered=len({marker for marker in map(_marker, effects) if marker in of_marker}))
    verdict.faults["open"] = [f"{open} deliveries are still on their way"] if open else []
    verdict.faults["buried"] = list(buried)
    applied: dict[str, list[Submission]] = defaultdict(list)
    for record in effects:
        submission = of_marker.get(_marker(record))
        if submission is None or wrong_values(record, submission.sent):
            verdict.find(
                "invented", f"{at(record, USERNAME)} was given {_marker(record)!r}, which nobody sent like that"
            )
        else:
            applied[submission.person].append(submission)
    for person in {each.person for each in of_marker.values()}:
        _judge_person(verdict, history.of(person), applied[person])
    _judge_records(verdict, history, parties)
    return verdict


def at(record: Json, path: str) -> Any:
    """What stands at the dotted path, or None."""
    found: Any = record
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def wrong_values(record: Json, sent: Mapping[str, str]) -> list[str]:
    """The paths at which the record is not as it was sent."""
    return [path for path, value in sent.items() if at(record, path) != value]


def _marker(record: Json) -> str:
    return str(at(record, CITY))


def _effects(changes: Iterable[Json]) -> list[Json]:
    """The records as they stood after each change that did change something."""
    stood: dict[str, Json] = {}
    effects = []
    for change in changes:
        record = change["record"]
        party = {name: value for name, value in record["Party"].items() if name != "Version"}
        before, stood[party["PartyId"]] = stood.get(party["PartyId"]), party
        if party != before:
            effects.append(record)
    return effects


def _judge_person(verdict: Verdict, submissions: Sequence[Submission], applied: Sequence[Submission]) -> None:
    """What is true of one person's submissions, as they took effect."""
    numbers = [each.number for each in applied]
    for each in submissions:
        times = numbers.count(each.number)
        told = f"{each.marker} ({each.kind}, {each.outcome}, posted {len(each.heard)} times)"
        if each.outcome is Outcome.ACKNOWLEDGED and not times:
            verdict.find("lost", told)
        if each.outcome is Outcome.REFUSED and times:
            verdict.find("refused, but there", told)
        if times > 1:
            verdict.find("twice", f"{told} took effect {times} times")
        if {Outcome.ACKNOWLEDGED, Outcome.REFUSED} <= set(each.heard):
            verdict.find("contradicted", told)
    if numbers != sorted(numbers):
        verdict.find("out of order", f"{submissions[0].person}'s took effect in the order {numbers}")


def _judge_records(verdict: Verdict, history: History, parties: Iterable[Json]) -> None:
    """What is true of the records as they finally are."""
    holders: dict[tuple[str, str], list[str]] = defaultdict(list)
    for record in parties:
        for path in (USERNAME, EMAIL):
            if name := at(record, path):
                holders[path, str(name).casefold()].append(str(at(record, "Party.PartyId")))
        submissions = history.of(str(at(record, USERNAME)))
        for path, value, allowed in _stale(record, submissions):
            fault = "out of order" if value in _ever(submissions, path) else "invented"
            verdict.find(fault, f"{submissions[0].person} has {path} {value!r} in the end, not {sorted(allowed)}")
    for (_, name), ids in holders.items():
        if len(ids) > 1:
            verdict.find("created twice", f"{name} is {', '.join(ids)}")


def _stale(record: Json, submissions: Sequence[Submission]) -> Iterable[tuple[str, str, set[str]]]:
    """Where the record holds what it must not: the path, what it holds, and what it may hold."""
    for path in dict.fromkeys(path for each in submissions for path in each.sent):
        allowed: set[str] = set()
        for each in submissions:
            if path not in each.sent or each.outcome is Outcome.REFUSED:
                continue
            if each.outcome is Outcome.ACKNOWLEDGED:
                allowed.clear()
            allowed.add(each.sent[path])
        value = str(at(record, path))
        if value not in allowed:
            yield path, value, allowed


def _ever(submissions: Sequence[Submission], path: str) -> set[str]:
    return {each.sent[path] for each in submissions if path in each.sent}
