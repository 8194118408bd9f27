"""The iframe: first screen, log-in, sign-up, form, thanks, and what is said when something is in the way.

Posts answer directly with the next page: no redirect, no cookie, no token in an address. What carries on from one
page to the next is a handle in a hidden field (`visits`).

Not here: what a post does (`participation`), what the form asks (`forms`), headers and the post gate (`security`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from flask import Blueprint, Response, g, make_response, redirect, render_template, request, url_for
from flask_babel import format_date, format_time, gettext, ngettext
from markupsafe import Markup
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from widget import campaigns, logs, participation, visits
from widget.campaigns import Opening
from widget.models import Campaign, Entrance, Visit
from widget.participation import LoggedIn, NotLoggedIn, Obstacle, Taken
from widget.profile import Profile, Variable
from widget.visits import Body, Expired, Ours, Repeated, Spent, Unanswered
from widget.web import i18n, security
from widget.web.context import now, session, wiring
from widget.web.forms import CampaignForm, LoginForm, campaign_form
from widget.web.security import FromElsewhere

pages = Blueprint("pages", __name__, url_prefix="/c/<campaign>")
log = logging.getLogger(__name__)

FRESH = timedelta(minutes=1)
"""How long a cache may keep the first screen."""


@dataclass(frozen=True, slots=True)
class Action:
    """A way on: `method` is get, post or link-new-tab; `typed` goes along with a post."""

    label: str
    url: str
    method: str = "get"
    primary: bool = False
    typed: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """What stands on top of a form; `kind` is error or info."""

    heading: str
    text: str
    kind: str = "error"
    actions: tuple[Action, ...] = ()


# Before the views -------------------------------------------------------------------------------------------------


@pages.url_value_preprocessor
def find_campaign(_: str | None, values: dict[str, Any] | None) -> None:
    """Puts the campaign in `g`, and with it the language and the sites that may embed."""
    campaign = campaigns.find(session(), values.pop("campaign")) if values else None
    session().expunge_all()  # whatever happens to the database from now on, there is a page that says so
    g.campaign = campaign
    if campaign is not None:
        g.slug, g.language = campaign.slug, campaign.language
        security.may_embed(campaign.website.origins)


@pages.before_request
def turn_away() -> Response | None:
    """Answers in the view's place when there is no such campaign, it is not open, or the post is not from here."""
    campaign = g.campaign
    if campaign is None:
        return _notice(
            404,
            gettext("There is no such campaign"),
            gettext("Check the address. If you came from a link, tell the owner of the page that it no longer works."),
        )
    if request.method == "POST":
        security.check_post()
    if request.endpoint == "pages.forgot_password":
        return None
    opening = campaigns.opening(campaign, now())
    return None if opening is Opening.OPEN else _not_open(campaign, opening)


# The views --------------------------------------------------------------------------------------------------------


@pages.get("", strict_slashes=False)
def first() -> AnyResponse:
    """The first screen: log-in and sign-up, or the form alone when no push rule applies. The same for everybody."""
    response = _first_page() if campaigns.integration_for(session(), g.campaign) else _open_form()
    seconds = FRESH.total_seconds()
    for change in (g.campaign.opens_at, g.campaign.closes_at):
        if change is not None and change > now():
            seconds = min(seconds, (change - now()).total_seconds())
    response.headers["Cache-Control"] = f"public, max-age={int(seconds)}"
    response.add_etag()
    return response.make_conditional(request)


@pages.post("/login")
def login() -> Response:
    """Logs in and shows the form, prefilled. Without a user name in the post it is the first screen that is asked."""
    integration = campaigns.integration_for(session(), g.campaign)
    if integration is None:
        return _open_form()
    token = request.form.get("typed", "")
    if "username" not in request.form:
        return _first_page(typed=token)
    form = LoginForm(request.form)
    if not form.validate():
        return _first_page(form, typed=token, status=422)
    outcome = participation.log_in(
        session(),
        wiring(),
        g.campaign,
        integration,
        username=form.username.data,
        password=form.password.data,
        address=request.remote_addr or "",
        now=now(),
    )
    if isinstance(outcome, NotLoggedIn):
        return _not_logged_in(form, outcome, token)
    return _logged_in(outcome, token)


