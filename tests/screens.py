"""The iframe's pages as a participant meets them, over HTTP: read what a screen says, fill in its forms, send them.

Every page is parsed strictly, as HTML5: a page with a mistake in it fails the test that met it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree.ElementTree import Element

import html5lib
import requests


class Screen:
    """One page.

    Attributes:
        status, html, headers: of the response.
        step: `first`, `form`, `thanks` or `notice`.
    """

    def __init__(self, http: requests.Session, response: requests.Response) -> None:
        self.http = http
        self.status, self.html, self.headers = response.status_code, response.text, response.headers
        self.url = response.url
        self.root: Element = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(self.html)
        self.step = self._one("main").get("data-step")

    @property
    def text(self) -> str:
        """All that is in `<main>`, white space folded."""
        return said(self._one("main"))

    @property
    def title(self) -> str:
        """The document's title."""
        return said(self._one("title"))

    @property
    def headings(self) -> list[str]:
        """The h1 and the h2s."""
        return [said(each) for each in self.root.iter() if each.tag in ("h1", "h2")]

    @property
    def errors(self) -> dict[str, str]:
        """What is said at each field: its name → the sentence."""
        return {
            each.get("id", "").removesuffix("-error"): said(each).removeprefix("Error: ")
            for each in self.root.iter("p")
            if each.get("class") == "error"
        }

    def fields(self, action: str) -> dict[str, str]:
        """What a browser would post from the form with this action if nothing were touched."""
        return dict(_successful(self._form(action)))

    def names(self, action: str) -> list[str]:
        """The names of the form's controls, in order, each once."""
        controls = [each.get("name") for each in self._form(action).iter() if each.tag in ("input", "select")]
        return list(dict.fromkeys(name for name in controls if name))

    def send(self, action: str, values: Mapping[str, Any] | None = None, **more: Any) -> Screen:
        """Fills in the form with this action and sends it. None leaves a field out, a list repeats it."""
        form = self._form(action)
        data = {**dict(_successful(form)), **(values or {}), **more}
        return Screen(self.http, self.http.post(form.get("action", ""), data=data))

    def links(self) -> dict[str, Element]:
        """What a link says → the link."""
        return {said(each): each for each in self.root.iter("a")}

    def offers(self, action: str) -> bool:
        """Whether the page has a form with this action."""
        return any(each.get("action", "").endswith(f"/{action}") for each in self.root.iter("form"))

    def _form(self, action: str) -> Element:
        """The last form with this action: a message's own come before it."""
        return [each for each in self.root.iter("form") if each.get("action", "").endswith(f"/{action}")][-1]

    def _one(self, tag: str) -> Element:
        (found,) = self.root.iter(tag)
        return found


def visit(http: requests.Session, path: str) -> Screen:
    """The page at this path."""
    return Screen(http, http.get(path))


def said(element: Element) -> str:
    """The element's text, white space folded."""
    return " ".join("".join(element.itertext()).split())


def _successful(form: Element) -> Iterator[tuple[str, str]]:
    """HTML standard, 4.10.21.4: what a form sends."""
    for control in form.iter():
        name = control.get("name")
        if not name:
            continue
        if control.tag == "select":
            chosen = [each.get("value", "") for each in control.iter("option") if each.get("selected") is not None]
            yield name, chosen[0] if chosen else ""
        elif control.tag == "input" and (
            control.get("type") not in ("radio", "checkbox") or control.get("checked") is not None
        ):
            yield name, control.get("value", "y" if control.get("type") == "checkbox" else "")
