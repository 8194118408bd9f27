"""The calls to Openfield, each within a deadline and each failure named by what to do next.

Not here: what is in the messages (`wire`), where they may go (`guard`), when a call is spared (`breaker`), and what
becomes of a profile that could not be sent (`deliveries`). Nothing is logged here, and no error carries anything that
Openfield said: their traceback begins in the caller's own thread, without a chain.

What a failure is, where it is not plain from the protocol:

* An answer of success that is no answer of the protocol (HTML, cut short, too long, of wrong types, somebody else's
  record) is Unavailable. A proxy in between that has a bad moment is likelier than wrong settings, and one odd record
  must not stop an integration. A Create or Update may have been applied then.
* 429 says that nothing was done. 5xx and 408 do not: a proxy says 502, 503 and 504 for a server that did it.
* Misconfigured is what stays wrong until somebody changes a setting: redirects, paths that are not there, a caller who
  is unknown, a certificate, an address that is not public.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Mapping, Set
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, Protocol, TypeVar

import requests
from urllib3.exceptions import HTTPError

from widget.openfield import guard, wire
from widget.openfield.breaker import Breaker
from widget.openfield.errors import (
    AccountExists,
    AccountLocked,
    InvalidCredentials,
    Misconfigured,
    NotAsked,
    OpenfieldError,
    Rejected,
    Unavailable,
    UnknownParty,
)
from widget.openfield.wire import Parameters, Record, Stored
from widget.profile import OptIn, Profile, Value, Variable

MAX_BODY = 1024 * 1024
"""Longest answer, in bytes, after decompression."""

MAX_RETRY_AFTER = 6 * 3600.0
"""Longest wait, in seconds, that Openfield may ask for."""

CONFLICT_ROUNDS = 3
"""How often an Update is sent while others keep changing the record."""

_CHUNK = 64 * 1024
_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
    "User-Agent": "openfield-widget",
}

_Operation = Literal["authenticate", "get", "create", "update"]
_ANY: Container[_Operation] = ("authenticate", "get", "create", "update")
_LOGIN: Container[_Operation] = ("authenticate",)
_WRITES: Container[_Operation] = ("create", "update")

_T = TypeVar("_T")

Observer = Callable[[str, str, float], None]
"""Is told of every call: its operation, "ok" or the name of the error's class, and the seconds that it took."""


def _unobserved(operation: str, outcome: str, seconds: float) -> None:
    """For clients that nobody watches."""


class _VersionConflict(OpenfieldError):
    """Somebody else has changed the record since it was read. Never leaves this module."""


_ANSWERS: tuple[tuple[Container[int], str, Container[_Operation], type[OpenfieldError], str], ...] = (
    (range(400, 500), "INVALID_CREDENTIALS", _LOGIN, InvalidCredentials, "no such user name and password"),
    (range(400, 500), "ACCOUNT_LOCKED", _LOGIN, AccountLocked, "the account is locked"),
    (range(400, 500), "UNKNOWN_CALLER", _ANY, Misconfigured, "Openfield does not know idTenant or IdApplication"),
    ((401,), "", _LOGIN, InvalidCredentials, "no such user name and password"),
    ((401, 403, 407), "", _ANY, Misconfigured, "Openfield does not let us in"),
    ((404,), "UNKNOWN_PARTY", _LOGIN, InvalidCredentials, "no such user name and password"),
    ((404,), "UNKNOWN_PARTY", ("get", "update"), UnknownParty, "the record is not there any more"),
    ((404, 405), "", _ANY, Misconfigured, "Openfield has nothing at the operation's path"),
    ((408, 425, 429), "", _ANY, Unavailable, "Openfield asks to come back later"),
    ((409,), "PARTY_EXISTS", ("update",), Rejected, "another account has the same e-mail or user name"),
    ((409,), "", ("update",), _VersionConflict, "the record has changed"),
    ((409,), "", ("create",), AccountExists, "an account with the same e-mail or user name exists"),
    ((423,), "", _ANY, AccountLocked, "the account is locked"),
    (range(400, 500), "", _ANY, Rejected, "Openfield refuses the record"),
    (range(300, 400), "", _ANY, Misconfigured, "Openfield's URL redirects to another one"),
    (range(1000), "", _ANY, Unavailable, "Openfield is in trouble"),
)
"""What an answer means that is none of success: the first row of its status, its Code ("" is any) and the operation."""

