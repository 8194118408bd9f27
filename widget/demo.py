"""What `flask demo` runs: a sandbox Openfield, the widget, a worker, and a campaign site that embeds the widget.

To a browser, the widget's `localhost` and the campaign site's `127.0.0.1` are different sites, as in real life. The
parts are processes of their own, but for the campaign site, which is a few files. They end together: when one does,
on Ctrl-C, and on SIGTERM.

Not here: what they do. The settings are in `demo/demo.toml`, the site's pages in `demo/site`.
"""

from __future__ import annotations

import fcntl
import http.client
import mimetypes
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import Empty, SimpleQueue
from urllib.parse import urlsplit

import click
from flask import Flask, Response, abort

from widget import migrations, rules, settings_file
from widget.config import environment
from widget.openfield.sandbox import PEOPLE, serving
from widget.wiring import Wiring

TOP = Path(__file__).parents[1]
DEMO = TOP / "demo"

SOON = "2100-01-01T00:00:00Z"
"""What stands in demo.toml for a time that is not yet."""

READY_SECONDS = 60
END_SECONDS = 40
"""How long the parts may take to start, and to end: more than a request and a delivery may."""


class Ended(Exception):
    """It is time for all to end. `str()` says why; `orderly` whether that is as it should be."""

    def __init__(self, why: str, *, orderly: bool) -> None:
        super().__init__(why)
        self.orderly = orderly


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the parts are."""

    widget: str
    sandbox: str
    site: str

    def put_into(self, text: str) -> str:
        """The text with these addresses where it has `__WIDGET_URL__`, `__SANDBOX_URL__` and `__SITE_URL__`."""
        for name, url in (("WIDGET", self.widget), ("SANDBOX", self.sandbox), ("SITE", self.site)):
            text = text.replace(f"__{name}_URL__", url)
        return text


def run_demo(wiring: Wiring, port: int) -> None:
    """Runs everything until Ctrl-C, SIGTERM, or the end of a part.

    Args:
        port: the widget's; the sandbox and the site have the next two. Where one is taken, the next free one is used.

    Raises:
        click.ClickException: it runs already, or a part ended by itself.
    """
    if wiring.settings.database_url is not None:
        raise click.ClickException("the demo would write its settings into your database: unset WIDGET_DATABASE_URL")
    events = _Events()
    with ExitStack() as stack:
        say_where = stack.enter_context(_alone(wiring.settings.instance))
        addresses = _choose_addresses(port)
        say_where(addresses.site)
        _set_up(wiring, addresses)
        stack.enter_context(serving(create_site(addresses), port=int(_port(addresses.site))))
        parts = stack.enter_context(_Parts(events, _variables(wiring, addresses)))
        parts.start("sandbox", "sandbox", "--port", _port(addresses.sandbox))
        parts.start("widget", "serve", "--workers", "2", "--log", "words", "--port", _port(addresses.widget))
        parts.start("worker", "worker", "--log", "words")
        try:
            for url in (addresses.sandbox, f"{addresses.widget}/readyz", addresses.site):
                _wait_for(url, events)
            _tell(wiring, addresses)
            events.wait()
        except Ended as ended:
            click.echo(f"{ended}: ending the demo.")
            if not ended.orderly:
                raise click.exceptions.Exit(1) from None


def _variables(wiring: Wiring, addresses: Addresses) -> dict[str, str]:
    """What the parts' environment has to say."""
    return {
        "PYTHONUNBUFFERED": "1",
        "WIDGET_INSTANCE": str(wiring.settings.instance),
        "WIDGET_PUBLIC_URL": addresses.widget,
        "WIDGET_OPENFIELD_PRIVATE_HOSTS": ",".join(_private_hosts(wiring, addresses)),
    }


# Before the start -------------------------------------------------------------------------------------------------


def _choose_addresses(first: int) -> Addresses:
    ports: list[int] = []
    for wanted, name in enumerate(("widget", "sandbox", "campaign site"), first):
        port = next((port for port in range(wanted, 65536) if port not in ports and _is_free(port)), None)
        if port is None:
            raise click.ClickException(f"there is no free port from {wanted} on for the {name}")
        if port != wanted:
            click.echo(f"Port {wanted} is taken: the {name} has {port}.")
        ports.append(port)
    widget, sandbox, site = ports
    return Addresses(f"http://localhost:{widget}", f"http://127.0.0.1:{sandbox}", f"http://127.0.0.1:{site}")


def _is_free(port: int) -> bool:
    """Whether nobody listens there, over IPv6 either: browsers may try that first for `localhost`."""
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            if probe.connect_ex((host, port)) == 0:
                return False
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def _port(url: str) -> str:
    return url.rpartition(":")[2]


@contextmanager
def _alone(instance: Path) -> Iterator[Callable[[str], object]]:
    """Keeps a second demo off the instance: it would put its own addresses in the place of the first one's.

    Gives a function that takes the address which the second one is told.
    """
    instance.mkdir(parents=True, exist_ok=True)
    with (instance / "demo.lock").open("a+", encoding="utf-8", buffering=1) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            where = lock.read().strip() or "another terminal"
            raise click.ClickException(f"the demo is running already: {where}") from None
        lock.truncate(0)
        yield lambda address: lock.write(f"{address}\n")


