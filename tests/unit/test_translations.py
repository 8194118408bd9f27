"""The catalogues: whatever the product says, it says in each of its languages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.frontend import CommandLineInterface
from babel.messages.pofile import read_po

from widget.profile import LANGUAGES

ROOT = Path(__file__).parents[2]
PLACEHOLDER = re.compile(r"%\(\w+\)s|%\(\w+\)d|%%")

translated = pytest.mark.parametrize("language", [each for each in LANGUAGES if each != "en"])


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """What templates and modules say, in English."""
    path = tmp_path_factory.mktemp("catalogue") / "messages.pot"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        command = ["pybabel", "-q", "extract", "-F", "babel.cfg", "-k", "lazy_gettext", "-o", str(path), "."]
        CommandLineInterface().run(command)
    return _read(path)


def catalogue(language: str) -> Catalog:
    """The language's catalogue."""
    return _read(ROOT / "widget" / "translations" / language / "LC_MESSAGES" / "messages.po")


def _read(path: Path) -> Catalog:
    with path.open("rb") as file:
        return read_po(file)


def _forms(text: str | Sequence[str] | None) -> tuple[str, ...]:
    """A message's text; of one with a number, the singular and the plural."""
    return (text,) if isinstance(text, str) else tuple(text or ())


def _sayings(catalog: Catalog) -> set[tuple[str, ...]]:
    """The English messages."""
    return {_forms(message.id) for message in catalog if message.id}


def _pairs(language: str) -> Iterator[tuple[str, str]]:
    """English and translation, form by form."""
    for message in catalogue(language):
        if message.id:
            yield from zip(_forms(message.id), _forms(message.string), strict=True)


def test_the_sources_have_messages(sources: Catalog) -> None:
    assert {("Log in",), ("Take part",), ("You have an account already",)} <= _sayings(sources)


@translated
def test_no_message_is_missing_and_none_is_left_over(language: str, sources: Catalog) -> None:
    assert _sayings(catalogue(language)) == _sayings(sources)


@translated
def test_every_message_is_translated_and_none_is_a_guess(language: str) -> None:
    assert not [message.id for message in catalogue(language) if message.id and message.fuzzy]
    for english, string in _pairs(language):
        assert string.strip(), english


@translated
def test_placeholders_are_those_of_the_source(language: str) -> None:
    for english, string in _pairs(language):
        assert sorted(PLACEHOLDER.findall(string)) == sorted(PLACEHOLDER.findall(english)), (english, string)


@translated
def test_sentences_end_as_the_source_does(language: str) -> None:
    for english, string in _pairs(language):
        if english.endswith((".", "…", ":", "?")):
            assert string[-1] == english[-1], (english, string)


def test_french_never_breaks_a_line_before_its_punctuation() -> None:
    for _, string in _pairs("fr"):
        assert not re.search(r"(?<!\u00a0)[:;?!»]", string), string
        assert "'" not in string, string


@translated
def test_a_catalogue_says_how_it_addresses_its_reader(language: str) -> None:
    assert 'The reader is "' in catalogue(language).header_comment
