"""What can go wrong at Openfield, named by what the caller does next.

    OpenfieldError
    ├── Unavailable            try again later; `maybe_applied` when the call may have taken effect all the same
    │   └── NotAsked           no call was made: this process makes as many as it may, or its breaker is open
    ├── Misconfigured          stop this integration's deliveries and tell an admin
    ├── InvalidCredentials     ask the participant again
    ├── AccountLocked          the participant waits, or resets the password
    └── Rejected               don't send this again
        ├── AccountExists      log in instead
        └── UnknownParty       the record is gone

No error carries a body, a parameter's value or a message of Openfield's: `str(error)` may stand in a log.
"""

from __future__ import annotations

from widget.profile import Variable


class OpenfieldError(Exception):
    """Openfield did not do what it was asked. `str()` is a reason in our own words."""


class Unavailable(OpenfieldError):
    """No answer, too slow an answer, or "not now".

    Attributes:
        retry_after: seconds to wait before the next try, where Openfield or the breaker says how many.
        maybe_applied: the request had left, so that a Create or Update may have happened.
    """

    def __init__(self, reason: str, *, retry_after: float | None = None, maybe_applied: bool = False) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.maybe_applied = maybe_applied


class NotAsked(Unavailable):
    """No call was made, so that it says little about Openfield: too many are under way here, or the breaker is open."""


class Misconfigured(OpenfieldError):
    """The integration's settings are wrong (address, tenant, protocol): no call will work until they change.

    Attributes:
        certain: False where it may be about this one record after all: a firewall in between says 403, too.
    """

    def __init__(self, reason: str, *, certain: bool = True) -> None:
        super().__init__(reason)
        self.certain = certain


class InvalidCredentials(OpenfieldError):
    """There is no such user name with such a password."""


class AccountLocked(OpenfieldError):
    """Openfield has locked the account."""


class Rejected(OpenfieldError):
    """Openfield refuses this record for good.

    Attributes:
        variables: the fields that it names, as far as they are ours.
    """

    def __init__(self, reason: str, variables: frozenset[Variable] = frozenset()) -> None:
        super().__init__(reason)
        self.variables = variables


class AccountExists(Rejected):
    """A Create met an account with the same e-mail or user name; `variables` says which."""


class UnknownParty(Rejected):
    """The record that was to be read or updated is not there (any more)."""
