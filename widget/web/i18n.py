"""Which language a page speaks, and what CLDR knows in it: the countries' names, how a date is written.

The campaign's language decides; a page without a campaign follows the browser's wish.
"""

from __future__ import annotations

import unicodedata
from datetime import date
from functools import cache

import pycountry
from babel import Locale
from flask import Flask, g, request
from flask_babel import Babel

from widget.profile import LANGUAGES


def init_app(app: Flask) -> None:
    """Lets the app speak; the catalogues are in widget/translations."""
    app.config["BABEL_DEFAULT_LOCALE"] = "en"
    Babel(app, locale_selector=language)


def language() -> str:
    """One of LANGUAGES: the campaign's (`g.language`), else what the browser asks for, else English."""
    chosen: str | None = g.get("language")
    return chosen or request.accept_languages.best_match(LANGUAGES) or "en"


def direction(tag: str) -> str:
    """`ltr` or `rtl`, for the language."""
    return Locale.parse(tag).text_direction


@cache
def country_names(tag: str) -> dict[str, str]:
    """Alpha-3 code → name in the language (CLDR), in alphabetical order of that language's readers."""
    names = Locale.parse(tag).territories
    named = {country.alpha_3: names.get(country.alpha_2, country.name) for country in pycountry.countries}
    return dict(sorted(named.items(), key=lambda item: _alphabetical(item[1])))


def month_number(word: str, tag: str) -> int | None:
    """1 to 12 for a month's name in the language, or for three or more letters that begin no other's."""
    typed = _alphabetical(word)
    found = {number for name, number in _months(tag) if name == typed or (len(typed) > 2 and name.startswith(typed))}
    return found.pop() if len(found) == 1 else None


@cache
def _months(tag: str) -> tuple[tuple[str, int], ...]:
    months = Locale.parse(tag).months
    return tuple(
        (_alphabetical(name).rstrip("."), number)
        for context in ("format", "stand-alone")
        for width in ("wide", "abbreviated")
        for number, name in months[context][width].items()
    )


def written_date(day: date) -> str:
    """As the form asks for it: day, month, year."""
    return f"{day.day:02}/{day.month:02}/{day.year:04}"


def _alphabetical(name: str) -> str:
    """Accents do not count: Élan stands between Eland and Elba."""
    return "".join(c for c in unicodedata.normalize("NFKD", name.casefold()) if not unicodedata.combining(c))
