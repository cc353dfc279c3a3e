"""Questions about a growing world, and differences from the oracle's answers."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import msgspec

from engine.backends.base import AttributeFacts, EventNameFacts, UserRecord
from engine.backends.local.backend import LocalBackend
from tests.conformance.test_catalog import (
    event_attributes_by_hand,
    event_values_by_hand,
    names_by_hand,
    user_attributes_by_hand,
    values_by_hand,
)
from tests.engine.backends.local.walk.growing import Growing
from tests.oracle.differences import compared
from tests.oracle.engine_side import EngineSide
from tests.oracle.generate import DEPTHS, CriteriaDrawer
from tests.oracle.history import History, last_write
from tests.oracle.scene import with_journeys
from tests.oracle.trees import Trees
from tests.oracle.world import Journey, workspace_of

ALL = 1_000
CRITERIA = 2
"""New ones each time."""


class Questions:
    """Asks a store about one world, at its instant of evaluation."""

    def __init__(self, side: EngineSide, growing: Growing, source: random.Random) -> None:
        self._side = side
        self._backend: LocalBackend = side.backend
        self._growing = growing
        self._source = source
        self._world = growing.world()
        self._oracle = growing.oracle()
        self._users = self._oracle.users
        self._asked = tuple(
            Journey(id=f"asked-{number}", inputs=self._inputs()) for number in range(CRITERIA)
        )
        self._trees = Trees(with_journeys(self._world, *self._asked))
        self._found: list[str] = []

    def differences(self) -> list[str]:
        """Differences in sets of users, sizes, single-user checks, profiles and the catalog."""
        self._sizes()
        self._criteria()
        self._milestones()
        self._profiles()
        self._names()
        self._values()
        return self._found

    def _same(self, what: str, found: object, expected: object) -> None:
        # By their text, which tells True from 1.0 and 0.0 from -0.0.
        if repr(found) != repr(expected):
            self._found.append(f"{what}: {found!r} is not {expected!r}")

    def _sizes(self) -> None:
        world = self._world
        inputs = [name for name in world.inputs if self._source.random() < 0.7]
        expected = sum(bool(user.inputs & set(inputs)) for user in self._users.values())
        self._same(f"universe of {inputs}", self._backend.universe_size(world.account, inputs), expected)

    def _inputs(self) -> tuple[str, ...]:
        """Some inputs for a journey, or none, which means all."""
        choose, inputs = self._growing.choose, self._growing.palette.inputs
        return choose.some(inputs, 1, len(inputs)) if choose.chance(50) else ()

    def _criteria(self) -> None:
        """New random criteria, over all users or those of some inputs."""
        choose, palette = self._growing.choose, self._growing.palette
        for journey in self._asked:
            drawer = CriteriaDrawer(choose, palette, self._world.inputs_of(journey), [])
            criterion = drawer.criterion(choose.pick(DEPTHS))
            plan = self._trees.criterion_plan(journey.id, criterion)
            expected = self._oracle.matching(criterion, journey)
            [found] = self._side.members(plan)
            if found != expected:
                self._found.append(
                    f"{criterion} of {journey}: missing {expected - found}, extra {found - expected}"
                )
            self._same(f"size of {criterion}", self._side.sizes(plan), [len(expected)])

    def _milestones(self) -> None:
        """All sizes, the members of one milestone, and one user checked against all."""
        trees = self._growing.trees()
        names = trees.milestones
        if not names:
            return
        expected = self._oracle.all_members()
        plan = trees.plan()
        sizes = [len(expected[name]) for name in names]
        self._same("sizes of milestones", self._side.sizes(plan), sizes)
        at = self._source.randrange(len(names))
        [found] = self._side.members(msgspec.structs.replace(plan, roots=(plan.roots[at],)))
        self._found += map(str, compared("members", {names[at]: expected[names[at]]}, {names[at]: found}))
        user_id = self._source.choice(self._growing.palette.user_ids)
        if self._growing.aliases.now_called(user_id) == user_id:
            checked = dict(zip(names, self._side.contained(plan, [user_id]), strict=True))
            wanted = {name: members & {user_id} for name, members in expected.items()}
            self._found += map(str, compared("single-user checks", wanted, checked))

    def _profiles(self) -> None:
        for user_id in self._growing.palette.user_ids:
            profile = self._backend.profile(self._world.account, user_id)
            known = self._users.get(self._growing.aliases.now_called(user_id))
            if profile is None or known is None:
                self._same(f"profile of {user_id!r}", profile, known)
                continue
            found = {
                "user_id": profile.user_id,
                "seen": profile.seen,
                "attributes": {
                    (workspace, key): write
                    for workspace, writes in profile.attributes.items()
                    for key, write in writes.items()
                },
                "identities": profile.identities,
                "consents": profile.consents,
            }
            for part, expected in expected_profile(known).items():
                self._same(f"{part} of {user_id!r}", _in_order(found[part]), _in_order(expected))

    # --- the catalog ----------------------------------------------------------------------------------------

    def _names(self) -> None:
        backend, account = self._backend, self._world.account
        users = list(self._users.values())
        input_name = self._source.choice(("", *self._world.inputs))
        found: list[EventNameFacts] = list(backend.event_names(account, input=input_name, limit=ALL))
        self._same(f"event names of {input_name!r}", found, names_by_hand(users, input_name, ""))
        name = self._source.choice(self._growing.palette.event_names)
        of_events: list[AttributeFacts] = list(
            backend.event_attributes(account, name, input=input_name, limit=ALL)
        )
        expected = event_attributes_by_hand(users, name, input_name, "")
        self._same(f"attributes of {name!r} of {input_name!r}", of_events, expected)
        key = self._source.choice(sorted(self._growing.palette.event_values))
        values = list(backend.event_attribute_values(account, name, key, input=input_name, limit=ALL))
        by_hand = event_values_by_hand(users, name, key, input_name, "")
        self._same(f"values of {key!r} of {name!r} of {input_name!r}", values, by_hand)

    def _values(self) -> None:
        backend, account = self._backend, self._world.account
        users = list(self._users.values())
        workspace = workspace_of(self._source.choice(self._world.inputs))
        of_users = list(backend.user_attributes(account, workspace=workspace, limit=ALL))
        expected = user_attributes_by_hand(users, workspace, "")
        self._same(f"attributes of users of {workspace!r}", of_users, expected)
        key = self._source.choice(sorted(self._growing.palette.user_values))
        ask = partial(backend.attribute_values, account, workspace, key)
        self._same(f"values of {key!r}", list(ask(limit=ALL)), values_by_hand(users, workspace, key, ""))


def expected_profile(user: History) -> dict[str, Any]:
    """A user's profile by parts, attributes by workspace and key, from everything the user sent."""
    attributes: dict[tuple[str, str], list[Any]] = {}
    identities: dict[str, list[Any]] = {}
    consents: dict[tuple[str, str], list[Any]] = {}
    for record in user.records:
        if isinstance(record, UserRecord):
            workspace = workspace_of(record.input)
            _note(attributes, record, {(workspace, key): value for key, value in record.attributes.items()})
            _note(identities, record, record.identities)
            _note(consents, record, record.consents)
    seen = {name: user.seen_times((name,)) for name in user.inputs}
    return {
        "user_id": user.user_id,
        "seen": {name: (min(times), max(times)) for name, times in seen.items()},
        "attributes": _latest(attributes),
        "identities": _latest(identities),
        "consents": _latest(consents),
    }


