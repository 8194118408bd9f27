"""`flask demo`: everything starts, can be used, and ends together."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import requests

from tests.processes import end, free_port, is_alive, postmaster, read_until, remove, wait_until
from widget import settings_file
from widget.config import Settings, environment
from widget.openfield.sandbox import ALICE

TOP = Path(__file__).parents[2]

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Path]:
    """A folder for the demo's instance, in a path that has a blank."""
    yield tmp_path / "an instance"
    remove(tmp_path / "an instance")


@pytest.fixture
def start(instance: Path) -> Iterator[Start]:
    """`start(port)` starts a demo in the instance."""
    demos: list[subprocess.Popen[str]] = []

    def start(port: int) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            (sys.executable, "-m", "flask", "demo", "--port", str(port)),
            cwd=TOP, env=environment(WIDGET_INSTANCE=str(instance), PYTHONUNBUFFERED="1"), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        demos.append(process)
        return process

    yield start
    for demo in demos:
        end(demo)


def family(demo: subprocess.Popen[str], instance: Path) -> list[int]:
    """The process ids of a running demo, its parts, and its PostgreSQL."""
    server = postmaster(instance)
    assert server is not None
    return [demo.pid, *(child.pid for child in psutil.Process(demo.pid).children(recursive=True)), server]


def test_the_demo_can_be_used_and_ends_without_a_trace(start: Start, instance: Path) -> None:
    port = free_port()
    demo = start(port)
    said = read_until(demo, "Ctrl-C ends it all.")
    processes = family(demo, instance)
    site, sandbox = (re.findall(r"http://127\.0\.0\.1:\d+/", said)[each] for each in (0, 1))
    assert f"{ALICE.username} / {ALICE.password}" in said

    shown = requests.get(site, timeout=10).text
    (first_screen, *_) = re.findall(r'<iframe src="(http://localhost:\d+/c/[a-z-]+)"', shown)
    response = requests.get(first_screen, timeout=10)
    assert response.status_code == 200
    assert f"frame-ancestors {site.rstrip('/')}" in response.headers["Content-Security-Policy"]
    assert "_URL__" not in shown
    assert requests.get(f"{site}reset.html", timeout=10).ok
    assert requests.get(f"{site}nothing.html", timeout=10).status_code == 404
    assert requests.get(sandbox, timeout=10).ok
    for address in re.findall(r"http://localhost:\d+/c/[a-z-]+", said):
        assert "<html" in requests.get(address, timeout=10).text

    second = start(port)
    told, _ = second.communicate(timeout=60)
    assert second.returncode == 1
    assert f"the demo is running already: {site.rstrip('/')}" in told

    demo.send_signal(signal.SIGINT)
    rest, _ = demo.communicate(timeout=60)
    assert demo.returncode == 0, rest
    assert "Traceback" not in said + rest
    assert [each for each in processes if is_alive(each)] == []


def test_when_one_part_ends_all_end(start: Start, instance: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        demo = start(port)
        said = read_until(demo, "Ctrl-C ends it all.")
    assert f"Port {port} is taken: the widget has " in said
    processes = family(demo, instance)
    (worker,) = (each for each in psutil.Process(demo.pid).children() if "worker" in each.cmdline())

    worker.kill()
    rest, _ = demo.communicate(timeout=60)
    assert demo.returncode == 1
    assert "The worker ended by itself, with exit code -9" in rest
    assert [each for each in processes if is_alive(each)] == []


def test_it_can_be_ended_before_it_is_ready(start: Start, instance: Path) -> None:
    demo = start(free_port())
    wait_until(lambda: postmaster(instance))
    processes = family(demo, instance)
    demo.terminate()
    rest, _ = demo.communicate(timeout=60)
    assert "Traceback" not in rest
    assert [each for each in processes if is_alive(each)] == []


def test_it_leaves_an_external_database_alone(instance: Path, settings: Settings) -> None:
    done = subprocess.run(
        (sys.executable, "-m", "flask", "demo"), cwd=TOP, capture_output=True, text=True,
        env=environment(
            WIDGET_INSTANCE=str(instance), WIDGET_DATABASE_URL="postgresql://127.0.0.1:1/live",
            WIDGET_SECRET_KEY=settings.secret_key, WIDGET_ENCRYPTION_KEYS=",".join(settings.encryption_keys),
        ),
    )  # fmt: skip
    assert (done.returncode, "unset WIDGET_DATABASE_URL" in done.stderr) == (1, True)


def test_its_settings_are_in_order_and_speak_four_languages() -> None:
    text = (TOP / "demo" / "demo.toml").read_text(encoding="utf-8")
    for name in ("SANDBOX", "SITE"):
        text = text.replace(f"__{name}_URL__", "http://127.0.0.1:5001")
    found = settings_file.parse(text, private_hosts=frozenset({"127.0.0.1:5001"}), known=settings_file.SettingsFile())
    assert {campaign.language for campaign in found.campaigns.values()} == {"fr", "nl", "en", "de"}
