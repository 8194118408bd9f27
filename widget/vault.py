"""Seals what is personal and hashes what is secret, so that the database alone gives nothing away.

Not here: where the keys come from (`config`). Sealing is Fernet (AES-128-CBC with HMAC-SHA256) under the newest key;
opening tries every key, so keys rotate by putting a new one in front.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import zlib
from collections.abc import Sequence
from typing import Any

import simplejson
from cryptography.fernet import Fernet, InvalidToken, MultiFernet


class Sealed(Exception):
    """What was to be opened is forged, too old, of another purpose, or sealed with a key that is gone."""


class Vault:
    """Holds the keys; a process has one.

    Args:
        keys: Fernet keys (32 bytes, URL-safe base64), newest first.
        secret: the key of the hashes; a change of it forgets throttles and open visits, nothing else.
    """

    def __init__(self, keys: Sequence[str], secret: str) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys])
        self._secret = secret.encode()

    def seal(self, purpose: str, data: Any) -> bytes:
        """Seals JSON data (decimals kept exact) for one purpose."""
        text = simplejson.dumps([purpose, data], use_decimal=True, separators=(",", ":"))
        return self._fernet.encrypt(zlib.compress(text.encode()))

    def open(self, purpose: str, token: bytes, max_age: int | None = None) -> Any:
        """What was sealed for `purpose`, at most `max_age` seconds ago.

        Raises:
            Sealed: it can't be opened.
        """
        try:
            text = zlib.decompress(self._fernet.decrypt(token, ttl=max_age))
        except (InvalidToken, zlib.error):
            raise Sealed("cannot be opened") from None
        sealed_for, data = simplejson.loads(text, use_decimal=True)
        if sealed_for != purpose:
            raise Sealed("sealed for another purpose")
        return data

    def digest(self, purpose: str, *parts: str) -> bytes:
        """A keyed hash (HMAC-SHA256, 32 bytes) that finds a secret again without keeping it."""
        message = simplejson.dumps([purpose, *parts])  # so that it matters where a part ends
        return hmac.new(self._secret, message.encode(), hashlib.sha256).digest()


def new_handle() -> str:
    """256 random bits, as URL-safe text."""
    return secrets.token_urlsafe(32)
