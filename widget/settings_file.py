"""The settings as one TOML file, in and out: what `flask config apply`, `check` and `export` do.

The file says how each entry that it holds is to be, whole: a key that is left out has its default. Entries that it
does not hold stay as they are; applying a file never deletes any. Entries are found again by their name
(integrations), slug (websites, master forms, campaigns), or scope and target (push rules).

Not here: what a single valid setting is (`rules`).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from enum import StrEnum
from typing import Any, TypeVar

import tomlkit
from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session, joinedload
from tomlkit.items import Item, Table

from widget import campaigns, circuit, models, rules
from widget.models import Scope
from widget.openfield import wire
from widget.profile import LANGUAGES, Civility, Gender, Variable
from widget.rules import NONE, Location, Rule
from widget.toml_lines import Path, lines, nearest

KINDS: Mapping[str, type[Rule]] = {
    "integration": rules.Integration,
    "website": rules.Website,
    "master_form": rules.MasterForm,
    "campaign": rules.Campaign,
    "push_rule": rules.PushRule,
}
"""What a file may hold, in the order in which it is applied: entries refer to entries of earlier kinds only."""

MODELS: Mapping[str, type[models.Base]] = {
    "integration": models.Integration,
    "website": models.Website,
    "master_form": models.MasterForm,
    "campaign": models.Campaign,
    "push_rule": models.PushRule,
}

TARGETS = tuple(scope for scope in Scope if scope is not Scope.DEFAULT)
"""The scopes whose rules are for one entry; they are called what the kind of that entry is."""

ORDER = {key: place for place, key in enumerate((*LANGUAGES, *wire.OPERATIONS, *Variable, *Gender, *Civility))}
"""The order of keys in tables that PostgreSQL keeps in one of its own (jsonb). No rule has a key of these names."""

ONE_AT_A_TIME = 0x0F1E1D
"""The advisory lock under which files are applied: an arbitrary number, used for nothing else."""

R = TypeVar("R", bound=Rule)

RuleKey = tuple[Scope, str | None]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong at one place of a file, and what to do about it.

    Attributes:
        line: from 1.
        place: such as `campaign[2] "summer": closes_at`; positions count from 1.
        reason: what is wrong and what to do, to be read after the place.
    """

    line: int
    place: str
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.place}: {self.reason}"


class WrongFile(Exception):
    """A file is refused whole. `problems` are all that were found, in the order of their lines."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(problems, key=lambda problem: problem.line)
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """Settings that hold together, each under the name, slug, or scope and target that it is found by."""

    integrations: Mapping[str, rules.Integration] = field(default_factory=dict)
    websites: Mapping[str, rules.Website] = field(default_factory=dict)
    master_forms: Mapping[str, rules.MasterForm] = field(default_factory=dict)
    campaigns: Mapping[str, rules.Campaign] = field(default_factory=dict)
    push_rules: Mapping[RuleKey, rules.PushRule] = field(default_factory=dict)

    def kinds(self) -> Mapping[str, Mapping[Any, Rule]]:
        """The same under the names that a file has for them."""
        every = self.integrations, self.websites, self.master_forms, self.campaigns, self.push_rules
        return dict(zip(KINDS, every, strict=True))


@dataclass(slots=True)
class Tally:
    """What applying a file did to the entries of one kind."""

    created: int = 0
    changed: int = 0
    unchanged: int = 0


# In --------------------------------------------------------------------------------------------------------------


def parse(text: str, *, private_hosts: Collection[str], known: SettingsFile) -> SettingsFile:
    """The settings that `text` holds, whole and checked, for themselves and with what is there already.

    Args:
        text: TOML 1.0.0.
        private_hosts: hosts (`name` or `name:port`) that a URL may name although they are private or plain http.
        known: what the database has (`stored`): what the file may refer to, and must not break.

    Raises:
        WrongFile: with every problem that was found.
    """
    text = text.removeprefix("\ufeff")
    try:
        data, places = tomllib.loads(text), lines(text)
    except (ValueError, RecursionError) as error:
        raise WrongFile([_syntax_problem(str(error), text)]) from None
    return _Reading(data, places, private_hosts, known).settings()


def _syntax_problem(message: str, text: str) -> Problem:
    """tomllib's message, whose end says where: "(at line 3, column 5)" or "(at end of document)"."""
    said = re.fullmatch(r"(?P<reason>.*) \(at line (?P<line>\d+), column (?P<column>\d+)\)", message, re.DOTALL)
    if said:
        return Problem(int(said["line"]), f"column {said['column']}", f"is not TOML: {said['reason']}")
    return Problem(max(1, len(text.splitlines())), "end of the file", f"is not TOML: {message}")


