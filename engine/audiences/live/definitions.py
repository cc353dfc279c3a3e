"""What is to be calculated: the needed milestones of a journey, and when their definitions have changed."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakValueDictionary

import msgspec
import xxhash

from engine.audiences.live.state import Compiled, Definition, JourneyState
from engine.criteria.zones import load_zone
from engine.plan.compile import Planner
from engine.plan.expiry import ExpiryTemplate
from engine.plan.reads import reads_of
from engine.plan.template import Template, form_of, shape_of
from engine.plan.timed_steps import TimedSteps
from engine.plan.tree import made_of
from engine.resources.activation import Activation
from engine.resources.milestone_tree import Forest
from engine.resources.records import Account, Audience, Connection, Input, Journey, Milestone, account_of
from engine.resources.repository import Repository

DEFINING = (Account, Input, Journey, Milestone, Audience)
"""The kinds of record that a definition depends on."""


class Definitions:
    """Derives what is needed from the connections, and what it means from the records."""

    def __init__(self, repository: Repository, forest: Forest, activation: Activation) -> None:
        self._repository = repository
        self._forest = forest
        self._activation = activation
        self.generation = repository.generation_of(*DEFINING)
        """Changes with any record that a definition depends on."""
        self._compiled: WeakValueDictionary[bytes, Compiled] = WeakValueDictionary()
        """By the form of what was compiled."""
        self._shapes: WeakValueDictionary[bytes, Compiled] = WeakValueDictionary()
        """One of each shape."""

    def needed(self, journey: str) -> list[Milestone]:
        """The journey's milestones whose audience, or that of a descendant, has a live connection."""
        calculated = self._activation.calculated(account_of(journey))
        return [m for m in self._forest.milestones(journey) if m.audience in calculated]

    def version(self) -> int:
        """A number that changes with any record that decides what is needed, or what it means."""
        return self._repository.generation(*DEFINING, Connection)

    def current(self, journey: str, state: JourneyState, version: int) -> Definition | None:
        """The calculated milestones as defined at a version or later; None when there are none."""
        if version == state.defined_at:
            return state.definition
        with self._repository.reading():
            version = self.version()
            if version == state.defined_at:
                return state.definition
            generation = self.generation.value
            records = self.needed(journey)
            names = tuple(record.name for record in records)
            known = state.definition
            if known is None or known.generation != generation or known.milestones != names:
                state.definition = self._define(journey, generation, records) if records else None
            # Not before: a definition that fails is asked for again.
            state.defined_at = version
            return state.definition

    def _define(self, journey: str, generation: int, records: Sequence[Milestone]) -> Definition:
        account_name = account_of(journey)
        account = self._forest.account(account_name)
        tree = self._forest.tree(journey)
        resolver = self._forest.resolver(account_name)
        made = {record.audience: made_of(tree, [record.name], resolver) for record in records}
        planner = Planner(account, 0, resolver)
        roots = planner.milestones(tree, [record.name for record in records])
        digests = {
            audience: _digest((account, [(t.name, t.inputs, m) for t, m in located]))
            for audience, located in made.items()
        }
        return Definition(
            generation=generation,
            inputs=tree.inputs,
            milestones=tuple(record.name for record in records),
            digests=digests,
            audiences=tuple(digests),
            audience_digests=tuple(digests.values()),
            milestone_of=dict(zip(digests, (record.name for record in records), strict=True)),
            compiled=self._shared(planner, roots),
            zone=load_zone(account.time_zone),
            names=frozenset(t.name for located in made.values() for t, _ in located) - {journey},
        )

    def _shared(self, planner: Planner, roots: Sequence[int]) -> Compiled:
        """What was compiled: that of another journey which asks the same, or of this one before."""
        form = form_of(planner, roots)
        found = self._compiled.get(form)
        if found is None:
            found = self._compiled[form] = self._compile(planner, roots)
        return found

    def _compile(self, planner: Planner, roots: Sequence[int]) -> Compiled:
        shape, timed, reads = shape_of(planner, roots), TimedSteps(planner), reads_of(planner.steps.steps)
        like = self._shapes.get(shape)
        template = Template(planner, roots, timed, None if like is None else like.template)
        # One object: scopes that read the same are compared with each other again and again.
        reads = like.reads if like is not None and like.reads == reads else reads
        found = Compiled(template, ExpiryTemplate(planner, timed), reads)
        if like is None:
            self._shapes[shape] = found
        return found


def _digest(definition: object) -> str:
    return xxhash.xxh3_128_hexdigest(msgspec.msgpack.encode(definition))