def _private_hosts(wiring: Wiring, addresses: Addresses) -> frozenset[str]:
    return wiring.settings.private_hosts | {urlsplit(addresses.sandbox).netloc, urlsplit(addresses.site).netloc}


def _set_up(wiring: Wiring, addresses: Addresses) -> None:
    """Brings the tables and the settings up to date."""
    text = addresses.put_into((DEMO / "demo.toml").read_text(encoding="utf-8"))
    text = text.replace(SOON, (datetime.now(UTC) + timedelta(weeks=2)).isoformat(timespec="seconds"))
    migrations.upgrade(wiring.database)
    with wiring.database.session() as session:
        known = settings_file.stored(session)
        hosts = _private_hosts(wiring, addresses)
        settings_file.apply(session, settings_file.parse(text, private_hosts=hosts, known=known))
        session.commit()


# The campaign site ------------------------------------------------------------------------------------------------


def create_site(addresses: Addresses) -> Flask:
    """The pages of `demo/site`, with the addresses put in."""
    site = Flask("demo site", root_path=str(DEMO), static_folder=None)
    pages = {path.name: path for path in (DEMO / "site").iterdir()}

    @site.get("/", defaults={"name": "index.html"})
    @site.get("/<name>")
    def page(name: str) -> Response:
        if name not in pages:
            abort(404)
        kind, _ = mimetypes.guess_type(name)
        return Response(addresses.put_into(pages[name].read_text(encoding="utf-8")), mimetype=kind)

    return site


# The parts --------------------------------------------------------------------------------------------------------


class _Events:
    """What ends the demo: a signal, or a part that ended."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Ended] = SimpleQueue()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: self.put(Ended(signal.Signals(number).name, orderly=True)))

    def put(self, event: Ended) -> None:
        self._queue.put(event)

    def wait(self, seconds: float | None = None) -> None:
        """Raises: Ended: as soon as something ended; nothing, when nothing did for some seconds."""
        try:
            raise self._queue.get(timeout=seconds)
        except Empty:
            return


class _Parts:
    """The processes of the demo. Leaving the context ends them all."""

    COLOURS: Mapping[str, str] = {"sandbox": "magenta", "widget": "cyan", "worker": "yellow"}

    def __init__(self, events: _Events, variables: Mapping[str, str]) -> None:
        self._events = events
        self._environment = environment(**variables)
        self._processes: list[subprocess.Popen[str]] = []
        self._threads: list[threading.Thread] = []
        self._ending = threading.Event()

    def __enter__(self) -> _Parts:
        return self

    def start(self, name: str, *command: str) -> None:
        """Starts `flask <command>`, out of reach of the terminal's Ctrl-C: the demo ends its parts in order."""
        process = subprocess.Popen(
            (sys.executable, "-m", "flask", "--app", "wsgi", *command),
            cwd=TOP, env=self._environment, start_new_session=True, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._processes.append(process)
        thread = threading.Thread(target=self._follow, args=(name, process), daemon=True)
        thread.start()
        self._threads.append(thread)

    def _follow(self, name: str, process: subprocess.Popen[str]) -> None:
        """Passes on what the process says, until it ends."""
        prefix = click.style(f"{name:>8} ", fg=self.COLOURS[name])
        for line in process.stdout or ():
            click.echo(prefix + line.rstrip("\n"))
        code = process.wait()
        if not self._ending.is_set():
            self._events.put(Ended(f"The {name} ended by itself, with exit code {code}", orderly=False))

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        for thread in self._threads:
            thread.join(END_SECONDS)


def _wait_for(url: str, events: _Events) -> None:
    """Returns when the address answers with 200.

    Raises:
        Ended: something ended before, or it takes too long.
    """
    deadline = datetime.now(UTC) + timedelta(seconds=READY_SECONDS)
    while not _answers(url):
        if datetime.now(UTC) > deadline:
            raise Ended(f"{url} did not answer within {READY_SECONDS} seconds", orderly=False)
        events.wait(0.1)


def _answers(url: str) -> bool:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


# What the person at the terminal is told --------------------------------------------------------------------------


def _tell(wiring: Wiring, addresses: Addresses) -> None:
    with wiring.database.session() as session:
        rows = [
            (f"{addresses.widget}/c/{slug}", f"{campaign.language}, {_standing(campaign)}: {campaign.name}")
            for slug, campaign in settings_file.stored(session).campaigns.items()
        ]
    people = [(f"{person.username} / {person.password}", person.about) for person in PEOPLE]
    parts: Sequence[tuple[str, Sequence[tuple[str, str]]]] = (
        ("Open in a browser", [(f"{addresses.site}/", "the campaign site, which embeds the widget")]),
        ("Log in as", people),
        ("See what reached Openfield", [(f"{addresses.sandbox}/", "the sandbox: records, calls, faults on demand")]),
        ("The campaigns by themselves", rows),
    )
    width = max(len(left) for _, lines in parts for left, _ in lines)
    click.echo()
    for heading, lines in parts:
        click.secho(heading, bold=True)
        for left, right in lines:
            click.echo(f"  {left:<{width}}  {right}")
        click.echo()
    click.secho("Ctrl-C ends it all.", bold=True)


def _standing(campaign: rules.Campaign) -> str:
    now = datetime.now(UTC)
    if campaign.closes_at and campaign.closes_at <= now:
        return "over"
    return "not yet open" if campaign.opens_at and campaign.opens_at > now else "open"