_SETTINGS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidHeader,
)

_TROUBLES: tuple[tuple[tuple[type[Exception], ...], type[Misconfigured | Unavailable], str], ...] = (
    (_SETTINGS, Misconfigured, "the URL of Openfield is not a URL"),
    ((requests.Timeout, TimeoutError), Unavailable, "Openfield took too long"),
    ((requests.exceptions.SSLError,), Unavailable, "no encrypted connection to Openfield could be made"),
    ((requests.ConnectionError,), Unavailable, "the connection to Openfield broke off"),
    ((requests.RequestException, HTTPError, OSError), Unavailable, "Openfield's answer could not be read"),
    ((Exception,), Unavailable, "the call failed in a way that nobody foresaw"),
)
"""What an exception on the way means: the first row of its type."""


class IntegrationSettings(Protocol):
    """What a connection needs of `models.Integration`."""

    @property
    def openfield_url(self) -> str: ...
    @property
    def id_tenant(self) -> str: ...
    @property
    def id_application(self) -> str: ...
    @property
    def operations(self) -> Mapping[str, str]: ...
    @property
    def parameters(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class Connection:
    """A customer's Openfield, as a hashable value: where it is, who we are there, what it calls things.

    Attributes:
        own_operations, own_parameters: only what differs from the defaults, sorted.
    """

    url: str
    id_tenant: str = field(repr=False)
    id_application: str = field(repr=False)
    own_operations: tuple[tuple[str, str], ...] = ()
    own_parameters: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, integration: IntegrationSettings) -> Connection:
        """The connection that an integration's settings describe."""
        return cls(
            url=integration.openfield_url,
            id_tenant=integration.id_tenant,
            id_application=integration.id_application,
            own_operations=tuple(sorted(integration.operations.items())),
            own_parameters=tuple(sorted(integration.parameters.items())),
        )

    @property
    def operations(self) -> Mapping[str, str]:
        """Every operation's path."""
        return wire.merged_operations(dict(self.own_operations))

    @property
    def parameters(self) -> Parameters:
        """Every variable's parameter."""
        return wire.merged_parameters(dict(self.own_parameters))

    def check(self, private_hosts: Set[str]) -> None:
        """Whether calls may be made with these settings; they may have been saved under other rules.

        Raises:
            ValueError: they may not; the message is for an admin.
        """
        guard.check_url(self.url, private_hosts)
        wire.check_operations(dict(self.own_operations))
        wire.check_parameters(dict(self.own_parameters))


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    retry_after: float | None
    document: Any = field(repr=False)
    """None also where there was no JSON."""


