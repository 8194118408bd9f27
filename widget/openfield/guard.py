"""Where calls may go: the rule for Openfield's URL (SSRF), and the guarded connection that keeps it.

Not here: what is said (`wire`) and what failures mean (`client`). docs/SECURITY.md has the rule; addresses are judged
by the IANA special-purpose registries (RFC 6890) and numbers by the WHATWG URL standard ("ends in a number").

The rule is kept twice. `check_url` judges the text when it is saved. A name may mean another address at any moment,
though, so a connection resolves it once, judges every address, and connects to exactly one that was judged.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from types import TracebackType
from typing import Any
from urllib.parse import SplitResult, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from widget.openfield.errors import Misconfigured, Unavailable

Address = IPv4Address | IPv6Address

Resolver = Callable[[str, int], Sequence[str]]
"""Host and port → addresses, as texts; raises OSError when there are none."""

DEFAULT_PORTS = {"https": 443, "http": 80}

GLOBAL_UNICAST = IPv6Network("2000::/3")
"""All that IANA has given out of IPv6 so far."""

NAT64 = IPv6Network("64:ff9b::/96")
"""RFC 6052: a network without IPv4 reaches every IPv4 address through these."""

SPECIAL = tuple(map(ip_network, ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2002::/16", "3fff::/20")))
"""Networks of the registries that not every Python's `is_global` knows: relays and tunnels, which embed addresses."""

MAX_IDLE = 4.0
"""Seconds after which a kept connection is not used again: servers commonly close theirs after 5, and a request that
meets the closing is lost without a word on whether it was carried out."""

_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?\.?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

# urllib3 logs headers that it cannot parse, and what follows them: that may be somebody's data.
logging.getLogger("urllib3.connection").addFilter(lambda _: False)


# The rule --------------------------------------------------------------------------------------------------------


def check_url(url: str, private_hosts: Set[str]) -> None:
    """Whether `url` may be an integration's "URL Openfield". Asks no name server.

    https, a public host, nothing but scheme, host, port and path. A host that the operator lists (`name` or
    `name:port`) may be private and plain http. Names without a dot count as private: only a local network has them.

    Raises:
        ValueError: it may not; the message is for an admin.
    """
    parts, host, port = _split(url)
    if not is_listed(host, port, private_hosts):
        if parts.scheme != "https":
            raise ValueError("the URL of Openfield must start with https://")
        _check_public(host)


def _split(url: str) -> tuple[SplitResult, str, int]:
    """The parts of a URL that is one whatever the host, the host in lower case without brackets, and the port.

    Raises:
        ValueError: it is none.
    """
    if not url.isascii() or re.search(r"[\x00-\x20\x7f\\]", url):
        raise ValueError("the URL of Openfield must be plain ASCII without spaces or backslashes")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("the URL of Openfield is not a URL") from None
    if parts.scheme not in DEFAULT_PORTS or not url.startswith(f"{parts.scheme}://"):
        raise ValueError("the URL of Openfield must start with https://")
    if "@" in parts.netloc:
        raise ValueError("the URL of Openfield must not have a user name or password in it")
    if "?" in url or "#" in url:
        raise ValueError("the URL of Openfield must not have a query or a fragment")
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError("the port in the URL of Openfield is not one")
    _check_host(host, bracketed="[" in parts.netloc)
    return parts, host, DEFAULT_PORTS[parts.scheme] if port is None else port


def _check_host(host: str, *, bracketed: bool) -> None:
    if bracketed:
        if _address(host) is None or "%" in host:
            raise ValueError("the URL of Openfield has an IPv6 address that is not one")
        return
    if not _HOST.fullmatch(host) or ".." in host:
        raise ValueError("the URL of Openfield has no usable host name (write international names as xn--…)")
    last = host.rstrip(".").rsplit(".", 1)[-1]
    if _NUMBER.fullmatch(last) and _address(host) is None:
        raise ValueError("the URL of Openfield has an IPv4 address in a spelling other than 192.0.2.1")


def _check_public(host: str) -> None:
    address = _address(host)
    if address is not None:
        if not is_public(address) or embedded(address) is not None:
            raise ValueError(f"the URL of Openfield names {host}, which is not a public address")
        return
    name = host.rstrip(".")
    if "." not in name or name.endswith(".localhost"):
        raise ValueError(f"the URL of Openfield names {host}, which is not a public host")


