"""Finds smaller worlds with the same difference, for a readable report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from engine.backends.base import EventRecord, Record
from engine.criteria.model import AllOf, AnyOf, Criterion, Event, Not, Sequence
from engine.plan.tree import audiences_in
from tests.oracle.world import Batch, Journey, Milestone, Operation, World, fresh_account, walk

_replace = msgspec.structs.replace


def minimise(world: World, differs: Callable[[World], bool], tries_max: int = 2_000) -> World:
    """Shrinks `world` while `differs` stays true. Every attempt has its own account."""
    tries = 0
    shrunk = True
    while shrunk and tries < tries_max:
        shrunk = False
        for smaller in _smaller(world):
            tries += 1
            if tries > tries_max:
                break
            if _is_sound(smaller) and _still(differs, moved(smaller, fresh_account())):
                world, shrunk = smaller, True
                break
    return world


def _still(differs: Callable[[World], bool], world: World) -> bool:
    try:
        return differs(world)
    except (ValueError, KeyError):
        # Shrinking can produce an invalid world, such as an alias cycle; that does not count.
        return False


def moved(world: World, account: str) -> World:
    """The same world in another account."""
    renamed: World = _renamed(world, f"{world.account}/", f"{account}/")
    return _replace(renamed, account=account)


def _renamed(value: Any, old: str, new: str) -> Any:
    if isinstance(value, str):
        return new + value.removeprefix(old) if type(value) is str and value.startswith(old) else value
    if type(value) is tuple:
        return tuple(_renamed(item, old, new) for item in value)
    if isinstance(value, msgspec.Struct):
        fields = {name: _renamed(getattr(value, name), old, new) for name in value.__struct_fields__}
        return _replace(value, **fields)
    return value


def _is_sound(world: World) -> bool:
    """Whether every named audience exists and remaining users have siblings."""
    milestones = [milestone for journey in world.journeys for milestone in walk(journey.milestones)]
    names = {world.audience_name(milestone.id) for milestone in milestones}
    splits = [journey.milestones for journey in world.journeys] + [m.children for m in milestones]
    return all(name in names for m in milestones for name in audiences_in(m.criteria)) and all(
        split[0].criteria is not None for split in splits if split
    )


# --- what can be left out -----------------------------------------------------------------------------------


def _smaller(world: World) -> Iterator[World]:
    """Worlds with one thing less, the largest things first."""
    for index in range(len(world.journeys)):
        if len(world.journeys) > 1:
            yield _replace(world, journeys=_without(world.journeys, index))
    for split in _smaller_journeys(world.journeys):
        yield _replace(world, journeys=split)
    for operations in _smaller_operations(world.operations):
        yield _replace(world, operations=operations)


def _without(items: tuple[Any, ...], index: int) -> tuple[Any, ...]:
    return items[:index] + items[index + 1 :]


def _with(items: tuple[Any, ...], index: int, item: Any) -> tuple[Any, ...]:
    return (*items[:index], item, *items[index + 1 :])


def _smaller_journeys(journeys: tuple[Journey, ...]) -> Iterator[tuple[Journey, ...]]:
    for index, journey in enumerate(journeys):
        for split in _smaller_split(journey.milestones):
            yield _with(journeys, index, _replace(journey, milestones=split))


def _smaller_split(split: tuple[Milestone, ...]) -> Iterator[tuple[Milestone, ...]]:
    for index, milestone in enumerate(split):
        yield _without(split, index)
        if milestone.children:
            yield (*split[:index], *milestone.children, *split[index + 1 :])
        for children in _smaller_split(milestone.children):
            yield _with(split, index, _replace(milestone, children=children))
        if milestone.criteria is not None:
            for criteria in _simpler(milestone.criteria):
                yield _with(split, index, _replace(milestone, criteria=criteria))


def _simpler(criterion: Criterion) -> Iterator[Criterion]:
    match criterion:
        case AllOf() | AnyOf():
            yield from criterion.criteria
            for index, child in enumerate(criterion.criteria):
                yield _replace(criterion, criteria=_without(criterion.criteria, index))
                for simpler in _simpler(child):
                    yield _replace(criterion, criteria=_with(criterion.criteria, index, simpler))
        case Not():
            yield criterion.criterion
            for simpler in _simpler(criterion.criterion):
                yield _replace(criterion, criterion=simpler)
        case Event():
            yield from _cleared(criterion, window=None, where=None, inputs=(), type=None)
        case Sequence():
            yield from _cleared(criterion, window=None, within=None)
            for index in range(len(criterion.steps)):
                if len(criterion.steps) > 1:
                    yield _replace(criterion, steps=_without(criterion.steps, index))
        case _:
            return


def _cleared(item: Any, **plain: Any) -> Iterator[Any]:
    for name, value in plain.items():
        if getattr(item, name) != value:
            yield _replace(item, **{name: value})


def _smaller_operations(operations: tuple[Operation, ...]) -> Iterator[tuple[Operation, ...]]:
    for index in range(len(operations)):
        yield _without(operations, index)
    for index, operation in enumerate(operations):
        if isinstance(operation, Batch):
            if operation.request_id:
                yield _with(operations, index, Batch(operation.records))
            for records in _smaller_records(operation.records):
                yield _with(operations, index, _replace(operation, records=records))


def _smaller_records(records: tuple[Record, ...]) -> Iterator[tuple[Record, ...]]:
    for index in range(len(records)):
        if len(records) > 1:
            yield _without(records, index)
    for index, record in enumerate(records):
        if isinstance(record, EventRecord):
            plainer = _cleared(record, event_id="", attributes={})
        else:
            plainer = _cleared(record, attributes={}, identities={}, consents={})
        for plain in plainer:
            yield _with(records, index, plain)
        for key in record.attributes:
            rest = {name: value for name, value in record.attributes.items() if name != key}
            yield _with(records, index, _replace(record, attributes=rest))
