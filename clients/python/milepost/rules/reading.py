"""Text → rule tests, with file, line and column of every fault."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from milepost import journeys, names
from milepost._near import did_you_mean
from milepost.documents import DocumentError
from milepost.documents.places import Places
from milepost.documents.reading import below
from milepost.documents.text import load
from milepost.instants import instant_of
from milepost.journeys.document import document_of_tree
from milepost.rules.data import UserReader
from milepost.rules.model import (
    Change,
    Expectation,
    Members,
    Membership,
    RuleTests,
    Scenario,
    Size,
    TestedJourney,
)
from milepost.rules.times import time_of
from milepost.rules.tree import TreeReader

FILE_FIELDS = ("as_of", "time_zone", "account", "inputs", "journeys", "audiences", "users", "tests")
TEST_FIELDS = ("name", "users", "expect")
EXPECTATION_FIELDS = ("at", "members", "sizes", "check")
DEFAULT_ACCOUNT = "test"
DEFAULT_INPUT = "test/test"
"""Where data come through when neither the file nor its journeys name an input."""
_SOME_TIME = datetime(2000, 1, 1, tzinfo=UTC)
"""Stands for a time that has a fault."""


class InvalidRuleTests(ValueError):
    """The files are no valid rule tests. `faults` has a line for each, with file, line and column."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


def read(file: Path) -> RuleTests:
    """The tests in a YAML or JSON file. Files that it names are relative to it.

    Raises InvalidRuleTests with every fault, also when a file cannot be read.
    """
    return _read(file, None)


def read_seed(file: Path, now: datetime) -> RuleTests:
    """The inputs, journeys and users in a file, which need not have tests. `now` is `as_of` where the file
    has none. Raises as `read` does.
    """
    return _read(file, now)


def _read(file: Path, now: datetime | None) -> RuleTests:
    places, text = _text_of(file)
    reader = TreeReader()
    try:
        found = _FileReader(reader, places, file.parent, now).tests(load(text))
        reader.raise_if_any_fault()
    except DocumentError as error:
        raise InvalidRuleTests(
            dict.fromkeys(f"{places.of(path, error.position)}: {fault}" for path, fault in error.faults)
        ) from error
    return found


def _text_of(file: Path) -> tuple[Places, str]:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRuleTests([f"{file}: {error}"]) from error
    except OSError as error:
        raise InvalidRuleTests([f"{file}: {error.strerror or error}"]) from error
    except ValueError as error:
        # No system call takes such a name.
        raise InvalidRuleTests([f"{str(file)!r}: is not the name of a file: {error}"]) from error
    return Places(str(file), text), text


@dataclass(frozen=True)
class _Known:
    """What the tests of a file may name."""

    as_of: datetime
    milestones: Mapping[str, tuple[str, ...]]
    """Milestones `journey/milestone` by what the file may call them: that, or the milestone's id alone."""
    users: UserReader
    shared: Mapping[str, tuple[Change, ...]]