@pages.post("/signup")
def signup() -> Response:
    """Shows the form with the account's fields on top."""
    integration = campaigns.integration_for(session(), g.campaign)
    if integration is None:
        return _open_form()
    handle = participation.start_signup(session(), wiring(), g.campaign, integration, now=now())
    return _form_page(_fresh_form(Entrance.SIGNUP, typed=_typed_before(request.form.get("typed", ""))), handle)


@pages.post("/submit")
def submit() -> Response:
    """Takes part. The same post again gets the same answer again."""
    opened, vault = session(), wiring().vault
    body = Body.of(request.form.items(multi=True))
    handle = request.form.get("handle", "")
    if not handle and campaigns.integration_for(opened, g.campaign) is None:
        sender = f"{request.remote_addr} {request.user_agent.string}"
        handle = visits.handle_of_open_post(vault, g.campaign.id, sender, body, now())
        visits.begin_open(opened, vault, campaign_id=g.campaign.id, handle=handle, now=now())
    match visits.use(opened, vault, handle, campaign_id=g.campaign.id, body=body, now=now()):
        case Ours(visit):
            try:
                response = _take_part(visit)
                answer = [response.status_code, security.fold(response.get_data(as_text=True))]
                visits.remember(opened, vault, visit.id, answer)
            except Exception:
                opened.rollback()
                visits.abandon(opened, visit.id, now())
                raise
            return response
        case Repeated([status, html]):
            return make_response(security.unfold(html), status)
        case Unanswered():
            return _notice(
                503,
                gettext("Your answers are still on their way"),
                gettext("Give it a minute, then send them again: they count once."),
            )
        case Spent(visit):
            return _spent(visit)
        case Expired(entrance):
            return _expired(entrance)
    raise AssertionError("a use of a handle that nobody answers")


@pages.get("/login")
@pages.get("/signup")
@pages.get("/submit")
def back_to_start() -> AnyResponse:
    """Somebody loaded a post's address: on to the first screen."""
    return redirect(_url("first"))


@pages.get("/forgot-password")
def forgot_password() -> AnyResponse:
    """On to the customer's own page; nothing of the participant's goes along."""
    integration = campaigns.integration_for(session(), g.campaign)
    if integration is None:
        return redirect(_url("first"))
    return redirect(integration.forgot_password_url)


# What a post leads to ---------------------------------------------------------------------------------------------


def _logged_in(outcome: LoggedIn, token: str) -> Response:
    form = campaign_form(g.campaign, Entrance.LOGIN, outcome.known.profile, _typed_before(token))
    return _form_page(form, outcome.handle)


def _not_logged_in(form: LoginForm, outcome: NotLoggedIn, token: str) -> Response:
    logs.security.info("refused a log-in", extra={"reason": outcome.obstacle})
    minutes = max(1, math.ceil(outcome.wait / 60))
    match outcome.obstacle:
        case Obstacle.WRONG:
            status, problem = (
                422,
                Problem(
                    gettext("You are not logged in"),
                    gettext(
                        "The user name or the password is not right. Check both and try again, or reset your password."
                        " After several tries, wait a minute."
                    ),
                ),
            )
        case Obstacle.LOCKED:
            status, problem = (
                422,
                Problem(
                    gettext("Your account is locked"),
                    gettext("Reset your password to unlock it, or wait and try again later."),
                ),
            )
        case Obstacle.TOO_MANY_TRIES:
            status, problem = (
                429,
                Problem(
                    gettext("Too many tries"),
                    ngettext("Wait %(num)s minute, then try again.", "Wait %(num)s minutes, then try again.", minutes),
                ),
            )
        case Obstacle.UNAVAILABLE:
            status, problem = (
                503,
                Problem(
                    gettext("Logging in does not work right now"),
                    gettext("It is not your fault, and nothing is lost. Try again in a few minutes."),
                ),
            )
    response = _first_page(form, problem=problem, typed=token, status=status)
    if outcome.wait:
        response.headers["Retry-After"] = str(math.ceil(outcome.wait))
    return response


