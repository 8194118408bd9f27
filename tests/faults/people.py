"""Participants over HTTP, as browsers without JavaScript are: they sign up, come back, click twice, try again.

They read as little of a page as a browser needs to send it on: `tests.screens` reads all, and strictly, but takes
longer for it than the page took to make.

Not here: when they do what (`chaos`), and whether it came to what it should (`history`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from random import Random
from urllib.parse import urljoin

import requests

from tests.faults.history import CITY, EMAIL, USERNAME, History, Kind, Outcome, Submission

TIMEOUT = 60.0
"""Seconds that a browser waits: longer than the server may take for a post."""

PATIENCE = 60.0
"""Seconds in which somebody who does not give up posts again and again: longer than a post counts as being answered
whose process has died (`visits.ABANDONED`)."""

FIRSTNAME, LASTNAME, ZIPCODE = "Party.FirstName", "Party.LastName", "Party.Address.ZipCode"
COUNTRY = "Party.Address.CountryId"

VARIABLES = {
    EMAIL: "email",
    USERNAME: "username",
    FIRSTNAME: "firstname",
    LASTNAME: "lastname",
    CITY: "locality",
    ZIPCODE: "zipcode",
    COUNTRY: "country",
}
"""What the form calls what Openfield has at a path."""


class Unreachable(Exception):
    """There was no answer, or one that says that the server has an error."""


class Page(HTMLParser):
    """What a browser needs of a page: which step it is, and what each of its forms would send.

    Attributes:
        step: `first`, `form`, `thanks` or `notice`; '' of a page that is none of ours.
        forms: the last part of a form's address (`login`, `signup`, `submit`) → its fields.
    """

    def __init__(self, status: int, html: str) -> None:
        super().__init__()
        self.status = status
        self.step = ""
        self.forms: dict[str, dict[str, str]] = {}
        self._fields: dict[str, str] = {}
        self._select = ""
        self.feed(html[max(0, html.find("<main")) :])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes what counts, of forms and their controls."""
        values = {name: value or "" for name, value in attrs}
        if tag == "main":
            self.step = values.get("data-step", "")
        elif tag == "form":
            self._fields = self.forms[values.get("action", "").rpartition("/")[2]] = {}
        elif tag == "select":
            self._select = values["name"]
            self._fields[self._select] = ""
        elif tag == "option" and "selected" in values:
            self._fields[self._select] = values.get("value", "")
        elif tag == "input" and "name" in values:
            self._input(values)

    def _input(self, values: Mapping[str, str]) -> None:
        if values.get("type") not in ("radio", "checkbox") or "checked" in values:
            self._fields[values["name"]] = values.get("value", "")


class Browser:
    """One person's, at an address of their own."""

    def __init__(self, site: str, address: str) -> None:
        self._site = site
        self._http = requests.Session()
        self._http.trust_env = False
        self._http.headers.update({"Sec-Fetch-Site": "same-origin", "X-Forwarded-For": address})

    def get(self, path: str) -> Page:
        """Raises: Unreachable."""
        return self._ask("GET", path)

    def post(self, path: str, fields: Mapping[str, str]) -> Page:
        """Raises: Unreachable."""
        return self._ask("POST", path, fields)

    def _ask(self, method: str, path: str, fields: Mapping[str, str] | None = None) -> Page:
        try:
            response = self._http.request(method, urljoin(self._site, path), data=fields, timeout=TIMEOUT)
        except requests.RequestException as error:
            raise Unreachable(str(error)) from None
        if response.status_code >= 500:
            raise Unreachable(str(response.status_code))
        return Page(response.status_code, response.text)

    def close(self) -> None:
        """Ends the connections."""
        self._http.close()


