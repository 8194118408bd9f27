"""On which line each thing of a TOML text stands, which `tomllib` does not tell.

Not here: whether the text is TOML. `tomllib` has accepted it, so that a small scanner is enough (TOML 1.0.0).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping

Path = tuple[str | int, ...]
"""The way to a value in what `tomllib.loads` gives: keys of tables, and positions in arrays, from 0."""

TOKEN = re.compile(
    r'''
      (?P<quoted> """ (?: \\[\s\S] | [^\\] )*? """ "{0,2}
                | \'\'\' [\s\S]*? \'\'\' '{0,2}
                | " (?: \\. | [^"\\\n] )* "
                | ' [^'\n]* ' )
    | (?P<skip> [ \t\r]+ | \#[^\n]* )
    | (?P<mark> [\[\]{}=,.\n] )
    | (?P<bare> [^\s\[\]{}=,.\#"']+ )
    ''',
    re.VERBOSE,
)


def lines(text: str) -> Mapping[Path, int]:
    """The line, from 1, of every key, table and array element of `text`, which `tomllib` must have accepted.

    An element of an array of tables stands where its header does, a key where it is written.
    """
    return _Scanner(text).scan()


def nearest(places: Mapping[Path, int], path: Path) -> int:
    """The line of `path`, or of the nearest thing around it that is written in the text."""
    while path and path not in places:
        path = path[:-1]
    return places.get(path, 1)


class _Scanner:
    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, int]] = []
        line = 1
        for match in TOKEN.finditer(text):
            if match.lastgroup != "skip":
                self._tokens.append((match[0], line))
            line += match[0].count("\n")
        self._tokens.append(("\n", line))
        self._position = 0
        self._lengths: dict[Path, int] = {}
        """How many elements each array of tables has so far."""
        self._found: dict[Path, int] = {}

    def scan(self) -> Mapping[Path, int]:
        table: Path = ()
        while self._position < len(self._tokens):
            if self._next() == "[":
                table = self._header()
            elif self._next() == "\n":
                self._take()
            else:
                self._pair(table)
        return self._found

    def _next(self) -> str:
        return self._tokens[self._position][0]

    def _line(self) -> int:
        return self._tokens[self._position][1]

    def _take(self) -> str:
        self._position += 1
        return self._tokens[self._position - 1][0]

    def _header(self) -> Path:
        line = self._line()
        self._take()
        is_array = self._next() == "["
        if is_array:
            self._take()
        *parents, name = self._key("]")
        path: Path = ()
        for parent in parents:
            path = self._latest((*path, parent))
        path = (*path, name)
        if is_array:
            self._lengths[path] = self._lengths.get(path, 0) + 1
            self._take()
        path = self._latest(path)
        self._found[path] = line
        return path

    def _latest(self, path: Path) -> Path:
        """A header that names an array of tables means its last element."""
        return (*path, self._lengths[path] - 1) if path in self._lengths else path

    def _key(self, end: str) -> list[str]:
        """The parts of a dotted key, up to and including `end`."""
        parts = []
        while (part := self._take()) != end:
            if part != ".":
                parts.append(tomllib.loads(f"key = {part}")["key"] if part[0] in "\"'" else part)
        return parts

    def _pair(self, table: Path) -> None:
        line = self._line()
        path = table
        for part in self._key("="):
            path = (*path, part)
            self._found.setdefault(path, line)
        self._value(path)

    def _value(self, path: Path) -> None:
        if self._next() == "[":
            self._array(path)
        elif self._next() == "{":
            self._inline_table(path)
        else:
            while self._next() not in ("\n", ",", "]", "}"):
                self._take()

    def _array(self, path: Path) -> None:
        self._take()
        position = 0
        while self._next() != "]":
            if self._next() in ("\n", ","):
                self._take()
                continue
            element = (*path, position)
            self._found[element] = self._line()
            self._value(element)
            position += 1
        self._take()

    def _inline_table(self, path: Path) -> None:
        self._take()
        while self._next() != "}":
            if self._next() in ("\n", ","):
                self._take()
            else:
                self._pair(path)
        self._take()