def _note(writes: dict[Any, list[Any]], record: UserRecord, values: Mapping[Any, object]) -> None:
    for key, value in values.items():
        writes.setdefault(key, []).append((record.time, (record.time, value)))


def _latest(writes: dict[Any, list[Any]]) -> dict[Any, Any]:
    latest = {key: last_write(written) for key, written in writes.items()}
    return {key: write for key, write in latest.items() if write[1] is not None}


def _in_order(part: object) -> object:
    if isinstance(part, Mapping):
        items: Iterable[tuple[Any, Any]] = part.items()
        return sorted(items)
    return part


def stored_differences(side: EngineSide, growing: Growing) -> list[str]:
    """Brings the stored memberships up to date, and compares them and what their change logs lead to."""
    trees, oracle = growing.trees(), growing.oracle()
    found: list[str] = []
    for journey in growing.journeys:
        if not journey.milestones:
            continue
        as_of = trees.world.as_of
        stored = side.refresh(trees, journey, as_of, as_of if journey.id in growing.stored else None)
        growing.stored |= {journey.id}
        expected = {milestone_id: oracle.members(milestone_id) for milestone_id in stored}
        found += map(str, compared("stored", expected, stored))
        replayed = {name: side.replayed(trees.world.audience_name(name)) for name in expected}
        found += map(str, compared("changes replayed", expected, replayed))
    return found
