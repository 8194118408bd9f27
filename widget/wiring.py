"""What one process runs with, wired once: settings, database, vault, metrics, Openfield's clients.

Not here: anything that decides. `app`, `jobs` and `cli` make one; verbs are handed it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from widget.config import Settings
from widget.db import Database
from widget.metrics import Metrics
from widget.models import Integration
from widget.openfield import Clients, Connection, OpenfieldClient
from widget.vault import Vault


@dataclass(frozen=True, slots=True)
class Wiring:
    """One per process. Nothing is connected until it is first used."""

    settings: Settings
    database: Database
    vault: Vault
    clients: Clients
    metrics: Metrics = field(default_factory=Metrics)

    @classmethod
    def of(cls, settings: Settings) -> Wiring:
        """The wiring for these settings."""
        metrics = Metrics()
        return cls(
            settings=settings,
            database=Database(settings),
            vault=Vault(settings.encryption_keys, settings.secret_key),
            clients=Clients(settings.private_hosts, observe=metrics.call),
            metrics=metrics,
        )

    def for_worker(self, at_once: int) -> Wiring:
        """The same with clients for a worker of so many deliveries at once: without breakers, since for deliveries
        `circuit` decides, for all workers alike."""
        clients = Clients(self.settings.private_hosts, bulkhead=at_once, failures=math.inf, observe=self.metrics.call)
        return replace(self, clients=clients)

    def openfield(self, integration: Integration) -> OpenfieldClient:
        """The client of this integration as it is set now."""
        return self.clients.of(Connection.of(integration))

    def close(self) -> None:
        """Ends connections, and the embedded database with the last process that uses it."""
        self.clients.close()
        self.database.close()
