"""Where calls may go: the rule for Openfield's URL, and the addresses that a connection may be made to."""

from __future__ import annotations

import socket
import time
from ipaddress import ip_address

import pytest

from widget.openfield import guard
from widget.openfield.errors import Misconfigured, Unavailable
from widget.openfield.guard import Exchange, Gate, check_url, is_public

NONE: frozenset[str] = frozenset()
PUBLIC = ["93.184.216.34", "8.8.8.8", "2606:2800:220:1::1", "::ffff:8.8.8.8", "64:ff9b::808:808"]
NOT_PUBLIC = [
    str(ip_address(0)), "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.9.9.9", "169.254.169.254", "172.16.0.1",
    "192.0.0.8", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:0:8.8.8.8", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::",
    "3fff::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "4000::1",
]  # fmt: skip


# The text of a URL -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "https://openfield.acme.example/ws",
        "https://openfield.acme.example",
        "https://openfield.acme.example:8443/a/b/",
        "https://OPENFIELD.acme.example./ws",
        "https://xn--bcher-kva.example/ws",
        "https://my_host.acme.example/ws",
        "https://8.8.8.8/ws",
        "https://[2606:2800:220:1::1]:8443/ws",
    ],
)
def test_a_public_https_url_is_allowed(url: str) -> None:
    check_url(url, NONE)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_a_literal_address_that_is_not_public_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="URL of Openfield"):
        check_url(f"https://[{address}]/ws" if ":" in address else f"https://{address}/ws", NONE)


@pytest.mark.parametrize("address", ["::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_a_literal_address_that_stands_for_another_one_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="not a public address"):
        check_url(f"https://[{address}]/ws", NONE)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "https://"),
        ("openfield.acme.example/ws", "https://"),
        ("//openfield.acme.example/ws", "https://"),
        ("https:openfield.acme.example", "https://"),
        ("https:/openfield.acme.example", "https://"),
        ("http://openfield.acme.example/ws", "https://"),
        ("ftp://openfield.acme.example/ws", "https://"),
        ("file:///etc/passwd", "https://"),
        ("javascript:alert(1)", "https://"),
        ("https://", "host name"),
        ("https:///ws", "host name"),
        ("https://:443/ws", "host name"),
        ("https://.example/ws", "host name"),
        ("https://acme..example/ws", "host name"),
        ("https://ac%6de.example/ws", "host name"),
        ("https://acme*.example/ws", "host name"),
        ("https://acme.example:0/ws", "port"),
        ("https://acme.example:/ws", "port"),
        ("https://acme.example:99999/ws", "not a URL"),
        ("https://acme.example:x/ws", "not a URL"),
        ("https://[::1/ws", "not a URL"),
        ("https://[fe80::1%25eth0]/ws", "URL"),
        ("https://user:secret@acme.example/ws", "user name or password"),
        ("https://@acme.example/ws", "user name or password"),
        ("https://acme.example#@evil.example/", "user name|fragment"),
        ("https://acme.example/ws?", "query"),
        ("https://acme.example/ws?a=b", "query"),
        ("https://acme.example/ws#", "fragment"),
        ("https://acme.example\\@127.0.0.1/", "backslashes"),
        ("https://acme.example/w s", "spaces"),
        ("https://acme.example/ws\r\nX: y", "spaces"),
        (" https://acme.example/ws", "spaces"),
        ("https://bücher.example/ws", "ASCII"),
        ("https://①②⑦.⓪.⓪.①/ws", "ASCII"),
        ("https://localhost/ws", "not a public host"),
        ("https://LOCALHOST./ws", "not a public host"),
        ("https://ws.localhost/ws", "not a public host"),
        ("https://intranet/ws", "not a public host"),
        ("https://0x7f.1/ws", "IPv4"),
        ("https://0x7f000001/ws", "IPv4"),
        ("https://2130706433/ws", "IPv4"),
        ("https://0177.0.0.1/ws", "IPv4"),
        ("https://127.1/ws", "IPv4"),
        ("https://127.0.0.1./ws", "IPv4"),
        ("https://127.0.0.0x1/ws", "IPv4"),
        ("https://1.2.3.4.5/ws", "IPv4"),
        ("https://256.0.0.1/ws", "IPv4"),
    ],
)
def test_a_url_that_could_lead_elsewhere_is_refused(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        check_url(url, NONE)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "listed"),
    [
        ("http://localhost:8080/ws", "localhost:8080"),
        ("http://LocalHost:8080/ws", "localhost"),
        ("https://127.0.0.1/ws", "127.0.0.1"),
        ("https://intranet/ws", "intranet:443"),
        ("http://intranet/ws", "intranet:80"),
        ("http://[::1]:8080/ws", "::1"),
        ("http://[::1]:8080/ws", "[::1]"),
        ("http://[::1]:8080/ws", "[::1]:8080"),
    ],
)
def test_a_host_that_the_operator_lists_may_be_private_and_plain(url: str, listed: str) -> None:
    check_url(url, {listed})


