"""`flask deliveries`: what an operator sees of the outbox, and does with it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from uuid import uuid4

import pytest
from click.testing import Result
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from tests.conftest import Http, Sandbox
from tests.screens import visit
from widget import participation
from widget.app import create_app
from widget.config import Settings
from widget.deliveries import clock
from widget.models import Delivery, DeliveryState
from widget.wiring import Wiring

Run = Callable[..., Result]
Campaign = Callable[..., str]

PASSWORD = "a-canary-of-a-password"


@pytest.fixture
def run(settings: Settings, session: Session) -> Run:
    """`run("stats")` runs a command on the test's database."""
    app = create_app(settings)
    return lambda *command: app.test_cli_runner().invoke(args=["deliveries", *(str(part) for part in command)])


def sign_up(http: Http, slug: str, name: str) -> None:
    form = visit(http, f"/c/{slug}").send("signup")
    person = {"email": f"{name}@example.org", "username": name, "password": PASSWORD, "civility": "MME"}
    names = {"firstname": "Dora", "lastname": "Dubois", "country": "BEL"}
    assert form.send("submit", person | names).step == "thanks"


@pytest.fixture
def three(
    http: Http, campaign: Campaign, sandbox: Sandbox, session: Session, wiring: Wiring
) -> tuple[Delivery, Delivery, Delivery]:
    """One delivered, one that waits, one that is buried; the last in another campaign."""
    campaign()
    campaign(slug="winter", name="Winter contest")
    sign_up(http, "summer", "one")
    for slug, name in (("summer", "two"), ("winter", "three")):
        sandbox.fault("status", "Create", status=503, retry_after=3600)
        sign_up(http, slug, name)
    delivered, waiting, buried = session.scalars(select(Delivery).order_by(Delivery.number)).all()
    sandbox.fault("status", "Create", status=422)
    later = clock(session) + timedelta(hours=2)
    participation.deliver(session, wiring, buried.id, deadline=5.0, now=later)
    for each in (delivered, waiting, buried):
        session.refresh(each)
    assert [each.state for each in (delivered, waiting, buried)] == ["delivered", "waiting", "buried"]
    session.commit()
    return delivered, waiting, buried


def test_list_tells_of_each_delivery_the_newest_first(run: Run, three: tuple[Delivery, Delivery, Delivery]) -> None:
    lines = run("list").output.splitlines()
    assert [line.split()[0] for line in lines] == ["id", *(str(each.id) for each in reversed(three))]
    assert "Openfield refuses the record (create: 422)" in lines[1]


def test_list_takes_a_state_a_campaign_and_a_limit(run: Run, three: tuple[Delivery, Delivery, Delivery]) -> None:
    delivered, waiting, buried = three

    def ids(*options: object) -> list[str]:
        return [line.split()[0] for line in run("list", *options).stdout.splitlines()[1:]]

    assert ids("--state", "waiting") == [str(waiting.id)]
    assert ids("--campaign", "winter") == [str(buried.id)]
    assert ids("--campaign", "summer", "--state", "delivered") == [str(delivered.id)]
    assert ids("--limit", 1) == [str(buried.id)]
    assert "more than 1" in run("list", "--limit", 1).stderr
    assert ids("--campaign", "autumn") == []


def test_show_tells_how_far_one_has_come(run: Run, three: tuple[Delivery, Delivery, Delivery]) -> None:
    delivered, waiting, buried = three
    said = {line[:13].strip(): line[13:] for line in run("show", buried.id).output.splitlines()}
    assert said["state"] == "buried"
    assert said["why"] == "Openfield refuses the record (create: 422)"
    assert (said["what"], said["campaign"], said["integration"]) == ("create", "winter", "acme")
    assert said["tried"] == "2 times"
    assert said["settled at"].endswith("Z")
    assert f"due at       {waiting.due_at:%Y-%m-%d %H:%M:%S}Z" in run("show", waiting.id).output
    assert "why" not in run("show", delivered.id).output


def test_an_unknown_delivery_is_said_to_be_unknown(run: Run, session: Session) -> None:
    shown = run("show", uuid4())
    assert shown.exit_code == 1
    assert "there is no delivery" in shown.output


def test_nothing_personal_is_shown(run: Run, three: tuple[Delivery, Delivery, Delivery]) -> None:
    said = "".join(run(*command).output for command in [("list",), ("stats",), *(("show", each.id) for each in three)])
    assert all(canary not in said for canary in ("example.org", PASSWORD, "Dora", "Dubois", "three"))


@pytest.mark.parametrize("options", [["--state", "buried"], ["--campaign", "winter"], ["--all"]])
def test_retry_takes_what_is_buried_up_again(
    run: Run, three: tuple[Delivery, Delivery, Delivery], session: Session, options: list[str]
) -> None:
    buried = three[2]
    count = 2 if options == ["--all"] else 1
    assert run("retry", *options).output == f"{count} will be tried again now.\n"
    session.refresh(buried)
    assert buried.state is DeliveryState.WAITING
    jobs = session.scalars(text("SELECT queueing_lock FROM procrastinate_jobs")).all()
    assert str(buried.id) in jobs


def test_retry_by_id_says_what_it_could_not_take(run: Run, three: tuple[Delivery, Delivery, Delivery]) -> None:
    delivered, waiting, buried = three
    assert run("retry", waiting.id, buried.id).exit_code == 0
    done = run("retry", delivered.id, waiting.id)
    assert done.exit_code == 1
    assert "1 will be tried again now." in done.output
    assert "1 of those named" in done.output


def test_retry_of_everything_has_to_be_asked_for(run: Run, session: Session) -> None:
    done = run("retry")
    assert done.exit_code == 2
    assert "--all" in done.output


def test_stats_count_by_campaign_and_state_and_tell_how_all_fare(
    run: Run, three: tuple[Delivery, Delivery, Delivery], http: Http, sandbox: Sandbox
) -> None:
    sandbox.fault("unknown_tenant", "Create")
    sign_up(http, "winter", "four")
    said = run("stats").output
    rows = [line.split() for line in said.splitlines()]
    assert rows[:3] == [
        ["campaign", "waiting", "sending", "delivered", "buried"],
        ["summer", "1", "0", "1", "0"],
        ["winter", "1", "0", "0", "1"],
    ]
    assert "acme         paused          Openfield does not know idTenant or IdApplication (create: 403)" in said
    assert "Workers alive: 0" in said


def test_stats_of_an_empty_outbox_are_in_order(run: Run, session: Session) -> None:
    done = run("stats")
    assert done.exit_code == 0
    assert "Workers alive: 0" in done.output
