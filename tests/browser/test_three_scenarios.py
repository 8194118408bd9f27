"""The three scenarios as participants live them: in Chromium, in an iframe of another site.

Each runs in an ordinary browser, in one that refuses every cookie, and in one without JavaScript.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import FrameLocator, Page, expect

from tests.conftest import Host, Sandbox, Site

Campaign = Callable[..., str]

BROWSERS = ["page", "page_without_cookies", "page_without_javascript"]


@pytest.fixture(params=BROWSERS)
def visitor(request: pytest.FixtureRequest) -> Page:
    """A page of each kind of browser."""
    page: Page = request.getfixturevalue(request.param)
    return page


@pytest.fixture
def widget(visitor: Page, campaign: Campaign, site: Site, host: Host) -> FrameLocator:
    """The campaign's first screen, in an iframe of another site, with the loader."""
    visitor.goto(host.embed(f"{site.url}/c/{campaign(language='en')}", loader=f"{site.url}/embed.js"))
    frame = visitor.frame_locator("iframe")
    expect(frame.get_by_role("heading", name="Summer contest")).to_be_visible()
    return frame


def log_in(widget: FrameLocator, username: str = "alice", password: str = "alice-likes-waffles") -> None:
    widget.get_by_label("User name or e-mail").fill(username)
    widget.get_by_label("Password", exact=True).fill(password)
    widget.get_by_role("button", name="Log in").click()


def sign_up(widget: FrameLocator, **answers: str) -> None:
    widget.get_by_role("button", name="Create an account").click()
    dora = {"E-mail address": "dora@example.org", "User name": "dora", "Password": " d0ra's pâss ",
            "First name": "Dora", "Last name": "Dubois", "Date of birth (optional)": "1/8/2001"}  # fmt: skip
    for label, answer in {**dora, **answers}.items():
        widget.get_by_label(label, exact=True).fill(answer)
    widget.get_by_text("Ms", exact=True).click()
    widget.get_by_label("Country").select_option("BEL")
    widget.get_by_text("I would like to receive the newsletter.").click()
    widget.get_by_role("button", name="Take part").click()


def expect_thanks(widget: FrameLocator) -> None:
    expect(widget.locator("main[data-step=thanks]")).to_be_visible()


def test_alice_logs_in_changes_one_thing_and_it_is_in_openfield(
    visitor: Page, widget: FrameLocator, sandbox: Sandbox
) -> None:
    before = sandbox.party("alice")["Party"]
    log_in(widget)
    expect(widget.get_by_label("First name")).to_have_value(before["FirstName"])
    widget.get_by_label("First name").fill("Alicia")
    widget.get_by_role("button", name="Take part").click()
    expect_thanks(widget)
    (call,) = sandbox.calls("Update")
    assert call["request"]["Party"] == {**before, "FirstName": "Alicia", "LanguageId": "en"}
    assert "Services" not in call["request"]
    assert visitor.context.cookies() == []


def test_dora_signs_up_and_is_created_in_openfield(visitor: Page, widget: FrameLocator, sandbox: Sandbox) -> None:
    sign_up(widget)
    expect_thanks(widget)
    (call,) = sandbox.calls("Create")
    party = call["request"]["Party"]
    assert (party["Civility"], party["BirthDate"], party["LanguageId"]) == ("MME", "01082001", "en")
    assert [service["ServiceId"] for service in call["request"]["Services"]] == ["Newsletter"]
    assert visitor.context.cookies() == []


def test_somebody_with_an_account_already_is_led_to_log_in_with_all_that_was_typed(
    widget: FrameLocator, sandbox: Sandbox
) -> None:
    sign_up(widget, **{"User name": "alice"})
    expect(widget.get_by_role("heading", name="This user name is taken")).to_be_visible()
    expect(widget.get_by_label("Last name")).to_have_value("Dubois")
    expect(widget.get_by_label("Password", exact=True)).to_have_value("")
    widget.get_by_role("button", name="Log in").click()
    log_in(widget)
    expect(widget.get_by_label("Last name")).to_have_value("Dubois")
    widget.get_by_role("button", name="Take part").click()
    expect_thanks(widget)
    assert sandbox.party("alice")["Party"]["LastName"] == "Dubois"


def test_who_forgot_the_password_gets_the_reset_page_in_a_new_tab_and_keeps_the_campaign(
    visitor: Page, widget: FrameLocator, sandbox: Sandbox
) -> None:
    here = visitor.url
    with visitor.context.expect_page() as opened:
        widget.get_by_role("link", name="Forgotten your password?").click()
    assert opened.value.url == f"{sandbox.url}/reset-password"
    assert visitor.url == here
    expect(widget.get_by_role("button", name="Log in")).to_be_visible()


def test_a_mistake_is_said_in_place_and_can_be_put_right(widget: FrameLocator, sandbox: Sandbox) -> None:
    sign_up(widget, **{"Date of birth (optional)": "31/2/2001"})
    alert = widget.get_by_role("alert")
    expect(alert).to_contain_text("Write the day, the month and the year")
    expect(widget.get_by_label("Date of birth (optional)", exact=True)).to_have_value("31/2/2001")
    assert sandbox.calls("Create") == []
    widget.get_by_label("Date of birth (optional)", exact=True).fill("28.2.2001")
    widget.get_by_label("Password", exact=True).fill("once more")
    widget.get_by_role("button", name="Take part").click()
    expect_thanks(widget)
    assert sandbox.calls("Create")[-1]["request"]["Party"]["BirthDate"] == "28022001"


def test_a_double_click_takes_part_once(widget: FrameLocator, sandbox: Sandbox) -> None:
    log_in(widget)
    widget.get_by_role("button", name="Take part").dblclick()
    expect_thanks(widget)
    assert len(sandbox.calls("Update")) == 1


def test_openfield_away_at_log_in_is_said_and_logging_in_works_again_later(
    widget: FrameLocator, sandbox: Sandbox
) -> None:
    sandbox.fault("status", "Authenticate", status=500)
    log_in(widget)
    expect(widget.get_by_role("heading", name="Logging in does not work right now")).to_be_visible()
    expect(widget.get_by_label("User name or e-mail")).to_have_value("alice")
    sandbox.clear_faults()
    log_in(widget)
    expect(widget.get_by_role("button", name="Take part")).to_be_visible()


def test_a_site_that_is_not_on_the_list_cannot_embed(page: Page, campaign: Campaign, site: Site, host: Host) -> None:
    elsewhere = [{"slug": "news", "name": "News", "origins": ["https://news.acme.example"], "language": "en"}]
    slug = campaign(kinds={"website": elsewhere})
    with page.expect_console_message(lambda message: "frame-ancestors" in message.text):
        page.goto(host.embed(f"{site.url}/c/{slug}"))
    expect(page.frame_locator("iframe").locator("main")).to_have_count(0)
