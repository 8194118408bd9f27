"""The settings that an operator gives, and the only reader of the environment.

Not here: what marketers and admins set (`rules`, kept in the database).
"""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.fernet import Fernet

DEFAULT_PUBLIC_URL = "http://localhost:5000"

DEFAULT_PORTS = {"http": "80", "https": "443"}

ORIGIN = re.compile(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?/?")
"""As browsers send it in `Origin`, but for the slash at its end."""

MIN_SECRET_LENGTH = 32
"""In characters."""


class BadEnvironment(Exception):
    """A variable of the environment is missing or unusable; the message says which, and what to do."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What one process runs with.

    Attributes:
        database_url: PostgreSQL's address, or None for the embedded one under `instance`.
        instance: the folder of the embedded database and of generated secrets.
        secret_key, encryption_keys: see `vault`.
        public_url: the address that participants' browsers use, without a slash at its end.
        private_hosts: hosts (`name` or `name:port`) that an Openfield URL may name though private or plain http.
        proxy_hops: how many `X-Forwarded-*` hops are trusted.
        deliveries_at_once: how many of one integration's deliveries may be under way, over all processes together.
    """

    instance: Path
    secret_key: str = field(repr=False)
    encryption_keys: tuple[str, ...] = field(repr=False)
    database_url: str | None = field(default=None, repr=False)
    public_url: str = DEFAULT_PUBLIC_URL
    private_hosts: frozenset[str] = frozenset()
    proxy_hops: int = 0
    deliveries_at_once: int = 32

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """The settings of the environment's `WIDGET_*` variables; each may also come as a file, named by `NAME_FILE`.

        Without an external database, secrets that are not given are made and kept in the instance folder.

        Raises:
            BadEnvironment: a variable is missing or unusable.
        """
        env = _Environment(os.environ if environ is None else environ)
        instance = Path(env.get("WIDGET_INSTANCE") or "instance").absolute()
        database_url = env.get("WIDGET_DATABASE_URL") or None
        secret_key = env.get("WIDGET_SECRET_KEY")
        keys = env.get("WIDGET_ENCRYPTION_KEYS")
        if database_url is None:
            secret_key = secret_key or _generated(instance / "secret_key", lambda: secrets.token_urlsafe(48))
            keys = keys or _generated(instance / "encryption_keys", lambda: Fernet.generate_key().decode())
        return cls(
            instance=instance,
            database_url=database_url,
            secret_key=_checked_secret(secret_key),
            encryption_keys=_checked_keys(keys),
            public_url=_checked_url(env.get("WIDGET_PUBLIC_URL") or DEFAULT_PUBLIC_URL),
            private_hosts=frozenset(_listed(env.get("WIDGET_OPENFIELD_PRIVATE_HOSTS").lower())),
            proxy_hops=_checked_hops(env.get("WIDGET_PROXY_HOPS") or "0"),
            deliveries_at_once=_checked_limit(env.get("WIDGET_DELIVERIES_AT_ONCE") or "32"),
        )


def environment(**variables: str) -> dict[str, str]:
    """The environment for a process that we start: our own, with these variables set."""
    return {**os.environ, **variables}


def share_metrics(folder: Path) -> None:
    """Has prometheus-client count into files in this folder; in processes that we start, too.

    It asks the environment, once, when it is first imported.

    Raises:
        BadEnvironment: the folder cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BadEnvironment(f"WIDGET_INSTANCE must be a folder that can be written: {error}") from None
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)


def shared_metrics() -> Path | None:
    """The folder that processes count into together; None when each counts for itself."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return Path(folder) if folder else None


class _Environment:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def get(self, name: str) -> str:
        """The variable, or what the file that NAME_FILE names holds, or ''."""
        path = self._environ.get(f"{name}_FILE")
        if not path:
            return self._environ.get(name, "").strip()
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BadEnvironment(f"{name}_FILE names {path}, which cannot be read: {error}") from None


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _generated(path: Path, make: Callable[[], str]) -> str:
    """The secret in the file; made, for its owner alone, the first time. Safe when two processes start at once."""
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_secret(path, make())
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise BadEnvironment(f"WIDGET_INSTANCE must be a folder that can be written: {error}") from None


def _write_secret(path: Path, secret: str) -> None:
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    with open(handle, "w", encoding="utf-8") as file:
        file.write(secret)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass  # another process was first: its secret counts
    finally:
        Path(draft).unlink()


def _checked_secret(secret: str) -> str:
    if len(secret) < MIN_SECRET_LENGTH:
        raise BadEnvironment(
            f"WIDGET_SECRET_KEY must have {MIN_SECRET_LENGTH} characters or more"
            "; with an external database it has no default"
        )
    return secret


def _checked_keys(text: str) -> tuple[str, ...]:
    keys = _listed(text)
    if not keys:
        raise BadEnvironment("WIDGET_ENCRYPTION_KEYS must name a key; with an external database it has no default")
    for position, key in enumerate(keys, 1):
        try:
            Fernet(key)
        except ValueError:
            raise BadEnvironment(
                f"key {position} of WIDGET_ENCRYPTION_KEYS is not 32 bytes in URL-safe base64"
            ) from None
    return keys


def _checked_url(text: str) -> str:
    match = ORIGIN.fullmatch(text.lower())
    if match is None:
        raise BadEnvironment("WIDGET_PUBLIC_URL must be an origin, such as https://widget.example")
    scheme, host, port = match.groups()
    return f"{scheme}://{host}" if port in (None, DEFAULT_PORTS[scheme]) else f"{scheme}://{host}:{port}"


def _checked_limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1000):
        raise BadEnvironment("WIDGET_DELIVERIES_AT_ONCE is a number from 1 to 1000")
    return int(text)


def _checked_hops(text: str) -> int:
    if not text.isdecimal():
        raise BadEnvironment("WIDGET_PROXY_HOPS must be a number, 0 or more")
    return int(text)
