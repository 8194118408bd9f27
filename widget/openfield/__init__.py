"""Door 2: Openfield's webservice. Nobody outside of this package knows its words.

client.py    the calls, their deadlines, the table of failures
wire.py      Profile ↔ their JSON, pure
guard.py     where calls may go, and the connection that keeps to it
breaker.py   when calls are spared
errors.py    what can go wrong, named by what to do next
sandbox/     an Openfield to develop against; a program of its own, which nothing here imports
"""

from widget.openfield.client import Clients, Connection, OpenfieldClient
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
from widget.openfield.wire import Record, Stored

__all__ = [
    "AccountExists",
    "AccountLocked",
    "Clients",
    "Connection",
    "InvalidCredentials",
    "Misconfigured",
    "NotAsked",
    "OpenfieldClient",
    "OpenfieldError",
    "Record",
    "Rejected",
    "Stored",
    "Unavailable",
    "UnknownParty",
]
