"""The iframe's pages as people meet them: with a keyboard, a screen reader, a small screen, a bad connection.

And what the page around it sees of them: a height, events, nothing personal.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Frame, FrameLocator, Page, Route, expect

from tests.conftest import Host, Http, Sandbox, Site
from widget.profile import LANGUAGES

Campaign = Callable[..., str]
NewPage = Callable[..., Page]

LONG_NAME = "Sommergewinnspiel der Donaudampfschifffahrtsgesellschaftskapitänsvereinigung"
FINGER = 44
"""CSS pixels that a target is high, at least (WCAG 2.2, 2.5.5)."""


def send(page: Page | FrameLocator, form: str) -> None:
    """Presses the button of the form that logs in, signs up or submits, and waits for the answer."""
    page.locator(f"form[data-event={form}] [type=submit]").click()
    expect(page.locator("main[aria-busy]")).to_have_count(0)


ALICE = ("alice", "alice-likes-waffles")


def log_in(page: Page | FrameLocator, username: str = ALICE[0], password: str = ALICE[1]) -> None:
    page.locator("[name=username]").fill(username)
    page.locator("[name=password]").fill(password)
    send(page, "login")


def walk(page: Page, site: Site, slug: str) -> Iterator[str]:
    """Goes through the states that a participant may see, and names each."""
    page.goto(f"{site.url}/c/{slug}")
    yield "first screen"
    send(page, "login")
    yield "first screen, nothing filled in"
    log_in(page, password="wrong")
    yield "wrong password"
    log_in(page, "carol", "carol-counts-clouds")
    yield "account locked"
    send(page, "signup")
    yield "sign-up"
    send(page, "submit")
    yield "sign-up, nothing filled in"
    for name, text in {"email": "alice@example.org", "username": "alice", "password": "a", "birthday": "31/2/1990",
                       "firstname": "Alice", "lastname": "Peeters"}.items():  # fmt: skip
        page.locator(f"[name={name}]").fill(text)
    page.locator("[name=civility]").first.check()
    page.locator("[name=country]").select_option("BEL")
    send(page, "submit")
    yield "sign-up, no such day"
    page.locator("[name=birthday]").fill("1/2/1990")
    page.locator("[name=password]").fill("a")
    send(page, "submit")
    yield "the account exists"
    page.goto(f"{site.url}/c/{slug}")
    log_in(page)
    yield "form, filled in"
    send(page, "submit")
    yield "thanks"
    page.goto(f"{site.url}/c/over")
    yield "over"
    page.goto(f"{site.url}/c/nowhere")
    yield "unknown campaign"


@pytest.fixture
def over(now: Any, campaign: Campaign) -> Callable[..., None]:
    """Puts a campaign there that is over."""

    def put(**keys: Any) -> None:
        campaign(slug="over", closes_at=now - timedelta(days=1), **keys)

    return put


# Everybody can use it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_state_has_a_flaw_that_axe_can_find(
    language: str, scheme: str, campaign: Campaign, over: Any, site: Site, sandbox: Sandbox, new_page: NewPage
) -> None:
    over(language=language)
    slug = campaign(language=language, texts={"intro": "…"})
    page = new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme, locale=language)
    for state in walk(page, site, slug):
        results = Axe().run(page).response
        assert [(each["id"], each["help"]) for each in results["violations"]] == [], state


def test_nothing_scrolls_sideways_and_every_target_fits_a_finger(
    campaign: Campaign, over: Any, site: Site, sandbox: Sandbox, new_page: NewPage
) -> None:
    over(language="de", name=LONG_NAME)
    slug = campaign(language="de", name=LONG_NAME)
    page = new_page(viewport={"width": 320, "height": 640})
    for state in walk(page, site, slug):
        assert page.evaluate("document.documentElement.scrollWidth") <= 320, state
        small = page.evaluate(
            """finger => [...document.querySelectorAll("a, button, .input, .choice")]
                .filter(each => each.checkVisibility() && each.getBoundingClientRect().height < finger)
                .map(each => each.outerHTML)""",
            FINGER,
        )
        assert small == [], state


def test_every_page_has_one_first_heading_and_says_its_language(
    campaign: Campaign, over: Any, site: Site, sandbox: Sandbox, new_page: NewPage
) -> None:
    over(language="nl")
    slug = campaign(language="nl", name="Win een fiets")
    page = new_page(locale="nl")
    for state in walk(page, site, slug):
        expect(page.locator("html"), state).to_have_attribute("lang", "nl")
        expect(page.locator("h1"), state).to_have_count(1)
        wrong = page.locator(".message.wrong").count() > 0
        assert page.title().startswith("Fout: ") is wrong, state


# The keyboard and the screen reader -------------------------------------------------------------------------------


@pytest.fixture
def first(page: Page, campaign: Campaign, site: Site, sandbox: Sandbox) -> Page:
    """The first screen of an English campaign, on its own."""
    page.goto(f"{site.url}/c/{campaign()}")
    return page


def test_the_first_screen_leaves_the_focus_alone(first: Page) -> None:
    assert first.evaluate("document.activeElement.tagName") == "BODY"


def test_the_summary_of_errors_takes_the_focus_and_leads_to_the_fields(first: Page) -> None:
    send(first, "login")
    expect(first.get_by_role("alert")).to_be_focused()
    before = first.evaluate("history.length")
    first.get_by_role("link", name="Password: Fill in your password.").click()
    field = first.get_by_label("Password", exact=True)
    expect(field).to_be_focused()
    expect(field).to_have_accessible_description("Error: Fill in your password.")
    expect(field).to_have_attribute("aria-invalid", "true")
    assert first.evaluate("history.length") == before


def test_the_summary_leads_to_the_first_answer_of_a_choice(first: Page) -> None:
    send(first, "signup")
    send(first, "submit")
    first.get_by_role("link", name="Title: Choose one of the answers.").click()
    expect(first.get_by_role("radio", name="Mr")).to_be_focused()
    expect(first.get_by_role("group", name="Title")).to_have_accessible_description("Error: Choose one of the answers.")


def test_without_javascript_the_summary_takes_the_focus_as_well(
    page_without_javascript: Page, campaign: Campaign, site: Site
) -> None:
    page_without_javascript.goto(f"{site.url}/c/{campaign()}")
    page_without_javascript.get_by_role("button", name="Log in").click()
    expect(page_without_javascript.get_by_role("alert")).to_be_focused()
    expect(page_without_javascript.get_by_role("button", name="Show password")).to_be_hidden()


def test_a_new_page_begins_at_its_heading(first: Page) -> None:
    log_in(first)
    expect(first.get_by_role("heading", level=1)).to_be_focused()
    send(first, "submit")
    heading = first.get_by_role("heading", level=1)
    expect(heading).to_be_focused()
    expect(heading).to_have_accessible_description(re.compile("Thank you! Your entry has reached us."))


def test_the_password_can_be_shown_and_is_hidden_again_when_it_is_sent(first: Page) -> None:
    field, button = first.get_by_label("Password", exact=True), first.get_by_role("button", name="Show password")
    field.fill(ALICE[1])
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(field).to_have_attribute("type", "text")
    first.route("**/login", lambda route: route.abort())
    send(first, "login")
    expect(field).to_have_attribute("type", "password")
    expect(field).to_have_value(ALICE[1])


def test_whoever_comes_back_to_the_sign_up_is_asked_for_the_password_again(first: Page) -> None:
    send(first, "signup")
    field = first.get_by_label("Password", exact=True)
    expect(field).not_to_have_attribute("aria-describedby", re.compile("."))
    field.fill("a secret")
    send(first, "submit")
    expect(field).to_have_value("")
    expect(field).to_have_accessible_description("Type your password again: it is not kept.")


# A bad connection -------------------------------------------------------------------------------------------------


def test_a_button_that_waits_says_so_keeps_the_focus_and_does_nothing_more(first: Page) -> None:
    asked: list[Route] = []

    def hold(route: Route) -> None:
        asked.append(route)

    first.route("**/login", hold)
    first.locator("[name=username]").fill("alice")
    first.locator("[name=password]").fill(ALICE[1])
    first.locator("[name=password]").press("Enter")
    button = first.locator("form[data-event=login] [type=submit]")
    expect(button).to_have_text("Logging in…")
    expect(button).to_have_attribute("aria-disabled", "true")
    expect(first.get_by_role("status")).to_have_text("Logging in…")
    button.click(force=True)
    first.get_by_role("button", name="Create an account").click()
    button.focus()
    expect(button).to_be_focused()
    assert len(asked) == 1
    asked[0].continue_()
    expect(first.locator("main[data-step=form]")).to_be_visible()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda route: route.abort(), id="no answer"),
        pytest.param(lambda route: route.fulfill(status=502, content_type="text/html", body="<h1>Bad"), id="a proxy's"),
        pytest.param(lambda route: route.fulfill(status=200, json={}), id="not a page"),
    ],
)
def test_a_lost_connection_keeps_what_was_typed(first: Page, answer: Callable[[Route], None]) -> None:
    first.route("**/login", answer)
    log_in(first)
    expect(first.get_by_role("alert")).to_contain_text("We could not reach the server.")
    button = first.get_by_role("button", name="Log in")
    expect(button).not_to_have_attribute("aria-disabled", "true")
    expect(first.locator("[name=password]")).to_have_value(ALICE[1])
    first.unroute("**/login")
    button.click()
    expect(first.locator("main[data-step=form]")).to_be_visible()


def test_a_failure_of_the_server_keeps_what_was_typed(first: Page, http: Http) -> None:
    notice = http.get("/c/nowhere").text
    first.route("**/login", lambda route: route.fulfill(status=500, content_type="text/html", body=notice))
    log_in(first)
    expect(first.get_by_role("alert")).to_contain_text("There is no such campaign")
    expect(first.locator("[name=password]")).to_have_value(ALICE[1])
    expect(first.locator("main")).to_have_attribute("data-step", "first")


def test_pages_that_are_swapped_leave_no_history(first: Page) -> None:
    before = first.evaluate("history.length")
    log_in(first)
    send(first, "submit")
    expect(first.locator("main[data-step=thanks]")).to_be_visible()
    assert first.evaluate("history.length") == before


# The page around it -----------------------------------------------------------------------------------------------

LISTEN = """
    window.events = []
    for (const name of ["ready", "height", "step", "login", "signup", "invalid", "submit", "error"])
        addEventListener("openfield:" + name, event => events.push([name, event.detail, event.target.tagName]))
    window.shift = 0
    new PerformanceObserver(list => { for (const each of list.getEntries()) shift += each.value })
        .observe({ type: "layout-shift", buffered: true })
