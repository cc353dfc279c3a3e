"""A world: all operations in one account, and its journeys."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TypeAlias

import msgspec

from engine.backends.base import Record
from engine.criteria.model import Criterion
from engine.values import Micros

_account_numbers = itertools.count(1)


class Batch(msgspec.Struct, frozen=True):
    """Records appended together. A batch with a `request_id` that was used before changes nothing."""

    records: tuple[Record, ...]
    request_id: str = ""


class Alias(msgspec.Struct, frozen=True):
    """`from_user_id` becomes an alias of `to_user_id`, including earlier data."""

    from_user_id: str
    to_user_id: str


class Erase(msgspec.Struct, frozen=True):
    """These users are erased."""

    user_ids: tuple[str, ...]


class Expire(msgspec.Struct, frozen=True):
    """Events before an instant, of those that came so far, are removed; their users are not."""

    before: Micros


class Forget(msgspec.Struct, frozen=True):
    """What is left of an input, a workspace or the account is forgotten, if it has no users."""

    name: str

    def covers(self, input_name: str) -> bool:
        """Whether the name is that of the input, or above it."""
        return f"{input_name}/".startswith(f"{self.name}/")


Operation: TypeAlias = Batch | Alias | Erase | Expire | Forget


class Milestone(msgspec.Struct, frozen=True, kw_only=True):
    """A milestone and the split below it. `criteria` None makes it the remaining users of its split.

    Milestone ids are unique in a world; the milestone's audience carries the same id.
    """

    id: str
    criteria: Criterion | None
    children: tuple[Milestone, ...] = ()


class Journey(msgspec.Struct, frozen=True, kw_only=True):
    """A journey: `inputs` by resource name (none = every input of the account), and its first split."""

    id: str
    inputs: tuple[str, ...] = ()
    milestones: tuple[Milestone, ...] = ()


class World(msgspec.Struct, frozen=True, kw_only=True):
    """An account with its inputs (resource names), its operations in order, and its journeys."""

    account: str
    inputs: tuple[str, ...]
    time_zone: str
    as_of: Micros
    operations: tuple[Operation, ...]
    journeys: tuple[Journey, ...]
    event_retention: Micros = 0
    """Events older than this, seen from the instant of evaluation, do not count; 0 = all do."""

    def inputs_of(self, journey: Journey) -> tuple[str, ...]:
        """The inputs a journey reads."""
        return journey.inputs or self.inputs

    def audience_name(self, milestone_id: str) -> str:
        """The resource name of a milestone's audience."""
        return f"{self.account}/audiences/{milestone_id}"


def workspace_of(input_name: str) -> str:
    """The workspace (resource name) that an input (resource name) belongs to."""
    return input_name.partition("/inputs/")[0]


def walk(milestones: tuple[Milestone, ...]) -> Iterator[Milestone]:
    """Every milestone of a split and of the splits below it, parents first."""
    for milestone in milestones:
        yield milestone
        yield from walk(milestone.children)


def fresh_account() -> str:
    """An account not used before in this process, so that worlds can share one store."""
    return f"accounts/w{next(_account_numbers)}"
