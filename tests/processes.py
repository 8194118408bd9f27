"""Processes that tests start, and what they leave: ports, databases, conditions to wait for."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import requests


def free_port() -> int:
    """A port that nobody listens at, for a process that is to listen at it."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Returns as soon as the condition holds.

    Raises:
        AssertionError: it does not come to hold.
    """
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} seconds in vain"
        pause.wait(0.02)


def answers(url: str) -> bool:
    """Whether somebody listens there and says that all is well."""
    try:
        return requests.get(url, timeout=10).ok
    except requests.ConnectionError:
        return False


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """What the process says on its standard output, up to the line with these words.

    Raises:
        AssertionError: it ended before.
    """
    said = ""
    for line in process.stdout or ():
        said += line
        if words in line:
            return said
    raise AssertionError(f"it ended before it said {words!r}: {said}")


def end(process: subprocess.Popen[str]) -> None:
    """Kills a process with its children, unless it has ended."""
    if process.poll() is None:
        for each in psutil.Process(process.pid).children(recursive=True):
            each.kill()
        process.kill()
    process.communicate()


def is_alive(pid: int) -> bool:
    """Whether the process runs: one that has ended and was not yet buried does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def postmaster(instance: Path) -> int | None:
    """The process id of an instance's PostgreSQL, if it runs."""
    data = str((instance / "postgres" / "data").resolve())
    for process in psutil.process_iter():
        try:
            if _is_postgres(process) and process.cwd() == data and not _is_postgres(process.parent()):
                return process.pid
        except psutil.Error:
            continue
    return None


def _is_postgres(process: psutil.Process | None) -> bool:
    return process is not None and process.name() == "postgres"


def remove(instance: Path) -> None:
    """Deletes an instance folder and its database, wherever that is."""
    shutil.rmtree((instance / "postgres").resolve(), ignore_errors=True)
    shutil.rmtree(instance, ignore_errors=True)