class OpenfieldClient:
    """Speaks to one Openfield. Safe to use from several threads; a process has one per connection (see `Clients`).

    Every call has a `deadline`: the seconds that it may take in all, whatever happens. It is carried out in a thread of
    its own, which the caller waits for that long, and then cuts off. Besides the errors that each call names, all of
    them raise:

        Unavailable: no usable answer in time; also at once when `bulkhead` calls are under way, or the breaker is open.
        Misconfigured: the connection's settings are wrong.
        Rejected: Openfield refuses the call for good.

    Args:
        private_hosts: see `guard.check_url`.
        bulkhead: how many calls may be under way; nobody waits for a place. A call that was cut off has its place until
            its thread has ended, which a name server may put off.
        breaker, resolve: replaced in tests.
        observe: told of each call that was really made.
        ca_bundle: path to the certificate authorities to trust, if not the public ones.
    """

    def __init__(
        self,
        connection: Connection,
        private_hosts: Set[str] = frozenset(),
        *,
        bulkhead: int = 8,
        breaker: Breaker | None = None,
        resolve: guard.Resolver = guard.resolve,
        ca_bundle: str | None = None,
        observe: Observer = _unobserved,
    ) -> None:
        self.connection = connection
        self._observe = observe
        self.breaker = breaker or Breaker()
        self._gate = guard.Gate(private_hosts, resolve)
        self._slots = threading.BoundedSemaphore(bulkhead)
        self._session = guard.guarded_session(bulkhead, ca_bundle)
        self._session.headers.clear()
        self._session.headers.update(_HEADERS)
        self._parameters: Parameters = wire.PARAMETERS
        self._flaw: str | None = None
        try:
            connection.check(private_hosts)
            self._parameters = connection.parameters
        except ValueError as flaw:
            self._flaw = str(flaw)

    def close(self) -> None:
        """Closes idle connections. Calls under way end as they would; later ones connect anew."""
        self._session.close()

    def authenticate(self, username: str, password: str, *, deadline: float) -> Record:
        """Identifies a person by user name (or e-mail) and password.

        Raises:
            InvalidCredentials, AccountLocked.
        """
        ends_at = time.monotonic() + deadline
        return self._ask("authenticate", wire.login(username, password, self._parameters), self._read_record, ends_at)

    def get(self, party_id: str, *, deadline: float) -> Record:
        """Reads a record again.

        Raises:
            UnknownParty.
        """
        return self._get(party_id, time.monotonic() + deadline)

    def create(self, profile: Profile, optins: Iterable[OptIn], language: str, *, key: str, deadline: float) -> Stored:
        """Creates a person.

        Args:
            key: sent as Idempotency-Key; the same one whenever the same Create is sent again.

        Raises:
            AccountExists.
        """
        ends_at = time.monotonic() + deadline
        document = wire.encode(profile, optins, language, self._parameters)
        return self._ask("create", document, wire.read_stored, ends_at, key)

    def update(
        self,
        record: Record,
        changes: Mapping[Variable, Value | None],
        optins: Iterable[OptIn],
        language: str,
        *,
        key: str,
        deadline: float,
    ) -> Stored:
        """Overwrites a person's whole record: what was read, with the changes laid on it.

        When the record has changed meanwhile it is read again, and the changes are laid on what is there now, unless it
        holds them already (an earlier attempt made them). Each
        round has an Idempotency-Key of its own, since a server that knows the key would give its first answer, the
        conflict, again: `key`, then `key-<version>`. Sent again with the same record, the same keys come about.

        Args:
            changes: None removes a property. A password is not sent.
            key: the same one whenever the same Update is sent again.

        Raises:
            UnknownParty.
        """
        ends_at = time.monotonic() + deadline
        optins = tuple(optins)
        for attempt in range(CONFLICT_ROUNDS):
            if attempt:
                record = self._get(record.party_id, ends_at)
                if not optins and self.holds(record, changes, language):
                    return Stored(record.party_id, record.version)
            document = wire.lay_over(record, changes, optins, language, self._parameters)
            round_key = f"{key}-{record.version}" if attempt else key
            try:
                return self._ask("update", document, wire.read_stored, ends_at, round_key)
            except _VersionConflict:
                continue
        raise Unavailable("others keep changing the record")

    def prefill(self, record: Record) -> Profile:
        """What the record knows, as far as it fits the form's fields. No call is made."""
        return wire.decode(record, self._parameters)

    def holds(self, record: Record, changes: Mapping[Variable, Value | None], language: str) -> bool:
        """Whether an Update with these changes and no opt-ins would leave the record as it is. No call is made."""
        laid = wire.lay_over(record, changes, (), language, self._parameters)
        return bool(laid["Party"] == record.party)

    def _get(self, party_id: str, ends_at: float) -> Record:
        def read(document: Any) -> Record:
            record = self._read_record(document)
            if record.party_id != party_id:
                raise ValueError("somebody else's record")
            return record

        return self._ask("get", {"PartyId": party_id}, read, ends_at)

    def _read_record(self, document: Any) -> Record:
        return wire.read_record(document, self._parameters)

    def _ask(
        self,
        operation: _Operation,
        document: Mapping[str, Any],
        read: Callable[[Any], _T],
        ends_at: float,
        key: str | None = None,
    ) -> _T:
        """Makes one call, and reads its answer. `read` raises ValueError for what is none of the protocol."""
        if self._flaw is not None:
            raise Misconfigured(self._flaw)
        caller = {"IdTenant": self.connection.id_tenant, "IdApplication": self.connection.id_application}
        body = wire.serialise({**caller, **document})
        admission, began_at = self._admit(ends_at), time.monotonic()
        outcome = self._exchange(operation, body, ends_at, key)
        result = self._understood(operation, outcome, read) if isinstance(outcome, _Answer) else outcome
        self.breaker.report(admission, ok=not isinstance(result, Unavailable))
        told = type(result).__name__.lstrip("_") if isinstance(result, OpenfieldError) else "ok"
        self._observe(operation, told, time.monotonic() - began_at)
        if isinstance(result, OpenfieldError):
            raise result
        return result

    def _admit(self, ends_at: float) -> int:
        """Takes a slot, and the breaker's leave."""
        if time.monotonic() >= ends_at:
            raise NotAsked("no time is left to ask Openfield")
        if not self._slots.acquire(blocking=False):
            raise NotAsked("too many calls to Openfield are under way")
        try:
            return self.breaker.admit()
        except NotAsked:
            self._slots.release()
            raise

    def _exchange(
        self, operation: _Operation, body: bytes, ends_at: float, key: str | None
    ) -> _Answer | OpenfieldError:
        """Has the exchange carried out in a thread, which gives the slot back when it has really ended."""
        exchange = guard.Exchange(self._gate, ends_at)
        url = f"{self.connection.url.rstrip('/')}/{self.connection.operations[operation].lstrip('/')}"
        outcome: Future[_Answer | OpenfieldError] = Future()

        def carry_out() -> None:
            result: _Answer | OpenfieldError
            try:
                with exchange:
                    result = self._post(url, body, {"Idempotency-Key": key} if key else {}, exchange.remaining())
            except Exception as error:  # noqa: BLE001 - a thread has nobody to raise it to, and it must be told of
                result = _trouble(error, maybe_applied=exchange.is_sent and operation in _WRITES)
            finally:
                self._slots.release()
            outcome.set_result(result)

        try:
            threading.Thread(target=carry_out, name=f"openfield {operation}", daemon=True).start()
        except RuntimeError:
            self._slots.release()
            return Unavailable("no thread could be started")
        try:
            return outcome.result(max(0.0, ends_at - time.monotonic()))
        except TimeoutError:
            pass
        finally:
            exchange.cut()
        return Unavailable("Openfield took too long", maybe_applied=exchange.is_sent and operation in _WRITES)

    def _post(self, url: str, body: bytes, headers: Mapping[str, str], timeout: float) -> _Answer:
        response = self._session.post(
            url, data=body, headers=headers, timeout=timeout, stream=True, allow_redirects=False
        )
        with response:
            read = bytearray()
            for chunk in response.iter_content(_CHUNK):
                read += chunk
                if len(read) > MAX_BODY:
                    read.clear()
                    break
            retry_after = _retry_after(response.headers.get("Retry-After", ""), datetime.now(UTC))
            return _Answer(response.status_code, retry_after, _parsed(bytes(read)))

    def _understood(self, operation: _Operation, answer: _Answer, read: Callable[[Any], _T]) -> _T | OpenfieldError:
        if answer.status not in range(200, 300):
            return self._refusal(operation, answer)
        try:
            return read(answer.document)
        except ValueError:
            pass
        return Unavailable("Openfield's answer is not one of its protocol", maybe_applied=operation in _WRITES)

    def _refusal(self, operation: _Operation, answer: _Answer) -> OpenfieldError:
        code, variables = wire.read_problem(answer.document, self._parameters)
        error, said, known = next(
            (error, said, known)
            for statuses, known, operations, error, said in _ANSWERS
            if answer.status in statuses and known in ("", code) and operation in operations
        )
        reason = f"{said} ({operation}: {answer.status})"
        if issubclass(error, Unavailable):
            maybe_applied = operation in _WRITES and answer.status != 429
            return error(reason, retry_after=answer.retry_after, maybe_applied=maybe_applied)
        if issubclass(error, Misconfigured):
            return error(reason, certain=bool(known))
        return error(reason, variables) if issubclass(error, Rejected) else error(reason)


