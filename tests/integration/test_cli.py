"""The commands, as an operator types them."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests
import tomlkit
from click.testing import Result
from flask import Flask
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from tests import factories
from tests.processes import answers, end, free_port, postmaster, read_until, remove, wait_until
from widget.app import create_app
from widget.config import Settings, environment
from widget.models import Campaign

TOP = Path(__file__).parents[2]

Run = Callable[..., Result]
Start = Callable[..., subprocess.Popen[str]]


def runner(settings: Settings) -> Run:
    """`run("db", "current")` runs a command with these settings."""
    app: Flask = create_app(settings)
    return lambda *command: app.test_cli_runner().invoke(args=[str(part) for part in command])


@pytest.fixture
def run(settings: Settings, session: Session) -> Run:
    """Runs commands on the migrated database."""
    return runner(settings)


@pytest.fixture
def fresh(settings: Settings, tmp_path: Path) -> Iterator[Settings]:
    """Settings for an instance that nothing has been done with."""
    instance = tmp_path / "instance"
    yield replace(settings, instance=instance)
    remove(instance)


@pytest.fixture
def start(settings: Settings) -> Iterator[Start]:
    """`start("serve", "--port", …)` starts a command as a process, with the test's settings or others."""
    processes: list[subprocess.Popen[str]] = []

    def start(*command: str, settings: Settings = settings) -> subprocess.Popen[str]:
        variables = {
            "WIDGET_INSTANCE": str(settings.instance),
            "WIDGET_SECRET_KEY": settings.secret_key,
            "WIDGET_ENCRYPTION_KEYS": ",".join(settings.encryption_keys),
            "PYTHONUNBUFFERED": "1",
        }
        process = subprocess.Popen(
            (sys.executable, "-m", "flask", *command), cwd=TOP, env=environment(**variables), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        end(process)


@pytest.fixture
def file(tmp_path: Path, settings: Settings) -> Path:
    """A settings file with one campaign."""
    path = tmp_path / "settings.toml"
    (host,) = settings.private_hosts
    wanted = factories.settings(
        openfield_url=f"http://{host}", origins=["https://news.example"], campaign=[factories.campaign()]
    )
    path.write_text(tomlkit.dumps(wanted), encoding="utf-8")
    return path


# db ---------------------------------------------------------------------------------------------------------------


def test_the_tables_are_brought_up_to_date_and_compared(fresh: Settings) -> None:
    run = runner(fresh)
    assert run("db", "current").output == "none\n"
    refused = run("db", "check")
    assert refused.exit_code == 1
    assert "flask db upgrade" in refused.output

    assert run("db", "upgrade").exit_code == 0
    assert run("db", "upgrade").exit_code == 0
    assert run("db", "current").output.strip().isdecimal()
    assert run("db", "check").exit_code == 0


def test_commands_that_need_tables_say_how_to_get_them(fresh: Settings, file: Path) -> None:
    run = runner(fresh)
    for command in (["serve"], ["worker"], ["config", "apply", file], ["config", "export"]):
        result = run(*command)
        assert (result.exit_code, "flask db upgrade" in result.output) == (1, True), command


def test_a_database_that_cannot_be_reached_is_said_plainly(settings: Settings) -> None:
    result = runner(replace(settings, database_url="postgresql://127.0.0.1:1/widget"))("db", "upgrade")
    assert result.exit_code == 1
    assert result.output.startswith("Error: the database cannot be reached: ")


# config -----------------------------------------------------------------------------------------------------------


def test_a_file_is_applied_again_and_again_to_the_same_end(run: Run, file: Path, session: Session) -> None:
    first = run("config", "apply", file)
    assert first.exit_code == 0, first.output
    assert "campaign: 1 created, 0 changed, 0 unchanged" in first.output
    assert "campaign: 0 created, 0 changed, 1 unchanged" in run("config", "apply", file).output
    assert session.scalar(select(func.count()).select_from(Campaign)) == 1


def test_what_is_exported_changes_nothing_when_it_is_applied(run: Run, file: Path, tmp_path: Path) -> None:
    run("config", "apply", file)
    exported = tmp_path / "exported.toml"
    exported.write_text(run("config", "export").output, encoding="utf-8")
    again = run("config", "apply", exported)
    assert again.exit_code == 0, again.output
    assert all("0 created, 0 changed" in line for line in again.output.splitlines())


def test_a_wrong_file_is_refused_whole_with_its_lines(run: Run, file: Path, session: Session) -> None:
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('language = "en"', 'language = "it"'), encoding="utf-8")
    line = 1 + next(number for number, each in enumerate(file.read_text().splitlines()) if '"it"' in each)
    for command in ("apply", "check"):
        result = run("config", command, file)
        assert result.exit_code == 1
        assert f"{file}:{line}: " in result.output
        assert "Traceback" not in result.output
    assert session.scalar(select(func.count()).select_from(Campaign)) == 0