class _FileReader:
    """Reads a file of tests; one of a seed where `now` is given."""

    def __init__(self, reader: TreeReader, places: Places, directory: Path, now: datetime | None) -> None:
        self._reader = reader
        self._now = now
        self._places = places
        self._directory = directory

    def tests(self, tree: Any) -> RuleTests:
        """The tests of a file. Faults are added to the reader."""
        fields = self._reader.mapping(tree, "", FILE_FIELDS)
        as_of = self._as_of(fields.get("as_of"))
        tested = tuple(self._journeys(fields.get("journeys")))
        inputs = self._inputs(fields.get("inputs"), tested)
        users = UserReader(self._reader, as_of, inputs)
        shared = self._users(fields.get("users"), "users", users)
        known = _Known(as_of, _milestones_by_name(tested), users, shared)
        scenarios = tuple(self._scenarios(fields.get("tests"), known))
        return RuleTests(
            places=self._places,
            account=self._reader.text(fields.get("account"), "account", default=DEFAULT_ACCOUNT),
            time_zone=self._reader.text(fields.get("time_zone"), "time_zone", default="UTC"),
            inputs=inputs,
            journeys=tested,
            audiences=dict(self._audiences(fields.get("audiences"), known)),
            shared=_by_time(shared),
            scenarios=scenarios,
        )

    def _as_of(self, given: Any) -> datetime:
        if given is None and self._now is not None:
            return self._now
        text = self._reader.text(given, "as_of")
        try:
            return instant_of(text) if text else _SOME_TIME
        except ValueError as error:
            self._reader.fault("as_of", str(error))
            return _SOME_TIME

    # --- journeys and inputs ---

    def _journeys(self, tree: Any) -> Iterator[TestedJourney]:
        if not tree and self._now is None:
            self._reader.fault("journeys", "needs at least one journey: `file: PATH`, or the document itself")
        seen: set[str] = set()
        for item, path in self._reader.items(tree, "journeys"):
            is_file = isinstance(item, dict) and "file" in item
            found = self._journey_in_file(item, path) if is_file else self._journey_inline(item, path)
            if found is None:
                continue
            if found.document.id in seen:
                self._reader.fault(path, f"the journey {found.document.id!r} is there twice")
            seen.add(found.document.id)
            yield found

    def _journey_inline(self, item: Any, path: str) -> TestedJourney:
        return TestedJourney(document_of_tree(item, self._reader, path), self._places, path)

    def _journey_in_file(self, item: dict[str, Any], path: str) -> TestedJourney | None:
        fields = self._reader.mapping(item, path, ("file",))
        name = self._reader.text(fields.get("file"), below(path, "file"))
        if not name:
            return None
        file = self._directory / name
        try:
            places, text = _text_of(file)
            return TestedJourney(journeys.loads(text), places)
        except InvalidRuleTests as error:
            self._reader.fault(below(path, "file"), str(error))
        except DocumentError as error:
            # They have places of their own, in the other file.
            lines = [f"{places.of(where, error.position)}: {fault}" for where, fault in error.faults]
            raise InvalidRuleTests(lines) from error
        return None

    def _inputs(self, tree: Any, tested: tuple[TestedJourney, ...]) -> tuple[str, ...]:
        """Those that the file names, and those of its journeys."""
        found: dict[str, None] = {}
        for item, path in self._reader.items(tree, "inputs"):
            workspace, slash, input_ = str(item).partition("/")
            if not (isinstance(item, str) and slash and names.is_id(workspace) and names.is_id(input_)):
                self._reader.fault(path, f"must be workspace/input, not {item!r}")
            else:
                found[item] = None
        for journey in tested:
            found |= dict.fromkeys(journey.document.inputs)
        return tuple(found) or (DEFAULT_INPUT,)

    def _audiences(self, tree: Any, known: _Known) -> Iterator[tuple[str, str]]:
        for name, milestone in self._reader.mapping(tree, "audiences").items():
            path = below("audiences", name)
            yield name, self._milestone(milestone, path, known)

    # --- tests ---

    def _users(self, tree: Any, path: str, users: UserReader) -> dict[str, tuple[Change, ...]]:
        return {
            user_id: tuple(users.changes(user_id, each, below(path, user_id)))
            for user_id, each in self._reader.mapping(tree, path).items()
        }

    def _scenarios(self, tree: Any, known: _Known) -> Iterator[Scenario]:
        if not tree and self._now is None:
            self._reader.fault("tests", "needs at least one test")
        seen: set[str] = set()
        for item, path in self._reader.items(tree, "tests"):
            fields = self._reader.mapping(item, path, TEST_FIELDS)
            name = self._reader.text(fields.get("name"), below(path, "name"))
            if name and name in seen:
                self._reader.fault(below(path, "name"), f"{name!r} is used twice")
            seen.add(name)
            own = self._users(fields.get("users"), below(path, "users"), known.users)
            by_user = {**known.shared, **own}
            expectations = self._expectations(fields.get("expect"), below(path, "expect"), by_user, known)
            yield Scenario(
                name=name,
                path=path,
                users=frozenset(by_user),
                changes=_by_time(by_user),
                expectations=tuple(sorted(expectations, key=lambda each: each.at)),
            )

    def _expectations(
        self, tree: Any, path: str, users: Mapping[str, object], known: _Known
    ) -> Iterator[Expectation]:
        if not tree:
            self._reader.fault(path, "needs at least one instant with what is expected")
        for item, place in self._reader.items(tree, path):
            fields = self._reader.mapping(item, place, EXPECTATION_FIELDS)
            written = fields.get("at", "0s")
            at = known.as_of
            try:
                at = time_of(written, known.as_of)
            except ValueError as error:
                self._reader.fault(below(place, "at"), str(error))
            found = Expectation(
                at=at,
                written=str(written),
                checks=tuple(self._checks(fields.get("check"), below(place, "check"), users, known)),
                members=tuple(self._members(fields.get("members"), below(place, "members"), users, known)),
                sizes=tuple(self._sizes(fields.get("sizes"), below(place, "sizes"), known)),
            )
            given = fields.keys() & {"check", "members", "sizes"}
            if not given:
                self._reader.fault(place, "expects nothing: give `members`, `sizes` or `check`")
            for field in sorted(given):
                if not fields[field]:
                    fault = "expects nothing: name what to expect, or leave it out"
                    self._reader.fault(below(place, field), fault)
            yield found

    def _checks(
        self, tree: Any, path: str, users: Mapping[str, object], known: _Known
    ) -> Iterator[Membership]:
        for user, answers in self._reader.mapping(tree, path).items():
            at = below(path, user)
            self._known_user(user, at, users)
            if not answers:
                self._reader.fault(at, "expects nothing: name a milestone, with true or false")
            for milestone, member in self._reader.mapping(answers, at).items():
                place = below(at, milestone)
                if not isinstance(member, bool):
                    self._reader.fault(place, f"must be true or false, not {member!r}")
                yield Membership(user, self._milestone(milestone, place, known), bool(member), place)

    def _members(self, tree: Any, path: str, users: Mapping[str, object], known: _Known) -> Iterator[Members]:
        for milestone, listed in self._reader.mapping(tree, path).items():
            at = below(path, milestone)
            expected: set[str] = set()
            for user, place in self._reader.items(listed, at):
                self._known_user(user, place, users)
                expected.add(str(user))
            yield Members(self._milestone(milestone, at, known), frozenset(expected), at)

    def _sizes(self, tree: Any, path: str, known: _Known) -> Iterator[Size]:
        for milestone, users in self._reader.mapping(tree, path).items():
            at = below(path, milestone)
            is_number = isinstance(users, int) and not isinstance(users, bool) and users >= 0
            if not is_number:
                self._reader.fault(at, f"must be a number of users, not {users!r}")
            yield Size(self._milestone(milestone, at, known), users if is_number else 0, at)

    def _known_user(self, user: Any, path: str, users: Mapping[str, object]) -> None:
        if user not in users:
            hint = did_you_mean(str(user), users) or f"; the users are {', '.join(users)}"
            self._reader.fault(path, f"the test has no user {user!r}{hint}")

    def _milestone(self, given: Any, path: str, known: _Known) -> str:
        """The milestone as `journey/milestone`."""
        found = known.milestones.get(given, ()) if isinstance(given, str) else ()
        if len(found) == 1:
            return found[0]
        if found:
            self._reader.fault(path, f"write {' or '.join(found)}: both journeys have a {given!r}")
        else:
            hint = did_you_mean(str(given), known.milestones)
            self._reader.fault(path, f"no journey of the file has a milestone {given!r}{hint}")
        return ""


def _by_time(by_user: Mapping[str, tuple[Change, ...]]) -> tuple[Change, ...]:
    return tuple(sorted((each for some in by_user.values() for each in some), key=lambda each: each.time))


def _milestones_by_name(tested: tuple[TestedJourney, ...]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for journey in tested:
        for milestone, _ in journey.milestones():
            whole = f"{journey.document.id}/{milestone.id}"
            found[whole] = (whole,)
            found[milestone.id] = (*found.get(milestone.id, ()), whole)
    return found
