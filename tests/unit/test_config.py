"""What the environment may say, and what it is told when it will not do."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from widget.config import MIN_SECRET_LENGTH, BadEnvironment, Settings, environment

SECRET = "s" * MIN_SECRET_LENGTH
OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()
EXTERNAL = {
    "WIDGET_DATABASE_URL": "postgresql://db.example/widget",
    "WIDGET_SECRET_KEY": SECRET,
    "WIDGET_ENCRYPTION_KEYS": f"{NEW}, {OLD}",
}


def test_an_empty_environment_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_env({})
    assert settings.instance == tmp_path / "instance"
    assert settings.database_url is None
    assert settings.public_url == "http://localhost:5000"
    assert settings.private_hosts == frozenset()
    assert settings.proxy_hops == 0


def test_generated_secrets_stay_the_same_and_are_their_owners_alone(tmp_path: Path) -> None:
    env = {"WIDGET_INSTANCE": str(tmp_path / "new" / "instance")}
    first, second = Settings.from_env(env), Settings.from_env(env)
    assert first == second
    assert len(first.secret_key) >= MIN_SECRET_LENGTH
    files = sorted(first.instance.iterdir())
    assert [file.name for file in files] == ["encryption_keys", "secret_key"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_instances_have_different_secrets(tmp_path: Path) -> None:
    one, other = (Settings.from_env({"WIDGET_INSTANCE": str(tmp_path / name)}) for name in ("one", "other"))
    assert one.secret_key != other.secret_key
    assert one.encryption_keys != other.encryption_keys


def test_processes_that_start_at_once_agree_on_the_secrets(tmp_path: Path) -> None:
    env = {"WIDGET_INSTANCE": str(tmp_path / "instance")}
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: Settings.from_env(env), range(32)))
    assert len({settings.secret_key for settings in found}) == 1
    assert len({settings.encryption_keys for settings in found}) == 1


def test_everything_can_be_set(tmp_path: Path) -> None:
    settings = Settings.from_env(
        {
            **EXTERNAL,
            "WIDGET_INSTANCE": str(tmp_path),
            "WIDGET_PUBLIC_URL": "https://Widget.Example:8443/",
            "WIDGET_OPENFIELD_PRIVATE_HOSTS": "Openfield.internal:8080, 10.0.0.7,",
            "WIDGET_PROXY_HOPS": "2",
        }
    )
    assert settings == Settings(
        instance=tmp_path,
        secret_key=SECRET,
        encryption_keys=(NEW, OLD),
        database_url="postgresql://db.example/widget",
        public_url="https://widget.example:8443",
        private_hosts=frozenset({"openfield.internal:8080", "10.0.0.7"}),
        proxy_hops=2,
    )
    assert not list(tmp_path.iterdir())


def test_a_secret_may_come_as_a_file(tmp_path: Path) -> None:
    for name, text in EXTERNAL.items():
        (tmp_path / name).write_text(f"{text}\n", encoding="utf-8")
    files = {f"{name}_FILE": str(tmp_path / name) for name in EXTERNAL}
    assert Settings.from_env(files) == Settings.from_env(EXTERNAL)


def test_secrets_are_not_shown() -> None:
    shown = repr(Settings.from_env({**EXTERNAL, "WIDGET_DATABASE_URL": "postgresql://ada:canary@db.example/widget"}))
    for secret in (SECRET, OLD, NEW, "canary"):
        assert secret not in shown


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://widget.example:443", "https://widget.example"),
        ("http://widget.example:80/", "http://widget.example"),
        ("http://widget.example:443", "http://widget.example:443"),
        ("http://[::1]:5000", "http://[::1]:5000"),
    ],
)
def test_the_public_address_is_as_browsers_send_it_in_origin(url: str, origin: str) -> None:
    assert Settings.from_env({**EXTERNAL, "WIDGET_PUBLIC_URL": url}).public_url == origin


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WIDGET_SECRET_KEY", ""),
        ("WIDGET_SECRET_KEY", "s" * (MIN_SECRET_LENGTH - 1)),
        ("WIDGET_ENCRYPTION_KEYS", ""),
        ("WIDGET_ENCRYPTION_KEYS", ","),
        ("WIDGET_ENCRYPTION_KEYS", f"{NEW},changeme"),
        ("WIDGET_PUBLIC_URL", "widget.example"),
        ("WIDGET_PUBLIC_URL", "ftp://widget.example"),
        ("WIDGET_PUBLIC_URL", "https://widget.example/path"),
        ("WIDGET_PUBLIC_URL", "https://widget.example?query"),
        ("WIDGET_PUBLIC_URL", "https://ada@widget.example"),
        ("WIDGET_PUBLIC_URL", "https://widget.example:port"),
        ("WIDGET_PUBLIC_URL", "https://"),
        ("WIDGET_PROXY_HOPS", "-1"),
        ("WIDGET_PROXY_HOPS", "many"),
        ("WIDGET_SECRET_KEY_FILE", "/nowhere/at/all"),
    ],
)
def test_what_will_not_do_is_named_but_never_repeated(name: str, value: str) -> None:
    with pytest.raises(BadEnvironment, match=name) as refused:
        Settings.from_env({**EXTERNAL, name: value})
    for secret in (SECRET, OLD, NEW, "changeme"):
        assert secret not in str(refused.value)


def test_an_instance_that_cannot_be_made_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadEnvironment, match="WIDGET_INSTANCE"):
        Settings.from_env({"WIDGET_INSTANCE": str(tmp_path / "file" / "instance")})


def test_a_process_that_we_start_has_our_environment_and_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "stays")
    started = environment(WIDGET_PROXY_HOPS="1")
    assert (started["OURS"], started["WIDGET_PROXY_HOPS"]) == ("stays", "1")