def test_a_file_that_is_not_text_is_refused(run: Run, file: Path) -> None:
    file.write_bytes(b"\xff\xfe")
    result = run("config", "check", file)
    assert (result.exit_code, "is not UTF-8" in result.output) == (1, True)


def test_a_file_may_refer_to_what_is_stored_when_it_is_to_be_applied(run: Run, file: Path) -> None:
    run("config", "apply", file)
    file.write_text('[[push_rule]]\nscope = "campaign"\ntarget = "summer"\nintegration = "none"\n', encoding="utf-8")
    assert run("config", "check", file).exit_code == 1
    assert run("config", "check", "--stored", file).exit_code == 0
    assert run("config", "apply", file).exit_code == 0


def test_checking_a_file_starts_no_database(fresh: Settings, file: Path) -> None:
    assert runner(fresh)("config", "check", file).exit_code == 0
    assert not fresh.instance.exists()


# Processes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_server_serves_until_it_is_told_to_end(start: Start, session: Session, number: signal.Signals) -> None:
    port = free_port()
    process = start("serve", "--port", str(port), "--workers", "2")
    assert "WARNING" not in read_until(process, "Started worker")
    wait_until(lambda: answers(f"http://127.0.0.1:{port}/readyz"))
    assert requests.get(f"http://127.0.0.1:{port}/c/nothing", timeout=10).status_code == 404

    process.send_signal(number)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 0, said


def test_the_server_migrates_when_it_is_told_to(start: Start, fresh: Settings) -> None:
    process = start("serve", "--port", str(free_port()), "--workers", "1", "--migrate", settings=fresh)
    read_until(process, "Started worker-1")
    assert runner(fresh)("db", "check").exit_code == 0
    process.terminate()
    process.communicate(timeout=30)
    assert postmaster(fresh.instance) is None


def test_a_port_that_is_taken_is_said_plainly(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("serve", "--port", port)
    assert result.exit_code == 1
    assert result.output == f"Error: cannot listen at 127.0.0.1:{port}: Address already in use\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_worker_works_until_it_is_told_to_end(start: Start, session: Session, number: signal.Signals) -> None:
    process = start("worker")
    workers = text("SELECT count(*) FROM procrastinate_workers")
    wait_until(lambda: session.scalar(workers) == 1 or process.poll() is not None)
    process.send_signal(number)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert session.scalar(workers) == 0


def test_the_sandbox_keeps_its_records_in_a_file(start: Start, tmp_path: Path) -> None:
    port, records = free_port(), tmp_path / "records.json"
    start("sandbox", "--port", str(port), "--file", str(records))
    wait_until(lambda: answers(f"http://127.0.0.1:{port}/"))
    dora = {"Party": {"Email": "dora@example.org", "Login": {"Username": "dora"}}}
    requests.post(f"http://127.0.0.1:{port}/_sandbox/people", json=dora, timeout=10).raise_for_status()
    assert "dora@example.org" in records.read_text(encoding="utf-8")


def test_an_environment_that_will_not_do_is_said_without_a_traceback() -> None:
    variables = environment(WIDGET_PUBLIC_URL="widget.example/path", PYTHONWARNINGS="")
    done = subprocess.run(
        (sys.executable, "-m", "flask", "db", "current"), cwd=TOP, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == "Error: WIDGET_PUBLIC_URL must be an origin, such as https://widget.example\n"