class _Reading:
    """One file on its way to being settings. Problems gather, so that all of them can be told at once."""

    def __init__(
        self, data: Mapping[str, Any], places: Mapping[Path, int], private_hosts: Collection[str], known: SettingsFile
    ) -> None:
        self._data = data
        self._places = places
        self._context = {"private_hosts": frozenset(private_hosts)}
        self._known = known
        self._problems: list[Problem] = []
        self._entries: dict[str, Sequence[Any]] = {kind: self._listed(kind) for kind in KINDS}
        self._named: dict[str, dict[str, int]] = {kind: self._positions(kind) for kind in KINDS}
        """The position of each entry that has a name, be the rest of it right or wrong."""

    def settings(self) -> SettingsFile:
        for key in self._data:
            if key not in KINDS:
                self._refuse((key,), rules.unknown("table", key, KINDS))
        valid = [entry for kind in KINDS for entry in self._validated(kind)]
        self._check_references()
        websites = {each.slug: each for each in _of(rules.Website, valid)}
        file = SettingsFile(
            integrations={each.name: each for each in _of(rules.Integration, valid)},
            websites=websites,
            master_forms={each.slug: each for each in _of(rules.MasterForm, valid)},
            campaigns={each.slug: self._in_its_language(each, websites) for each in _of(rules.Campaign, valid)},
            push_rules={(each.scope, each.target): each for each in _of(rules.PushRule, valid)},
        )
        self._check_words(file)
        if self._problems:
            raise WrongFile(self._problems)
        return file

    def _in_its_language(self, campaign: rules.Campaign, websites: Mapping[str, rules.Website]) -> rules.Campaign:
        website = self._current("website", campaign.website, websites, self._known.websites)
        if campaign.language or not website:
            return campaign
        return campaign.model_copy(update={"language": website.language})

    def _current(self, kind: str, name: str, of_file: Mapping[str, R], of_database: Mapping[str, R]) -> R | None:
        """The entry as it would be once the file is applied; None where there is none, or a wrong one."""
        return (of_file if name in self._named[kind] else of_database).get(name)

    def _refuse(self, path: Path, reason: str) -> None:
        self._problems.append(Problem(nearest(self._places, path), self._place(path), reason))

    def _place(self, path: Path) -> str:
        if len(path) < 2:
            return str(path[0])
        kind, position, *rest = path
        name = _name(str(kind), self._entries[str(kind)][int(position)])
        entry = f"{kind}[{int(position) + 1}]" + (f' "{name}"' if name and name.isprintable() else "")
        return f"{entry}: {_dotted(rest)}" if rest else entry

    def _listed(self, kind: str) -> Sequence[Any]:
        entries = self._data.get(kind, [])
        if isinstance(entries, list):
            return entries
        self._refuse((kind,), f"there may be several: write each under [[{kind}]], with two brackets on each side")
        return []

    def _positions(self, kind: str) -> dict[str, int]:
        positions: dict[str, int] = {}
        for position, entry in enumerate(self._entries[kind]):
            name = _name(kind, entry)
            if name in positions:
                line = nearest(self._places, (kind, positions[name]))
                key = "target" if kind == "push_rule" else _key(kind)
                self._refuse((kind, position, key), f'"{name}" is on line {line} already: keep one of them')
            elif name:
                positions[name] = position
        return positions

    def _validated(self, kind: str) -> Iterator[Rule]:
        for position, entry in enumerate(self._entries[kind]):
            try:
                yield KINDS[kind].model_validate(entry, context=self._context)
            except ValidationError as error:
                for location, reason in rules.reasons(error, KINDS[kind]):
                    self._refuse((kind, position, *location), reason)

    def _check_references(self) -> None:
        for position, entry in self._tables("campaign"):
            for kind in ("website", "master_form"):
                self._check_reference(("campaign", position, kind), kind, entry.get(kind))
        for position, entry in self._tables("push_rule"):
            if entry.get("scope") in TARGETS:
                self._check_reference(("push_rule", position, "target"), entry["scope"], entry.get("target"))
            if entry.get("integration") != NONE:
                path = ("push_rule", position, "integration")
                self._check_reference(path, "integration", entry.get("integration"))

    def _tables(self, kind: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
        return ((position, entry) for position, entry in enumerate(self._entries[kind]) if isinstance(entry, dict))

    def _check_reference(self, path: Path, kind: str, name: Any) -> None:
        names = self._named[kind].keys() | self._known.kinds()[kind].keys()
        if isinstance(name, str) and name not in names:
            self._refuse(path, rules.unknown(kind.replace("_", " "), name, names))

    def _check_words(self, file: SettingsFile) -> None:
        """Whether each campaign asks in its own language: the file's, and those of the database that use its forms."""
        for slug, campaign in file.campaigns.items():
            form = self._current("master_form", campaign.master_form, file.master_forms, self._known.master_forms)
            for gap in _gaps(form, campaign):
                self._refuse(
                    ("campaign", self._named["campaign"][slug], "language"),
                    f'is {campaign.language}, but {_dotted(gap)} of master form "{campaign.master_form}" is not in '
                    f'{campaign.language}: add {campaign.language} = "…" there, or choose another language',
                )
        for slug, campaign in self._known.campaigns.items():
            form = None if slug in self._named["campaign"] else file.master_forms.get(campaign.master_form)
            for gap in _gaps(form, campaign):
                self._refuse(
                    ("master_form", self._named["master_form"][campaign.master_form], *gap),
                    f'is not in {campaign.language}, in which the campaign "{slug}" asks, which is there already: '
                    f'add {campaign.language} = "…"',
                )


def _of(kind: type[R], valid: Iterable[Rule]) -> Iterator[R]:
    return (each for each in valid if isinstance(each, kind))


def _gaps(form: rules.MasterForm | None, campaign: rules.Campaign) -> Iterable[Location]:
    return form.gaps(campaign.language) if form and campaign.language else ()


def _key(kind: str) -> str:
    return "name" if kind == "integration" else "slug"


def _name(kind: str, entry: Any) -> str | None:
    """What an entry is found by, as its file has it."""
    if not isinstance(entry, dict):
        return None
    keys = ("scope", "target") if kind == "push_rule" else (_key(kind),)
    parts = [entry[key] for key in keys if key in entry]
    return " ".join(parts) if parts and all(isinstance(part, str) for part in parts) else None


def _dotted(location: Sequence[str | int]) -> str:
    """A place inside an entry as people count: `fields[2].prefilled`."""
    return "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


# Into the database and out of it ---------------------------------------------------------------------------------


def stored(session: Session) -> SettingsFile:
    """The settings that the database has. They were checked when they were saved, and are not again."""
    every_rule = select(models.PushRule).options(
        joinedload(models.PushRule.website),
        joinedload(models.PushRule.master_form),
        joinedload(models.PushRule.campaign),
    )
    return SettingsFile(
        integrations={row.name: _integration(row) for row in session.scalars(select(models.Integration))},
        websites={row.slug: _website(row) for row in session.scalars(select(models.Website))},
        master_forms={row.slug: _master_form(row) for row in session.scalars(select(models.MasterForm))},
        campaigns={row.slug: _campaign(row) for row in session.scalars(select(models.Campaign))},
        push_rules={_rule_key(row): _push_rule(row) for row in session.scalars(every_rule)},
    )


def apply(session: Session, file: SettingsFile) -> Mapping[str, Tally]:
    """Makes the database's settings what `file` says, in the session's transaction; the caller commits.

    What `file` does not hold stays as it is. Applying it again changes nothing. Files are applied one at a time: a
    second waits for the first one's transaction to end.

    Returns:
        What happened to the entries of each kind, in the order of `KINDS`.
    """
    session.execute(select(func.pg_advisory_xact_lock(ONE_AT_A_TIME)))
    rows: dict[str, dict[Any, Any]] = {}
    tallies = {}
    for kind, entries in file.kinds().items():
        found = session.scalars(select(MODELS[kind]).execution_options(populate_existing=True))
        rows[kind] = {_row_key(row): row for row in found}
        tallies[kind] = tally = Tally()
        for key, entry in entries.items():
            columns = _columns(entry, rows)
            row = rows[kind].get(key)
            if row is None:
                rows[kind][key] = row = MODELS[kind](**columns)
                session.add(row)
                tally.created += 1
            elif _change(row, columns):
                tally.changed += 1
                if kind == "integration":
                    circuit.resume(session, row.id)
            else:
                tally.unchanged += 1
    session.flush()
    return tallies


def _change(row: models.Base, columns: Mapping[str, Any]) -> bool:
    """Sets the columns that differ, and says whether any did."""
    differing = {name: value for name, value in columns.items() if getattr(row, name) != value}
    for name, value in differing.items():
        setattr(row, name, value)
    return bool(differing)


def _columns(entry: Rule, rows: Mapping[str, Mapping[Any, Any]]) -> dict[str, Any]:
    """The row of an entry: the entry's own keys, with rows in the place of names."""
    columns = entry.model_dump()
    match entry:
        case rules.Website():
            return columns | {"origins": list(entry.origins)}
        case rules.MasterForm():
            return columns | {
                "fields": [each.to_json() for each in entry.fields],
                "optins": [each.to_json() for each in entry.optins],
            }
        case rules.Campaign():
            return columns | {
                "website": rows["website"][entry.website],
                "master_form": rows["master_form"][entry.master_form],
                "texts": entry.texts.to_json(),
            }
        case rules.PushRule():
            integration = None if entry.integration == NONE else rows["integration"][entry.integration]
            targets: dict[str, Any] = {
                kind: rows[kind][entry.target] if kind == entry.scope else None for kind in TARGETS
            }
            return targets | {"scope": entry.scope, "integration": integration}
    return columns


def _row_key(row: Any) -> Any:
    if isinstance(row, models.PushRule):
        return _rule_key(row)
    return row.name if isinstance(row, models.Integration) else row.slug


def _rule_key(row: models.PushRule) -> RuleKey:
    target = row.website or row.master_form or row.campaign
    return row.scope, target.slug if target else None


def _integration(row: models.Integration) -> rules.Integration:
    return rules.Integration.model_construct(**{name: getattr(row, name) for name in rules.Integration.model_fields})


def _website(row: models.Website) -> rules.Website:
    return rules.Website.model_construct(
        slug=row.slug, name=row.name, origins=tuple(row.origins), language=row.language
    )


def _master_form(row: models.MasterForm) -> rules.MasterForm:
    return rules.MasterForm.model_construct(
        slug=row.slug, name=row.name, fields=campaigns.fields(row), optins=campaigns.optins(row), legal=row.legal
    )


def _campaign(row: models.Campaign) -> rules.Campaign:
    return rules.Campaign.model_construct(
        slug=row.slug,
        name=row.name,
        website=row.website.slug,
        master_form=row.master_form.slug,
        language=row.language,
        opens_at=row.opens_at and row.opens_at.astimezone(UTC),
        closes_at=row.closes_at and row.closes_at.astimezone(UTC),
        texts=rules.Texts.trusted(row.texts),
    )


def _push_rule(row: models.PushRule) -> rules.PushRule:
    scope, target = _rule_key(row)
    integration = row.integration.name if row.integration else NONE
    return rules.PushRule.model_construct(scope=scope, target=target, integration=integration)


# Out -------------------------------------------------------------------------------------------------------------


def export(session: Session) -> str:
    """The settings that the database has, as TOML that `parse` and `apply` take back and find nothing to change.

    The order is always the same: by kind, then by name or slug; push rules from the widest to the narrowest.
    """
    document = tomlkit.document()
    for kind, entries in stored(session).kinds().items():
        tables = tomlkit.aot()
        for key in sorted(entries, key=_rank):
            tables.append(_table(entries[key]))
        if tables:
            document.append(kind, tables)
    return tomlkit.dumps(document)


def _rank(key: str | RuleKey) -> tuple[int, str]:
    return (0, key) if isinstance(key, str) else (campaigns.SPECIFICITY[key[0]], key[1] or "")


def _table(entry: Rule) -> Table:
    """The entry's keys in the order of its rule; texts by language, and the like, in tables of their own below."""
    table = tomlkit.table()
    written = _plain(entry.model_dump())
    for key in sorted(written, key=lambda key: isinstance(written[key], dict)):
        value = written[key]
        table.append(key, _section(value) if isinstance(value, dict) else _item(value))
    return table


def _section(texts: Mapping[str, str]) -> Table:
    table = tomlkit.table()
    for key, text in texts.items():
        table.append(key, _lines(text) if "\n" in text else tomlkit.string(text))
    return table


def _lines(text: str) -> Item:
    """A text of several lines, all of them below the opening quotes, whose own line break TOML leaves out."""
    opening = '"""\n'
    written = tomlkit.string(text, multiline=True).as_string()
    return tomlkit.value(written if written.startswith(opening) else opening + written.removeprefix('"""'))


def _item(value: Any) -> Item:
    if isinstance(value, dict):
        table = tomlkit.inline_table()
        for key, inner in value.items():
            table.append(key, _item(inner))
        return table
    if not isinstance(value, list):
        item: Item = tomlkit.item(value)
        return item
    array = tomlkit.array()
    if len(value) == 1 and isinstance(value[0], str):
        array.append(value[0])
        return array
    for inner in value:
        array.add_line(_item(inner), indent="  ")
    array.add_line(indent="")
    return array


def _plain(value: Any) -> Any:
    """What TOML can say, without what says nothing: None, and empty lists and tables."""
    if isinstance(value, Mapping):
        plain = {key: _plain(value[key]) for key in sorted(value, key=lambda key: ORDER.get(key, 0))}
        return {key: inner for key, inner in plain.items() if inner not in (None, {}, [])}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.value if isinstance(value, StrEnum) else value