def _trouble(error: Exception, *, maybe_applied: bool) -> OpenfieldError:
    """What an exception on the way means. A new error, without the exception: that may hold what was sent."""
    if isinstance(error, OpenfieldError):
        return type(error)(str(error))  # the guard's own, from before anything was sent
    kind, reason = next((kind, reason) for types, kind, reason in _TROUBLES if isinstance(error, types))
    if kind is Unavailable:
        return Unavailable(f"{reason} ({type(error).__name__})", maybe_applied=maybe_applied)
    return kind(reason)


def _parsed(body: bytes) -> Any:
    try:
        return wire.parse(body)
    except ValueError:
        return None


def _retry_after(text: str, now: datetime) -> float | None:
    """The seconds that a Retry-After asks for (RFC 9110, 10.2.3: seconds or a date), at most MAX_RETRY_AFTER."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), MAX_RETRY_AFTER)
    try:
        date = parsedate_to_datetime(text)
        wait = (date if date.tzinfo else date.replace(tzinfo=UTC)) - now
    except (ValueError, OverflowError):
        return None
    return min(max(wait.total_seconds(), 0.0), MAX_RETRY_AFTER)


class Clients:
    """The clients of one process, one per connection; those that were used last are kept.

    Args:
        private_hosts: see `guard.check_url`.
        bulkhead: how many calls each may have under way.
        failures: how many in a row open each one's breaker; infinity for never.
        capacity: how many are kept.
        observe: see OpenfieldClient.
    """

    def __init__(
        self,
        private_hosts: Set[str] = frozenset(),
        *,
        bulkhead: int = 8,
        failures: float = 5,
        capacity: int = 64,
        observe: Observer = _unobserved,
    ) -> None:
        self._private_hosts = private_hosts
        self._bulkhead = bulkhead
        self._failures = failures
        self._capacity = capacity
        self._observe = observe
        self._lock = threading.Lock()
        self._clients: OrderedDict[Connection, OpenfieldClient] = OrderedDict()

    def of(self, connection: Connection) -> OpenfieldClient:
        """The connection's client. Wrong settings are said by its calls."""
        with self._lock:
            client = self._clients.get(connection)
            if client is None:
                client = self._clients[connection] = OpenfieldClient(
                    connection,
                    self._private_hosts,
                    bulkhead=self._bulkhead,
                    breaker=Breaker(self._failures),
                    observe=self._observe,
                )
            self._clients.move_to_end(connection)
            dropped = self._clients.popitem(last=False)[1] if len(self._clients) > self._capacity else None
        if dropped is not None:
            dropped.close()
        return client

    def close(self) -> None:
        """Closes idle connections, and forgets all clients."""
        with self._lock:
            clients = list(self._clients.values())
            self._clients.clear()
        for client in clients:
            client.close()
