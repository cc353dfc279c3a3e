"""How many users an edit of a journey would move in and out of activated audiences, before it is made.

The journey as it is and as it would be are compiled into one plan, so both are counted at one instant and
over the same data. An edit of one journey can change audiences of others, whose criteria name them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import msgspec

from engine.audiences.model import EditedAudience, EditPreview
from engine.audiences.sizes import Stopwatch
from engine.backends.base import Count, PlanExecutor
from engine.clock import Clock
from engine.errors import NotFound
from engine.plan.compile import compile_edit
from engine.plan.tree import AudienceResolver, JourneyTree, made_of
from engine.resources.activation import Activation
from engine.resources.milestone_tree import Forest
from engine.resources.milestones import Edited
from engine.resources.records import Audience, Milestone, account_of
from engine.resources.repository import Repository
from engine.values import Micros

_ROOTS = 4
"""Roots of an audience in the plan: users before and after, entering, leaving."""


class EditPreviews:
    """Previews edits."""

    def __init__(
        self,
        repository: Repository,
        forest: Forest,
        activation: Activation,
        backend: PlanExecutor,
        clock: Clock,
    ) -> None:
        self._repository = repository
        self._forest = forest
        self._activation = activation
        self._backend = backend
        self._clock = clock

    def preview(
        self,
        edited: Edited,
        *,
        as_of: Micros | None = None,
        at_least: int = 0,
        deadline: float | None = None,
    ) -> EditPreview:
        """The activated audiences that an edit concerns, in order of name. Raises RevisionNotReached,
        DeadlineExceeded, DataLoss.
        """
        watch = Stopwatch()
        instant = self._clock() if as_of is None else as_of
        account = account_of(edited.tree.name)
        with self._repository.reading():
            before = self._forest.resolver(account)
            overlaid = self._forest.resolver(account, {edited.tree.name: edited.tree})
            after = _without(edited.deleted, overlaid)
            audiences = [
                name
                for name in sorted(self._activation.activated(account))
                if _is_concerned(name, before, after)
            ]
            plan = compile_edit(self._forest.account(account), audiences, instant, before, after)
            milestones = [
                self._repository.get(Milestone, self._repository.get(Audience, name).milestone)
                for name in audiences
            ]
        counts = self._backend.execute(plan, Count(), min_revision=at_least, deadline=deadline)
        found = []
        for at, (name, milestone) in enumerate(zip(audiences, milestones, strict=True)):
            users = counts.sizes[at * _ROOTS : (at + 1) * _ROOTS]
            found.append(
                EditedAudience(
                    audience=name,
                    milestone=milestone.name,
                    display_name=milestone.display_name,
                    users_before=users[0],
                    users_after=users[1],
                    entering=users[2],
                    leaving=users[3],
                    deleted=name in edited.deleted,
                )
            )
        return EditPreview(
            audiences=tuple(found),
            warnings=edited.warnings,
            as_of=instant,
            revision=counts.revision,
            elapsed=watch.elapsed(),
        )


def _without(deleted: Collection[str], resolver: AudienceResolver) -> AudienceResolver:
    """A resolver that raises NotFound for deleted audiences."""

    def resolve(audience: str) -> tuple[JourneyTree, str]:
        if audience in deleted:
            raise NotFound(audience)
        return resolver(audience)

    return resolve


def _is_concerned(audience: str, before: AudienceResolver, after: AudienceResolver) -> bool:
    """Whether the definition changes: that of the audience, or of anything that it depends on."""
    try:
        return list(_definition(audience, before)) != list(_definition(audience, after))
    except NotFound:
        return True


def _definition(audience: str, resolver: AudienceResolver) -> Iterator[object]:
    tree, milestone = resolver(audience)
    for located, each in made_of(tree, [milestone], resolver):
        # The order of siblings is that of the list; their numbers alone mean nothing.
        yield located.name, located.inputs, msgspec.structs.replace(each, position=0)