def _take_part(visit: Visit) -> Response:
    known = participation.prefill(session(), wiring(), visit)
    form = campaign_form(g.campaign, visit.entrance, known.profile, request.form)
    if form.was_reworded():
        reworded = Problem(
            gettext("The wording beside a box has changed"),
            gettext("Read it again, tick what you agree to, and send your answers again."),
            kind="info",
        )
        return _form_page(form.without_ticks(), _next(visit), problem=reworded, status=422)
    if not form.validate():
        return _form_page(form, _next(visit), status=422)
    outcome = participation.take_part(
        session(),
        wiring(),
        g.campaign,
        visit,
        known=known,
        profile=form.profile(),
        asked=form.variables,
        decisions=form.decisions(),
        now=now(),
    )
    if isinstance(outcome, Taken):
        return _page("thanks.html", step="thanks")
    problem = _refused(form, outcome.variables, exists=outcome.exists, entrance=visit.entrance)
    return _form_page(form, _next(visit), problem=problem, status=422)


def _refused(form: CampaignForm, variables: frozenset[Variable], *, exists: bool, entrance: Entrance) -> Problem:
    """Says at the fields what Openfield refused, and gives what stands on top."""
    named = [form.refuse(variable, _sentence(variable, exists=exists)) for variable in variables]
    log_in = Action(gettext("Log in"), _url("login"), "post", primary=True, typed=_keep(form))
    if exists:
        reset = Action(gettext("Reset the password"), _url("forgot_password"), "link-new-tab")
        if variables == {Variable.USERNAME}:
            heading = gettext("This user name is taken")
            advice = gettext(
                "If it is yours, log in or reset its password; if not, choose another one. Nothing is lost."
            )
        else:
            heading = gettext("You have an account already")
            advice = gettext("Log in with it, or reset its password. What you typed stays here.")
        return Problem(heading, advice, actions=(log_in, reset))
    if any(named) or entrance is not Entrance.LOGIN:
        return Problem(
            gettext("Something was not accepted"),
            gettext("Your answers were not sent. Check them and send them again."),
        )
    return Problem(
        gettext("Your account could not be updated"),
        gettext("Log in again, then send your answers once more. What you typed stays here."),
        actions=(log_in,),
    )


def _sentence(variable: Variable, *, exists: bool) -> str:
    if exists and variable is Variable.USERNAME:
        return gettext("There is an account with this user name already. Log in, or choose another one.")
    if exists:
        return gettext("There is an account with this e-mail address already. Log in, or use another one.")
    return gettext("This was not accepted. Change it and try again.")


def _spent(visit: Visit) -> Response:
    """A handle comes back with another body: an old page, the back button, a second tab."""
    logs.security.info("refused a handle", extra={"reason": "spent"})
    if participation.has_taken_part(session(), visit):
        return _notice(
            409,
            gettext("You have taken part already"),
            gettext("Your answers have arrived; nothing more is needed."),
            Action(gettext("Start again"), _url("first")),
        )
    return _start_anew(
        409,
        visit.entrance,
        Problem(
            gettext("This page was out of date"),
            gettext("It was sent before, maybe from another tab. What you typed is kept: go on from here."),
            kind="info",
        ),
    )


def _expired(entrance: Entrance | None) -> Response:
    logs.security.info("refused a handle", extra={"reason": "expired or unknown"})
    problem = Problem(
        gettext("You were away for a while"),
        gettext("To keep your data safe, this page stopped waiting. What you typed is kept: go on from here."),
        kind="info",
    )
    return _start_anew(422, entrance, problem)


def _start_anew(status: int, entrance: Entrance | None, problem: Problem) -> Response:
    """A new journey with what was typed: straight to the form where nobody has to log in, else the first screen."""
    integration = campaigns.integration_for(session(), g.campaign)
    if integration is None:
        return _form_page(_fresh_form(Entrance.OPEN, typed=request.form), "", problem=problem, status=status)
    if entrance is Entrance.SIGNUP:
        handle = participation.start_signup(session(), wiring(), g.campaign, integration, now=now())
        form = _fresh_form(Entrance.SIGNUP, typed=request.form)
        return _form_page(form, handle, problem=problem, status=status)
    kept = _keep(_fresh_form(Entrance.SIGNUP, typed=request.form))
    return _first_page(problem=problem, typed=kept, status=status)


def _next(visit: Visit) -> str:
    handle = visits.go_on(session(), wiring().vault, visit, now())
    session().commit()
    return handle


# Pages ------------------------------------------------------------------------------------------------------------


def _first_page(
    form: LoginForm | None = None, *, problem: Problem | None = None, typed: str = "", status: int = 200
) -> Response:
    return _page(
        "first.html",
        status,
        step="first",
        login_form=form or LoginForm(),
        login_url=_url("login"),
        signup_url=_url("signup"),
        forgot_url=_url("forgot_password"),
        typed=typed if _typed_before(typed) is not None else "",
        problem=problem,
    )


