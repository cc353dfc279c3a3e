"""Journeys: the records, their summaries, clones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TypeAlias

import msgspec

from engine.clock import Clock
from engine.criteria.faults import CRITERIA_PATH
from engine.errors import AlreadyExists, FailedPrecondition, InvalidInput, Violation
from engine.limits import Limits
from engine.plan.tree import JourneyTree
from engine.resources.activation import Activation
from engine.resources.checks import (
    check_etag,
    display_name_faults,
    input_faults,
    masked_values,
    refuse_if_any,
)
from engine.resources.criteria import SAVED, CriteriaCheck
from engine.resources.milestone_tree import Forest, in_tree_order, tree_milestone, with_audiences_renamed
from engine.resources.names import Resource, check_name, chosen_or_made_id, made_id
from engine.resources.paging import Page
from engine.resources.planning import planned
from engine.resources.records import (
    Account,
    Audience,
    Connection,
    Journey,
    account_of,
)
from engine.resources.repository import Changes, Repository
from engine.resources.requests import Requests
from engine.resources.versions import Versions
from engine.values import Micros

JOURNEY_FIELDS = frozenset({"display_name", "inputs"})
ORDERS = ("name", "display_name", "create_time", "update_time")
COPY_SUFFIX = " (copy)"

Changed: TypeAlias = Callable[[str], None]
"""Called with the name of a journey whose milestones, inputs or connections have changed."""


class JourneySummary(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of a journey in a list. `connected_outputs` are sorted names."""

    audience_count: int
    active_audience_count: int
    connected_outputs: tuple[str, ...]
    update_time: Micros


