"""What a sandbox remembers: records and what logs in to them, how they came about, answers given, calls received,
faults that wait.

Not here: whether a request is well formed (`judge`); HTTP.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flask import current_app

from widget.openfield.sandbox.faults import Fault
from widget.openfield.sandbox.judge import broken_values
from widget.openfield.sandbox.message import Answer, Json, Refused, at, invalid_party, masked, parse, serialize
from widget.openfield.sandbox.people import Person

KEPT_CALLS = 10_000
"""How many calls are remembered, unless it is told otherwise."""


def _hashed(password: str, salt: bytes) -> str:
    # A cost this low is wrong anywhere but in a sandbox, where thousands of sign-ups are tried in seconds.
    return f"{salt.hex()}:{hashlib.scrypt(password.encode(), salt=salt, n=1 << 8, r=8, p=1).hex()}"


def _sealed(password: str | None) -> str | None:
    return None if password is None else _hashed(password, secrets.token_bytes(16))


NAME_PATHS = ("Party.Login.Username", "Party.Email")

Name = tuple[str, str]
"""The dotted path of a name, and the name."""


def _name(path: str, name: str) -> Name:
    """A user name counts as it is, an e-mail whatever its case."""
    return path, name.casefold() if path == "Party.Email" else name


def _new_party_id() -> str:
    return f"OF-{secrets.token_hex(6)}"


@dataclass(frozen=True, slots=True)
class Party:
    """A record as it is kept, without its password, and beside it what logs in to it."""

    record: Json
    secret: str | None = None
    locked: bool = False

    @classmethod
    def of(cls, person: Person) -> Party:
        own = {"PartyId": _new_party_id(), "PartyType": "Person", "Version": 1, "LanguageId": "en"}
        record = {**person.record, "Party": {**own, **person.record["Party"]}}
        return cls(record, _sealed(person.password), person.locked)

    @property
    def id(self) -> str:
        return str(self.record["Party"]["PartyId"])

    @property
    def version(self) -> int:
        return int(self.record["Party"]["Version"])

    @property
    def names(self) -> list[Name]:
        """What the person logs in by, and nobody else may have."""
        return [_name(path, name) for path in NAME_PATHS if isinstance(name := at(self.record, path), str)]

    def opens_with(self, password: str) -> bool:
        if self.secret is None:
            return False
        return hmac.compare_digest(self.secret, _hashed(password, bytes.fromhex(self.secret.partition(":")[0])))

    def standing(self) -> Json:
        return {"PartyId": self.id, "Version": self.version}


def _with_services(record: Json, before: Sequence[Json], now: Sequence[Json]) -> Json:
    """The record, with the subscriptions that it had, refreshed and added to by those that come in."""
    services = {service["ServiceId"]: service for service in before}
    for service in now:
        services[service["ServiceId"]] = {**services.get(service["ServiceId"], {}), **service}
    return {**record, "Services": list(services.values())} if services else record


def _line(party: Party, change: Json | None = None) -> str:
    kept = {"record": party.record, "secret": party.secret, "locked": party.locked}
    return serialize({"party": kept, "change": change}) + "\n"


@dataclass(slots=True)
class Call:
    """A call that was received, its passwords masked.

    Attributes:
        request: None where the body is not JSON: nothing of such a body is kept.
        status: None until it is answered, and for good where no reply is given.
        response: the answer; of a call whose reply was dropped, the answer that was not heard.
        fault: the kind of the fault that met it.
    """

    number: int
    received_at: datetime
    operation: str
    idempotency_key: str | None
    request: Any
    status: int | None = None
    response: Json | None = None
    fault: str | None = None
    repeated: bool = False

    @property
    def code(self) -> str | None:
        return None if self.response is None else self.response.get("Code")

    @property
    def reason(self) -> str:
        """Why it was refused, in one line; '' where it was not."""
        if self.response is None or self.code is None:
            return ""
        fields = self.response.get("Fields", {})
        return "; ".join(f"{path} {reason}" for path, reason in fields.items()) or str(self.response["Message"])

    def to_json(self) -> Json:
        return {
            "number": self.number,
            "received_at": self.received_at.isoformat(timespec="milliseconds"),
            "operation": self.operation,
            "idempotency_key": self.idempotency_key,
            "status": self.status,
            "code": self.code,
            "reason": self.reason,
            "fault": self.fault,
            "repeated": self.repeated,
            "request": self.request,
            "response": self.response,
        }


@dataclass(frozen=True, slots=True)
class Change:
    """A Create or Update that took effect, and the record as it stood after it."""

    operation: str
    record: Json

    def to_json(self) -> Json:
        return {"operation": self.operation, "record": masked(self.record)}


class Registry:
    """Everything that a sandbox remembers. Safe among threads.

    With a `record_file`, what it holds is read where it exists, and what happens to a party is added to it, a line
    each, before anybody is told: a sandbox that is killed has done what it said that it did, once. Calls and faults are
    of one run.
    """

    NAME = "openfield_sandbox"
    """Where a Flask app keeps it among its extensions."""

    def __init__(self, people: Sequence[Person], record_file: Path | None = None, keep_calls: int = KEPT_CALLS) -> None:
        self._people = tuple(people)
        self._record_file = record_file
        self._keep_calls = keep_calls
        self._lock = threading.Lock()
        self._begin()
        if record_file is not None and record_file.exists():
            self._load(record_file)
        else:
            self._save_all()

    def _begin(self) -> None:
        self._keep_only(Party.of(person) for person in self._people)
        self._calls: deque[Call] = deque(maxlen=self._keep_calls)
        self._received = 0
        self._faults: list[Fault] = []
        self._released = threading.Event()

    def _keep_only(self, parties: Iterable[Party]) -> None:
        self._parties: dict[str, Party] = {}
        self._ids: dict[Name, str] = {}
        self._answers: dict[str, Answer] = {}
        self._changes: list[Change] = []
        for party in parties:
            self._put(party)

    # The record file: {"party": …, "change": null | {"operation": …, "known_as": …, "answer": …}} a line

    def _load(self, file: Path) -> None:
        """Reads the file. A line that was cut short when a process was killed is dropped: nobody was told of it."""
        *lines, torn = file.read_bytes().split(b"\n")
        try:
            if not lines:
                raise ValueError("it holds no line")
            self._keep_only(())
            for line in map(parse, lines):
                party = Party(**line["party"])
                self._put(party)
                if change := line["change"]:
                    self._note(change["operation"], change["known_as"], party, Answer(**change["answer"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{file} is not a sandbox's record file: {error}") from None
        if torn:
            os.truncate(file, file.stat().st_size - len(torn))

    def _save(self, party: Party, change: Json | None = None) -> None:
        if self._record_file is not None:
            with self._record_file.open("a", encoding="utf-8") as file:
                file.write(_line(party, change))

    def _save_all(self) -> None:
        """Makes the file anew, with the parties alone."""
        if self._record_file is None:
            return
        draft = self._record_file.with_name(f".{self._record_file.name}.draft")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.writelines(map(_line, self._parties.values()))
        draft.replace(self._record_file)

    # The operations, on requests that have been judged

    def authenticate(self, body: Json) -> Answer:
        """Raises: Refused: 401, the same for whoever is not known and whatever is not the password; 423."""
        login = body["Login"]
        with self._lock:
            called = self._called(login["Username"])
        if any(party.locked for party in called):
            raise Refused(423, "ACCOUNT_LOCKED", "the account is locked")
        for party in called:
            if party.opens_with(login.get("Password", "")):
                return Answer(200, party.record)
        raise Refused(401, "INVALID_CREDENTIALS", "there is no such user name with such a password")

    def get(self, body: Json) -> Answer:
        """Raises: Refused: 404."""
        with self._lock:
            return Answer(200, self._known(body["PartyId"]).record)

    def create(self, body: Json, key: str | None) -> Answer:
        """Raises: Refused: 409, 422."""
        return self._write("Create", body, key)

    def update(self, body: Json, key: str | None) -> Answer:
        """Raises: Refused: 404, 409, 422."""
        return self._write("Update", body, key)

    def _write(self, operation: str, body: Json, key: str | None) -> Answer:
        """Do it, unless the same operation has taken effect under this Idempotency-Key: then give that answer again.

        A refusal is not remembered: whoever mends a record and sends it under the same key is judged anew.
        """
        known_as = f"{operation} {key}" if key else None
        with self._lock:
            if known_as in self._answers:
                return replace(self._answers[known_as], repeated=True)
            created = operation == "Create"
            party = self._created(body) if created else self._updated(body)
            self._put(party)
            answer = Answer(201 if created else 200, party.standing())
            said = {"status": answer.status, "body": answer.body}
            self._save(party, {"operation": operation, "known_as": known_as, "answer": said})
            self._note(operation, known_as, party, answer)
            return answer

    def _note(self, operation: str, known_as: str | None, party: Party, answer: Answer) -> None:
        self._changes.append(Change(operation, party.record))
        if known_as is not None:
            self._answers[known_as] = answer

    def _created(self, body: Json) -> Party:
        if wrong := broken_values(body):
            raise invalid_party(wrong)
        party = {"PartyId": _new_party_id(), **body["Party"], "Version": 1}
        if "Login" in party:
            party["Login"] = {name: value for name, value in party["Login"].items() if name != "Password"}
        return Party(
            _with_services({"Party": party}, [], body.get("Services", [])),
            _sealed(at(body, "Party.Login.Password")),
        )

    def _updated(self, body: Json) -> Party:
        before = self._known(body["Party"]["PartyId"])
        if body["Party"]["Version"] != before.version:
            stands = {"Party.Version": f"is not {before.version}, where the record stands"}
            raise Refused(409, "VERSION_CONFLICT", "the record has changed since it was read", stands)
        if wrong := broken_values(body, before.record):
            raise invalid_party(wrong)
        record = {"Party": {**body["Party"], "Version": before.version + 1}}
        services = before.record.get("Services", [])
        return replace(before, record=_with_services(record, services, body.get("Services", [])))

    def _known(self, party_id: str) -> Party:
        if party_id not in self._parties:
            raise Refused(404, "UNKNOWN_PARTY", "there is no such person")
        return self._parties[party_id]

    def _called(self, name: str) -> list[Party]:
        """Whoever has this user name or e-mail: two people, where the one's user name is the other's e-mail."""
        ids = {self._ids[found] for path in NAME_PATHS if (found := _name(path, name)) in self._ids}
        return [self._parties[party_id] for party_id in ids]

    def _put(self, party: Party) -> None:
        """Keep the party as the one that changed last; refused where a name of it is somebody else's."""
        others = [path for path, name in party.names if self._ids.get((path, name), party.id) != party.id]
        if others:
            taken = dict.fromkeys(others, "belongs to somebody else")
            raise Refused(409, "PARTY_EXISTS", "there is an account already", taken)
        if before := self._parties.pop(party.id, None):
            for name in before.names:
                del self._ids[name]
        self._parties[party.id] = party
        self._ids.update(dict.fromkeys(party.names, party.id))

    # What tests and the page do

    def parties(self) -> list[Party]:
        """All of them; the one that changed last comes last."""
        with self._lock:
            return list(self._parties.values())

    def changes(self) -> list[Change]:
        """Every Create and Update that took effect, in order."""
        with self._lock:
            return list(self._changes)

    def add(self, person: Person) -> Answer:
        """Keep a person, unjudged. Where the PartyId is known, the record is replaced; so is a password that is given.

        Raises:
            Refused: 409, the user name or the e-mail is somebody else's.
        """
        party = Party.of(person)
        with self._lock:
            before = self._parties.get(party.id)
            party = replace(party, secret=party.secret or (before.secret if before else None))
            self._put(party)
            self._save(party)
        return Answer(201, party.standing())

    def lock(self, name: str, locked: bool) -> None:
        """Lock, or unlock, whoever has this user name or e-mail.

        Raises:
            Refused: 404.
        """
        with self._lock:
            called = self._called(name)
            if not called:
                raise Refused(404, "UNKNOWN_PARTY", "there is no such person")
            for party in called:
                self._parties[party.id] = replace(party, locked=locked)
                self._save(self._parties[party.id])

    def reset(self) -> None:
        """Back to the people of the start: no calls, no faults."""
        self.clear_faults()
        with self._lock:
            self._begin()
            self._save_all()

    def calls(self) -> list[Call]:
        """The last `keep_calls` of them, in the order in which they came."""
        with self._lock:
            return list(self._calls)

    def receive(self, operation: str, request: Any, key: str | None = None) -> Call:
        """Note a call before it is answered, so that one that waits is seen waiting."""
        with self._lock:
            self._received += 1
            call = Call(self._received, datetime.now(UTC), operation, key, masked(request))
            self._calls.append(call)
            return call

    def settle(self, call: Call, answer: Answer | None, fault: Fault | None = None) -> None:
        """Note what a call was answered; None for nothing."""
        with self._lock:
            call.fault = fault.kind if fault else None
            if answer is not None:
                call.status, call.response, call.repeated = answer.status, masked(answer.body), answer.repeated

    def faults(self) -> list[Fault]:
        with self._lock:
            return list(self._faults)

    def add_fault(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(replace(fault, released=self._released))

    def take_fault(self, operation: str) -> Fault | None:
        """The first fault that meets a call of the operation, one time of it used up."""
        with self._lock:
            for place, fault in enumerate(self._faults):
                if fault.meets(operation):
                    self._faults[place : place + 1] = fault.after_one()
                    return fault
            return None

    def clear_faults(self) -> None:
        """Forget the faults, and let go of the calls that they hold."""
        with self._lock:
            self._faults.clear()
            self._released.set()
            self._released = threading.Event()


def registry() -> Registry:
    """The registry of the app that answers this request."""
    found: Registry = current_app.extensions[Registry.NAME]
    return found