def _open_form() -> Response:
    return _form_page(_fresh_form(Entrance.OPEN), handle="")


def _form_page(form: CampaignForm, handle: str, *, problem: Problem | None = None, status: int = 200) -> Response:
    return _page(
        "form.html",
        status,
        step="form",
        form=form,
        handle=handle,
        submit_url=_url("submit"),
        first_url=_url("first"),
        problem=problem,
    )


def _notice(status: int, heading: str, text: str | Markup, *actions: Action) -> Response:
    return _page("notice.html", status, step="notice", heading=heading, text=text, actions=actions)


def _page(template: str, status: int = 200, **context: Any) -> Response:
    language = i18n.language()
    campaign: Campaign | None = g.get("campaign")
    common = {
        "lang": language,
        "dir": i18n.direction(language),
        "campaign": campaign and _texts(campaign),
        "origins": campaign.website.origins if campaign else [],
        "problem": None,
    }
    return make_response(render_template(f"pages/{template}", **common | context), status)


def _texts(campaign: Campaign) -> Mapping[str, str]:
    return {
        "slug": campaign.slug,
        "name": campaign.name,
        "intro": campaign.texts.get("intro", ""),
        "thanks": campaign.texts.get("thanks", ""),
        "legal": campaign.master_form.legal.get(campaign.language, ""),
    }


def _not_open(campaign: Campaign, opening: Opening) -> Response:
    if opening is Opening.CLOSED:
        status = 410 if request.method == "POST" else 200
        heading = gettext("This campaign is over")
        sentence, time = gettext("It closed on %(time)s. Thank you for your interest."), campaign.closes_at
    else:
        status, heading = 200, gettext("This campaign has not begun yet")
        sentence, time = gettext("Come back from %(time)s."), campaign.opens_at
    return _notice(status, heading, Markup(sentence) % {"time": _written(time)})  # noqa: S704 - a sentence of ours


def _written(time: datetime | None) -> Markup:
    """In UTC, for want of a better zone; the page's script writes it anew in the reader's own."""
    if time is None:
        return Markup("")
    words = f"{format_date(time, 'long')}, {format_time(time, 'short')} (UTC)"
    return Markup('<time datetime="{}">{}</time>').format(time.isoformat(), words)


def _fresh_form(entrance: Entrance, typed: Mapping[str, str] | None = None) -> CampaignForm:
    return campaign_form(g.campaign, entrance, Profile(), typed)


def _keep(form: CampaignForm) -> str:
    return visits.keep_typed(wiring().vault, g.campaign.id, form.typed())


def _typed_before(token: str) -> dict[str, str] | None:
    return visits.typed_before(wiring().vault, g.campaign.id, token)


def _url(endpoint: str) -> str:
    return url_for(f"pages.{endpoint}", campaign=g.campaign.slug)


# Errors -----------------------------------------------------------------------------------------------------------


def from_elsewhere(_: FromElsewhere) -> Response:
    """A post that another site sent."""
    return _notice(
        403,
        gettext("This did not come from our page"),
        gettext("Your answers were not sent. Open the form here and send them again."),
        *_way_on(),
    )


def http_error(error: HTTPException) -> Response | HTTPException:
    """A page in the product's own words for what Flask refuses."""
    code = error.code or 500
    if code < 400:
        return error
    if code == 413:
        heading = gettext("That was too much")
        text = gettext("What was sent is larger than this form can be. Shorten your answers and send them again.")
    elif code == 404:
        heading = gettext("There is nothing here")
        text = gettext("Check the address.")
    elif code < 500:
        heading = gettext("That did not work")
        text = gettext("Open the form and try again.")
    else:
        heading = gettext("Something went wrong here")
        text = gettext("It is not your fault. Try again in a few minutes.")
    return _notice(code, heading, text, *_way_on())


def overloaded(error: Exception) -> Response:
    """The database has no room, or does not answer."""
    log.warning("no answer from the database", exc_info=error)
    response = _notice(
        503,
        gettext("Too much is going on right now"),
        gettext("It is not your fault. Try again in a minute."),
        *_way_on(),
    )
    response.headers["Retry-After"] = "10"
    return response


def _way_on() -> tuple[Action, ...]:
    return (Action(gettext("Open the form"), _url("first"), primary=True),) if g.get("campaign") else ()