@pytest.mark.parametrize(
    ("url", "listed"),
    [
        ("http://localhost:8081/ws", "localhost:8080"),
        ("http://ws.localhost/ws", "localhost"),
        ("http://127.1/ws", "127.1"),
        ("http://user@localhost/ws", "localhost"),
        ("http://localhost/ws?a", "localhost"),
        ("ftp://localhost/ws", "localhost"),
        ("http://[::2]/ws", "::1"),
    ],
)
def test_a_listed_host_opens_no_other_door(url: str, listed: str) -> None:
    with pytest.raises(ValueError, match="URL of Openfield"):
        check_url(url, {listed})


# Addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_known(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_other_addresses_are_known(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_one_private_address_among_public_ones_is_enough_to_refuse(address: str) -> None:
    gate = Gate(NONE, lambda host, port: [*PUBLIC, address])
    with pytest.raises(Misconfigured, match="not public"):
        gate.addresses("acme.example", 443, encrypted=True)


def test_a_listed_hosts_addresses_may_be_private() -> None:
    gate = Gate({"acme.internal:8080"}, lambda host, port: ["10.0.0.1"])
    assert gate.addresses("acme.internal", 8080, encrypted=False) == ["10.0.0.1"]
    with pytest.raises(Misconfigured):
        gate.addresses("acme.internal", 8443, encrypted=True)


def test_a_host_that_is_not_listed_is_not_reached_without_encryption() -> None:
    gate = Gate(NONE, lambda host, port: PUBLIC)
    with pytest.raises(Misconfigured, match="https"):
        gate.addresses("acme.example", 80, encrypted=False)


def test_a_name_that_means_nothing_is_unavailable() -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    with pytest.raises(Unavailable, match="resolved") as failure:
        Gate(NONE, unknown).addresses("acme.example", 443, encrypted=True)
    assert not failure.value.maybe_applied
    with pytest.raises(Unavailable):
        Gate(NONE, lambda host, port: []).addresses("acme.example", 443, encrypted=True)


def test_the_systems_resolver_gives_each_address_once() -> None:
    assert guard.resolve("127.0.0.1", 80) == ["127.0.0.1"]
    assert guard.resolve("::1", 80) == ["::1"]


def test_the_address_that_was_judged_is_the_one_that_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is public when asked first, and private when asked again (DNS rebinding)."""
    answers = iter([["93.184.216.34"], ["127.0.0.1"]])
    reached: list[tuple[str, int]] = []

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        reached.append(address)
        return socket.socket()

    monkeypatch.setattr(socket, "create_connection", connect)
    exchange = Exchange(Gate(NONE, lambda host, port: next(answers)), time.monotonic() + 5)
    with exchange:
        exchange.connect("acme.example", 443, encrypted=True).close()
    assert reached == [("93.184.216.34", 443)]
    with exchange, pytest.raises(Misconfigured):
        exchange.connect("acme.example", 443, encrypted=True)
    assert len(reached) == 1


def test_each_address_is_tried_for_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[str, float]] = []

    def silence(address: tuple[str, int], timeout: float) -> socket.socket:
        tried.append((address[0], timeout))
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", silence)
    exchange = Exchange(Gate(NONE, lambda host, port: ["8.8.8.8", "8.8.4.4"]), time.monotonic() + 60)
    with exchange, pytest.raises(Unavailable, match="cannot be reached"):
        exchange.connect("acme.example", 443, encrypted=True)
    (first, share), (second, rest) = tried
    assert (first, second) == ("8.8.8.8", "8.8.4.4")
    assert 25 < share <= 30 < rest <= 60


def test_nothing_is_sent_once_an_exchange_is_cut() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        exchange = Exchange(Gate(), time.monotonic() + 60)
        exchange.cut()
        with exchange, pytest.raises(TimeoutError):
            exchange.sending(ours)
        assert not exchange.is_sent
        assert theirs.recv(1) == b""


def test_nothing_connects_outside_of_an_exchange() -> None:
    with guard.guarded_session(1) as session, pytest.raises(RuntimeError, match="exchange"):
        session.get("http://127.0.0.1:9/", timeout=1)