"""


def events(page: Page) -> list[Any]:
    heard: list[Any] = page.evaluate("events.filter(([name]) => name !== 'height').map(([name]) => name)")
    return heard


def inside(page: Page) -> Frame:
    return page.frames[1]


@pytest.fixture
def embedded(page: Page, campaign: Campaign, site: Site, sandbox: Sandbox, host: Host) -> FrameLocator:
    """The first screen in an iframe of another site, which has the loader; the iframe has said that it is ready."""
    page.add_init_script(LISTEN)
    page.goto(host.embed(f"{site.url}/c/{campaign()}", loader=f"{site.url}/embed.js"))
    page.wait_for_function("events.length > 0")
    return page.frame_locator("iframe")


def expect_a_fitting_height(page: Page) -> None:
    content = inside(page).evaluate("Math.ceil(document.getElementById('content').getBoundingClientRect().height)")
    page.wait_for_function(
        "height => document.querySelector('iframe').offsetHeight === Math.max(height, 560)", arg=content
    )
    assert inside(page).evaluate("document.documentElement.scrollHeight <= innerHeight")


def test_the_iframe_is_as_high_as_what_it_shows(page: Page, embedded: FrameLocator) -> None:
    expect_a_fitting_height(page)
    send(embedded, "login")
    expect_a_fitting_height(page)
    log_in(embedded)
    expect_a_fitting_height(page)
    wide = page.evaluate("document.querySelector('iframe').offsetHeight")
    page.set_viewport_size({"width": 320, "height": 640})
    page.wait_for_function("wide => document.querySelector('iframe').offsetHeight > wide", arg=wide)
    expect_a_fitting_height(page)
    send(embedded, "submit")
    expect_a_fitting_height(page)


def test_nothing_shifts_while_the_first_screen_appears(page: Page, embedded: FrameLocator) -> None:
    expect(embedded.get_by_role("button", name="Show password")).to_be_visible()
    assert page.evaluate("shift") == 0
    assert inside(page).evaluate("shift") == 0


def test_the_host_hears_what_happens_and_nothing_personal(page: Page, embedded: FrameLocator) -> None:
    log_in(embedded, password="wrong")
    log_in(embedded)
    send(embedded, "submit")
    expect(embedded.locator("main[data-step=thanks]")).to_be_visible()
    page.wait_for_function("events.at(-1)[0] === 'submit'")
    assert events(page) == ["ready", "invalid", "step", "login", "step", "submit"]
    assert page.evaluate("events.every(([, , target]) => target === 'IFRAME')")
    details = page.evaluate("events.map(([, detail]) => detail)")
    assert {key for detail in details for key in detail} == {"campaign", "step"}
    assert {detail["step"] for detail in details} == {"first", "form", "thanks"}


def test_the_iframe_is_greeted_anew_when_it_loads_anew_moves_or_comes_late(page: Page, embedded: FrameLocator) -> None:
    page.evaluate("document.querySelector('iframe').src += ''")
    page.wait_for_function("events.filter(([name]) => name === 'ready').length === 2")
    page.evaluate("document.body.append(document.querySelector('iframe'))")
    page.wait_for_function("events.filter(([name]) => name === 'ready').length === 3")
    page.evaluate("document.body.append(document.createElement('iframe'))")
    page.evaluate("document.body.lastChild.src = document.querySelector('iframe').src")
    page.wait_for_function("events.filter(([name]) => name === 'ready').length === 4")
    expect(page.locator("iframe").last).to_have_attribute("title", "Summer contest")
    assert page.locator("iframe").first.get_attribute("title") == "Contest"


def test_the_iframe_is_ready_once_however_often_it_is_greeted(page: Page, embedded: FrameLocator) -> None:
    page.evaluate(
        "frames[0].postMessage({ type: 'openfield:hello', version: 1 }, document.querySelector('iframe').src)"
    )
    send(embedded, "login")
    page.wait_for_function("events.at(-1)[0] === 'invalid'")
    assert events(page) == ["ready", "invalid"]


def test_a_message_that_is_not_the_iframes_counts_for_nothing(page: Page, embedded: FrameLocator, host: Host) -> None:
    forgery = """window.parent.postMessage({ type: "openfield:submit", version: 1, height: 5000 }, "*")"""
    page.evaluate(forgery)
    other = host.page(f"<script>{forgery}; parent.postMessage('sent', '*')</script>", "/other")
    page.evaluate(
        """other => new Promise(done => {
            addEventListener("message", ({ data }) => data === "sent" && done())
            document.body.append(Object.assign(document.createElement("iframe"), { src: other }))
        })""",
        other,
    )
    page.evaluate(  # the iframe itself, once it has been led elsewhere
        """other => new Promise(done => {
            addEventListener("message", ({ data }) => data === "sent" && done())
            frames[0].location = other
        })""",
        other,
    )
    assert events(page) == ["ready"]
    assert page.evaluate("document.querySelector('iframe').offsetHeight") < 5000


def test_a_page_that_is_not_on_the_list_is_told_nothing(
    page: Page, campaign: Campaign, site: Site, http: Http, host: Host
) -> None:
    """The policy lets such a page show no frame; this is what the frame does of its own accord."""
    path = f"/c/{campaign()}"
    first = http.get(path)
    html = first.text.replace(f'data-origins="{host.origin}"', 'data-origins="https://elsewhere.example"')
    assert html != first.text
    page.route(f"**{path}", lambda route: route.fulfill(headers=dict(first.headers), body=html))
    page.add_init_script("window.heard = []; addEventListener('message', ({ data }) => heard.push(data))")
    page.goto(host.embed(site.url + path, loader=f"{site.url}/embed.js"))
    send(page.frame_locator("iframe"), "login")
    inside(page).evaluate("parent.postMessage('the last', '*')")
    page.wait_for_function("heard.length > 0")
    assert page.evaluate("heard") == ["the last"]


def test_the_host_scrolls_only_when_the_top_of_the_iframe_is_out_of_sight(
    page: Page, campaign: Campaign, site: Site, sandbox: Sandbox, host: Host
) -> None:
    page.set_viewport_size({"width": 360, "height": 500})
    page.add_init_script(LISTEN)
    page.goto(
        host.page(
            f"""<!doctype html><meta name="viewport" content="width=device-width"><body style="margin: 0">
            <div style="height: 300px"></div>
            <iframe src="{site.url}/c/{campaign()}" style="width: 100%; min-height: 560px; border: 0"></iframe>
            <div style="height: 2000px"></div><script src="{site.url}/embed.js" async></script>"""
        )
    )
    page.wait_for_function("events.length > 0")
    frame = page.frame_locator("iframe")
    top = "Math.round(document.querySelector('iframe').getBoundingClientRect().top)"
    page.evaluate("scrollTo(0, 200)")
    inside(page).evaluate("document.querySelector('form').requestSubmit()")
    expect(frame.get_by_role("alert")).to_be_focused()
    page.wait_for_function("events.at(-1)[0] === 'invalid'")
    assert page.evaluate(top) == 100
    page.evaluate("scrollTo(0, 700)")
    page.route("**/signup", lambda route: route.abort())
    signup = "document.querySelector('form[data-event=signup]').requestSubmit()"
    inside(page).evaluate(signup)
    page.wait_for_function("events.slice(-2).map(([name]) => name).join() === 'error,height'")
    assert page.evaluate(top) == -400
    page.unroute("**/signup")
    inside(page).evaluate(signup)
    page.wait_for_function(f"events.at(-1)[0] === 'signup' && {top} === 0")


# Weight -----------------------------------------------------------------------------------------------------------


def test_the_loader_and_the_first_screen_are_light(http: Http, campaign: Campaign) -> None:
    """By deflate, which every server has; brotli makes them smaller still."""
    assert len(zlib.compress(http.get("/embed.js").content, 9)) < 1_500
    first = http.get(f"/c/{campaign()}")
    headers = "".join(f"{name}: {value}\r\n" for name, value in first.headers.items())
    assert len(zlib.compress(first.content, 9)) + len(headers) < 14_000