class Person:
    """Somebody who takes part, once or more often.

    Args:
        name: also the user name, and the beginning of the e-mail address.
        address: the network address.
        over: when it is set, whoever would try again gives up.
    """

    def __init__(
        self,
        name: str,
        *,
        site: str,
        campaign: str,
        address: str,
        history: History,
        over: threading.Event | None = None,
    ) -> None:
        self.name = name
        self.email = f"{name}@example.org"
        self.password = f"{name}-keeps-this-secret"
        self.over = over or threading.Event()
        self._campaign = f"/c/{campaign}"
        self._browser = Browser(site, address)
        self._history = history

    def sign_up(self, *, patient: bool = True, twice: bool = False) -> Submission | None:
        """From the first screen to the last; `patient` and `twice` as in `send`.

        Returns:
            None when it did not come to a form with an account to make: then nothing was sent.
        """
        form = self.open_signup()
        return None if form is None else self.send(*form, patient=patient, twice=twice)

    def come_back(self, *, new_email: bool = False, patient: bool = True, twice: bool = False) -> Submission | None:
        """Logs in and changes their address, and their e-mail if they want to.

        Returns:
            None when they could not log in: then nothing was sent.
        """
        form = self.open_login(new_email=new_email)
        return None if form is None else self.send(*form, patient=patient, twice=twice)

    def can_log_in(self) -> bool:
        """Whether they get to the form; they leave it."""
        return self._log_in() is not None

    def open_signup(self) -> tuple[Submission, dict[str, str]] | None:
        """The filled-in form of a sign-up, and what is about to be sent."""
        sent = {
            EMAIL: self.email,
            USERNAME: self.name,
            FIRSTNAME: "Anna",
            LASTNAME: self.name.title(),
            COUNTRY: "BEL",
        }
        try:
            if "signup" not in self._browser.get(self._campaign).forms:
                return None
            fields = self._browser.post(f"{self._campaign}/signup", {}).forms.get("submit", {})
        except Unreachable:
            return None
        if "username" not in fields:
            return None
        submission = self._begin(Kind.CREATE, sent)
        return submission, {**fields, **_typed(submission), "password": self.password}

    def open_login(self, *, new_email: bool = False) -> tuple[Submission, dict[str, str]] | None:
        """The filled-in form of somebody who has logged in, and what is about to be sent."""
        fields = self._log_in()
        if fields is None:
            return None
        submission = self._begin(Kind.UPDATE, {EMAIL: self._next_email()} if new_email else {})
        return submission, {**fields, **_typed(submission)}

    def _log_in(self) -> dict[str, str] | None:
        credentials = {"username": self.name, "password": self.password, "typed": ""}
        try:
            page = self._browser.post(f"{self._campaign}/login", credentials)
        except Unreachable:
            return None
        fields = page.forms.get("submit", {})
        return fields if fields.get("handle") else None

    def send(
        self, submission: Submission, fields: Mapping[str, str], *, patient: bool = True, twice: bool = False
    ) -> Submission:
        """Posts the form; the same post again as long as there is no answer, if they are patient.

        Args:
            twice: it is a double click: two posts at the same time.
        """
        deadline = time.monotonic() + (PATIENCE if patient else 0.0)
        for outcome in self._click_twice(fields) if twice else [self._post(fields)]:
            self._history.heard(submission, outcome)
        while submission.outcome is Outcome.UNKNOWN and time.monotonic() < deadline and not self.over.wait(1.0):
            self._history.heard(submission, self._post(fields))
        return submission

    def _post(self, fields: Mapping[str, str]) -> Outcome:
        try:
            page = self._browser.post(f"{self._campaign}/submit", fields)
        except Unreachable:
            return Outcome.UNKNOWN
        return Outcome.ACKNOWLEDGED if page.step == "thanks" else Outcome.REFUSED

    def _click_twice(self, fields: Mapping[str, str]) -> list[Outcome]:
        with ThreadPoolExecutor(2) as clicks:
            return list(clicks.map(self._post, [fields, fields]))

    def _begin(self, kind: Kind, sent: Mapping[str, str]) -> Submission:
        number = len(self._history.of(self.name)) + 1
        return self._history.begin(self.name, kind, {**sent, ZIPCODE: f"{1000 + number}"})

    def _next_email(self) -> str:
        return f"{self.name}.{len(self._history.of(self.name)) + 1}@example.org"

    def leave(self) -> None:
        """Closes the browser."""
        self._browser.close()


def _typed(submission: Submission) -> dict[str, str]:
    return {VARIABLES[path]: value for path, value in submission.sent.items()}


WAITS = (0.5, 1, 2, 4, 8, 16, 32)
"""Seconds before each try of somebody who comes back: what they sent before may still be on its way."""


class Life:
    """What one person does, as the dice have it: nearly everybody signs up once; a fifth come back several times.

    Args:
        dice: seeded with the run's seed and the person's number, so that a seed gives everybody the same life.
    """

    def __init__(self, dice: Random) -> None:
        self.patient = dice.random() < 0.7
        self.double_clicks = dice.random() < 0.05
        self.starts_over = dice.random() < 0.5
        """After no answer, from the first screen; otherwise they go away."""
        self.impatient = dice.random() < 0.02
        """Signs up a second time although they were thanked."""
        visits = dice.randint(1, 4) if dice.random() < 0.2 else 0
        self.visits = [dice.random() < 0.2 for _ in range(visits)]
        """For each time that they come back: whether they change their e-mail address."""

    def live(self, person: Person) -> Iterator[float]:
        """Does it all, one after the other; gives how many seconds they do nothing now."""
        while (submission := person.sign_up(patient=self.patient, twice=self.double_clicks)) is None:
            yield 1.0
        told = submission.outcome
        if (told is Outcome.UNKNOWN and self.starts_over) or (told is Outcome.ACKNOWLEDGED and self.impatient):
            person.sign_up(patient=self.patient)
        for new_email in self.visits:
            for pause in WAITS:
                yield pause
                if person.come_back(new_email=new_email, patient=self.patient, twice=self.double_clicks):
                    break