def _address(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def is_listed(host: str, port: int, private_hosts: Set[str]) -> bool:
    """Whether the operator lists this host (`name`, `name:port`; IPv6 in brackets or, without port, bare)."""
    name = host.lower()
    spellings = {name, f"[{name}]", f"[{name}]:{port}"} if ":" in name else {name, f"{name}:{port}"}
    return not spellings.isdisjoint(private_hosts)


def embedded(address: Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for (IPv4-mapped, NAT64)."""
    if isinstance(address, IPv4Address):
        return None
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped


def is_public(address: Address) -> bool:
    """Whether the address is one host's on the internet. One that stands for an IPv4 address is judged by that."""
    address = embedded(address) or address
    if isinstance(address, IPv6Address) and address not in GLOBAL_UNICAST:
        return False
    if address.is_multicast or address.is_reserved or not address.is_global:
        return False
    return not any(address in network for network in SPECIAL)


# The guarded connection ------------------------------------------------------------------------------------------


def resolve(host: str, port: int) -> Sequence[str]:
    """What the system's resolver says."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


@dataclass(frozen=True, slots=True)
class Gate:
    """Decides which addresses a connection may be made to."""

    private_hosts: Set[str] = frozenset()
    resolve: Resolver = resolve

    def addresses(self, host: str, port: int, *, encrypted: bool) -> Sequence[str]:
        """The addresses of `host`, each of which may be connected to.

        Raises:
            Misconfigured: one of them is not public, or the connection is not encrypted, and the host is not listed.
            Unavailable: the name means nothing at the moment.
        """
        listed = is_listed(host, port, self.private_hosts)
        if not (listed or encrypted):
            raise Misconfigured("the URL of Openfield must start with https://")
        try:
            addresses = self.resolve(host, port)
        except (OSError, UnicodeError):
            addresses = ()
        if not addresses:
            raise Unavailable("the name of Openfield's host cannot be resolved")
        if not listed and not all(is_public(ip_address(address)) for address in addresses):
            raise Misconfigured(f"the URL of Openfield names {host}, which has an address that is not public")
        return addresses


class Exchange:
    """One request and its answer, as far as sockets go: where it may connect, until when, and how to cut it off.

    The thread that carries it out enters it; whoever waits for it may `cut` it. `requests` limits each read only, so an
    answer that drips would never end; cutting ends whatever the thread is waiting for, but a name server.
    """

    def __init__(self, gate: Gate, ends_at: float) -> None:
        """`ends_at` is a time of `time.monotonic`."""
        self._gate = gate
        self._ends_at = ends_at
        self._lock = threading.Lock()
        self._line: socket.socket | None = None
        self._is_cut = False
        self.is_sent = False
        """Whether anything of the request may have left. Final once the exchange is cut."""

    def __enter__(self) -> None:
        _underway.set(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _underway.set(None)
        with self._lock:
            self._hold(None)

    def cut(self) -> None:
        """Ends it now: nothing more is sent or read."""
        with self._lock:
            self._is_cut = True
            if self._line is not None:
                with suppress(OSError):  # the other side was faster
                    self._line.shutdown(socket.SHUT_RDWR)
            self._hold(None)

    def remaining(self) -> float:
        """Seconds that are left.

        Raises:
            TimeoutError: none.
        """
        remaining = self._ends_at - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        return remaining

    def connect(self, host: str, port: int, *, encrypted: bool) -> socket.socket:
        """A TCP connection to one of the host's addresses, each of which is tried for its share of the time.

        Raises:
            Misconfigured, Unavailable: see `Gate.addresses`; or nobody answers there.
        """
        addresses = self._gate.addresses(host, port, encrypted=encrypted)
        for position, address in enumerate(addresses):
            try:
                line = socket.create_connection((address, port), self.remaining() / (len(addresses) - position))
            except OSError:
                continue
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._watched(line)
        raise Unavailable("Openfield's host cannot be reached")

    def sending(self, line: socket.socket) -> None:
        """Is told before anything is sent.

        Raises:
            TimeoutError: the exchange was cut, or its time is over: nothing may be sent.
        """
        self._watched(line, sending=True)

    def _watched(self, line: socket.socket, *, sending: bool = False) -> socket.socket:
        try:
            line.settimeout(self.remaining())
        except TimeoutError:
            line.close()
            raise
        with self._lock:
            # A descriptor of our own: TLS moves the connection to another object, and a closed one's number is reused.
            self._hold(socket.socket(fileno=os.dup(line.fileno())))
            if self._is_cut:
                self._hold(None)
                line.close()
                raise TimeoutError
            self.is_sent = self.is_sent or sending
        return line

    def _hold(self, line: socket.socket | None) -> None:
        if self._line is not None:
            self._line.close()
        self._line = line


_underway: ContextVar[Exchange | None] = ContextVar("_underway", default=None)


def _exchange() -> Exchange:
    """The exchange of this thread; outside of one, nothing connects."""
    exchange = _underway.get()
    if exchange is None:
        raise RuntimeError("a guarded connection is for an exchange only")
    return exchange


class _GuardedConnection(HTTPConnection):
    """Connects through the exchange under way. TLS still names, and checks the certificate for, the host."""

    _last_sent_at = 0.0

    def _new_conn(self) -> socket.socket:
        encrypted = isinstance(self, HTTPSConnection)
        return _exchange().connect(self.host, self.port, encrypted=encrypted)

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        _exchange().sending(self.sock)
        self._last_sent_at = time.monotonic()
        super().send(data)

    @property
    def is_connected(self) -> bool:
        return time.monotonic() - self._last_sent_at < MAX_IDLE and super().is_connected


class _GuardedTLSConnection(_GuardedConnection, HTTPSConnection):
    def connect(self) -> None:
        try:
            super().connect()
        except ssl.SSLCertVerificationError:
            raise Misconfigured(f"the certificate that {self.host} shows is not valid") from None


class _Pool(HTTPConnectionPool):
    ConnectionCls = _GuardedConnection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _GuardedTLSConnection


class _Adapter(HTTPAdapter):
    """Its default of max_retries sends nothing twice."""

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **pool_kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: requests would otherwise read a redirect's whole body, however long, even when told not to follow."""


def guarded_session(size: int, ca_bundle: str | None = None) -> requests.Session:
    """A session that keeps up to `size` connections and nothing else: no cookies, proxies, redirects or environment.

    Args:
        ca_bundle: path to the certificate authorities to trust, if not the public ones.
    """
    session = _Session()
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.verify = ca_bundle or True
    adapter = _Adapter(pool_connections=2, pool_maxsize=size)
    for scheme in ("https://", "http://"):
        session.mount(scheme, adapter)
    return session