class Journeys:
    """Creates, reads and changes journeys."""

    def __init__(
        self,
        repository: Repository,
        forest: Forest,
        activation: Activation,
        criteria: CriteriaCheck,
        versions: Versions,
        limits: Limits,
        clock: Clock,
        changed: Changed,
    ) -> None:
        self._repository = repository
        self._forest = forest
        self._activation = activation
        self._criteria = criteria
        self._versions = versions
        self._requests = Requests(repository, limits, clock.stamp)
        self._limits = limits
        self._clock = clock
        self._changed = changed

    def create_journey(self, parent: str, journey_id: str, journey: Journey, request_id: str = "") -> Journey:
        """Creates a journey without milestones. Raises NotFound, AlreadyExists, InvalidInput."""
        check_name(parent, "parent", Resource.ACCOUNT)
        with self._repository.writing() as changes:
            answered = self._requests.first_answer("create_journey", parent, request_id, Journey)
            if answered is not None:
                return answered
            self._repository.get(Account, parent)
            now = self._clock()
            created = msgspec.structs.replace(
                journey, name=self._new_name(parent, journey_id), create_time=now, update_time=now
            )
            refuse_if_any(self._faults(created))
            changes.put(created)
            self._requests.remember(changes, "create_journey", parent, request_id, created)
            return created

    def get_journey(self, name: str) -> Journey:
        """The journey. Raises NotFound."""
        check_name(name, "name", Resource.JOURNEY)
        return self._repository.get(Journey, name)

    def list_journeys(
        self, parent: str, *, page_size: int = 0, page_token: str = "", query: str = "", order_by: str = ""
    ) -> Page[Journey]:
        """The account's journeys whose display name contains `query`, in any case.

        `order_by` is one of `ORDERS`, with " desc" for descending order; "" = "name". Raises NotFound,
        InvalidInput.
        """
        check_name(parent, "parent", Resource.ACCOUNT)
        self._repository.get(Account, parent)
        field, _, direction = order_by.strip().partition(" ")
        field = field or "name"
        if field not in ORDERS or direction.strip() not in ("", "asc", "desc"):
            raise InvalidInput.one(
                "order_by", f"must be one of {', '.join(ORDERS)}, optionally followed by ' desc'"
            )
        checkpointed = query.casefold()
        journeys = self._repository.scan(Journey, f"{parent}/journeys/")
        return self._repository.pages.of(
            (journey for journey in journeys if checkpointed in journey.display_name.casefold()),
            lambda journey: (getattr(journey, field), journey.name),
            ("list_journeys", parent, query, order_by),
            page_size=page_size,
            page_token=page_token,
            descending=direction.strip() == "desc",
        )

    def update_journey(self, record: Journey, fields: Collection[str], etag: str = "") -> Journey:
        """Changes the named fields, `display_name` and `inputs`. Raises NotFound, EtagMismatch,
        InvalidInput.
        """
        check_name(record.name, "journey.name", Resource.JOURNEY)
        values = masked_values(record, fields, JOURNEY_FIELDS)

        def changed() -> Journey:
            known = self._repository.get(Journey, record.name)
            check_etag(known, etag)
            changed = msgspec.structs.replace(known, **values, update_time=self._clock())
            refuse_if_any(self._faults(changed))
            if changed.inputs != known.inputs:
                refuse_if_any(self._criteria_faults(changed))
            return changed

        plan = planned(self._repository, account_of(record.name), changed)
        with self._repository.writing() as changes:
            updated = self._versions.put(changes, plan())
        self._changed(record.name)
        return updated

    def delete_journey(self, name: str, etag: str = "") -> None:
        """Deletes a journey without milestones. Raises NotFound, EtagMismatch, FailedPrecondition."""
        check_name(name, "name", Resource.JOURNEY)
        with self._repository.writing() as changes:
            known = self._repository.get(Journey, name)
            check_etag(known, etag)
            milestones = self._forest.milestones(name)
            if milestones:
                raise FailedPrecondition(
                    f"{name} has {len(milestones)} milestones; delete them first",
                    reason="JOURNEY_NOT_EMPTY",
                    metadata={"milestones": ",".join(m.name for m in milestones)},
                )
            changes.delete(known)
            self._versions.delete(changes, name)
        self._changed(name)

    def clone_journey(
        self, name: str, journey_id: str = "", display_name: str = "", request_id: str = ""
    ) -> Journey:
        """A copy with all milestones, with the same ids, and its own audiences, without connections.

        Where a criterion names an audience of the same journey, the copy names its own. Raises
        NotFound, AlreadyExists, InvalidInput.
        """
        check_name(name, "name", Resource.JOURNEY)
        parent = account_of(name)
        with self._repository.writing() as changes:
            answered = self._requests.first_answer("clone_journey", parent, request_id, Journey)
            if answered is not None:
                return answered
            original = self._repository.get(Journey, name)
            now = self._clock()
            copy = msgspec.structs.replace(
                original,
                name=self._new_name(parent, journey_id),
                display_name=display_name or self._copied_display_name(original.display_name),
                create_time=now,
                update_time=now,
                version=1,
            )
            refuse_if_any(display_name_faults(copy.display_name, "display_name", self._limits))
            changes.put(copy)
            self._copy_milestones(changes, original, copy, now)
            self._requests.remember(changes, "clone_journey", parent, request_id, copy)
            return copy

    def summary(self, name: str) -> JourneySummary:
        """Counts for a list. Raises NotFound."""
        journey = self.get_journey(name)
        with self._repository.reading():
            audiences = {milestone.audience for milestone in self._forest.milestones(name)}
            activated = self._activation.activated(account_of(name))
            connections = self._repository.scan(Connection, f"{account_of(name)}/connections/")
        return JourneySummary(
            audience_count=len(audiences),
            active_audience_count=len(audiences & activated),
            connected_outputs=tuple(sorted({c.output for c in connections if c.audience in audiences})),
            update_time=journey.update_time,
        )

    def _copied_display_name(self, display_name: str) -> str:
        room = self._limits.display_name_characters_max - len(COPY_SUFFIX)
        return display_name[:room] + COPY_SUFFIX

    def _new_name(self, parent: str, journey_id: str) -> str:
        name = f"{parent}/journeys/{chosen_or_made_id(journey_id, 'journey_id')}"
        if self._repository.find(Journey, name) is not None:
            raise AlreadyExists(name)
        return name

    def _copy_milestones(self, changes: Changes, original: Journey, copy: Journey, now: Micros) -> None:
        milestones = [milestone for _, milestone in in_tree_order(self._forest.milestones(original.name))]
        audiences = {m.audience: f"{account_of(copy.name)}/audiences/{made_id()}" for m in milestones}
        for milestone in milestones:
            criteria = milestone.criteria
            copied = msgspec.structs.replace(
                milestone,
                name=copy.name + milestone.name.removeprefix(original.name),
                parent=milestone.parent and copy.name + milestone.parent.removeprefix(original.name),
                criteria=None if criteria is None else with_audiences_renamed(criteria, audiences),
                audience=audiences[milestone.audience],
                create_time=now,
                update_time=now,
            )
            changes.put(copied)
            changes.put(
                Audience(name=copied.audience, milestone=copied.name, create_time=now, update_time=now)
            )

    def _faults(self, journey: Journey) -> Iterable[Violation]:
        yield from display_name_faults(journey.display_name, "journey.display_name", self._limits)
        yield from input_faults(self._repository, journey, "journey")

    def _criteria_faults(self, journey: Journey) -> Iterable[Violation]:
        """Inputs named in criteria must stay among the journey's."""
        milestones = self._forest.milestones(journey.name)
        tree = JourneyTree(
            name=journey.name,
            inputs=tuple(sorted(self._forest.inputs(journey))),
            milestones=tuple(tree_milestone(milestone) for milestone in milestones),
        )
        for milestone in milestones:
            if milestone.criteria is not None:
                located = tree_milestone(milestone)
                for fault in self._criteria.faults(tree, located, milestone.criteria, CRITERIA_PATH, SAVED):
                    yield Violation("journey.inputs", f"{milestone.name}: {fault.field}: {fault.description}")
