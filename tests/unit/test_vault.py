"""Sealing and hashing."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from widget.vault import Sealed, Vault, new_handle

OLD, NEW = (Fernet.generate_key().decode() for _ in range(2))
SECRET = "a secret of the tests, long enough"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=10,
)


@given(JSON)
def test_what_was_sealed_opens_as_it_was(data: Any) -> None:
    vault = Vault([NEW], SECRET)
    assert vault.open("test", vault.seal("test", data)) == data


def test_decimals_stay_exact() -> None:
    vault = Vault([NEW], SECRET)
    assert str(vault.open("test", vault.seal("test", Decimal("1.10")))) == "1.10"


def test_nothing_of_the_content_shows() -> None:
    token = Vault([NEW], SECRET).seal("test", "c4n4ry" * 10)
    assert b"c4n4ry" not in token


def test_keys_rotate_by_putting_a_new_one_in_front() -> None:
    before = Vault([OLD], SECRET).seal("test", 1)
    after = Vault([NEW, OLD], SECRET)
    assert after.open("test", before) == 1
    with pytest.raises(Sealed):
        Vault([OLD], SECRET).open("test", after.seal("test", 1))


@pytest.mark.parametrize("token", [b"", b"x", b"\xff", Fernet(NEW).encrypt(b"no zlib")])
def test_what_is_not_ours_is_not_opened(token: bytes) -> None:
    with pytest.raises(Sealed):
        Vault([NEW], SECRET).open("test", token)


def test_a_token_is_good_for_its_purpose_only() -> None:
    vault = Vault([NEW], SECRET)
    with pytest.raises(Sealed):
        vault.open("another", vault.seal("test", 1))


def test_a_token_can_be_too_old() -> None:
    vault = Vault([NEW], SECRET)
    with pytest.raises(Sealed):
        vault.open("test", vault.seal("test", 1), max_age=-1)


def test_a_hash_depends_on_key_purpose_and_where_its_parts_end() -> None:
    vault = Vault([NEW], SECRET)
    assert vault.digest("a", "bc") == Vault([OLD], SECRET).digest("a", "bc")
    assert vault.digest("a", "bc") != Vault([NEW], SECRET + "!").digest("a", "bc")
    assert len({vault.digest("a", "b", "c"), vault.digest("a", "bc"), vault.digest("ab", "c"), vault.digest("a")}) == 4
    assert vault.digest("a", "b\x00c") != vault.digest("a", "b", "c")


def test_a_handle_has_256_bits_and_is_never_the_same() -> None:
    handles = {new_handle() for _ in range(100)}
    assert len(handles) == 100
    assert {len(handle) for handle in handles} == {43}
