"""Readable plans and verdicts.

`describe_plan` describes each step of a plan, for ExplainAudience. `compile_explanation` builds a plan with a
root for every criterion on the path from a journey's start to a milestone; `explain` turns a backend's
answers for one user into a tree of reasons, for ExplainMembership.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

import msgspec

from engine.criteria.conditions import condition_in_words
from engine.criteria.describe import describe_criterion
from engine.criteria.model import (
    AllOf,
    AnyOf,
    Audience,
    Bucket,
    Consent,
    Criterion,
    Event,
    Identity,
    Not,
    UserAttribute,
)
from engine.criteria.model import Sequence as SequenceCriterion
from engine.criteria.words import intervals_in_words, quoted, range_in_words
from engine.plan.compile import Planner
from engine.plan.criteria import HASHES, CompiledNode
from engine.plan.model import (
    ALL_TIME,
    AttributeMatch,
    BucketMatch,
    ConsentMatch,
    Difference,
    Empty,
    EventMatch,
    EventSelection,
    IdentityMatch,
    Intersection,
    Plan,
    SeenMatch,
    SequenceMatch,
    Step,
    Union,
    Universe,
    UserIdMatch,
    operands_of,
)
from engine.plan.passes import ALL_PASSES, Pass
from engine.plan.tree import Account, AudienceResolver, JourneyTree, TreeMilestone
from engine.plan.visitor import StepVisitor
from engine.values import Micros

# --- a plan in words ----------------------------------------------------------------------------------------


class StepText(msgspec.Struct, frozen=True):
    """One step of a plan in words. `operator` is the step's tag; `operands` are indices of earlier steps."""

    index: int
    operator: str
    text: str
    operands: tuple[int, ...]


def describe_plan(plan: Plan) -> tuple[StepText, ...]:
    """The steps of a plan in words, in its order."""
    return tuple(
        StepText(index, str(step.__struct_config__.tag), describe_step(step), operands_of(step))
        for index, step in enumerate(plan.steps)
    )


def describe_step(step: Step) -> str:
    """Describes one step."""
    return _Description().visit(step)


class _Description(StepVisitor[str]):
    def universe(self, step: Universe) -> str:
        return f"users of {_listed(step.inputs)}"

    def empty(self, step: Empty) -> str:
        return "no one"

    def intersection(self, step: Intersection) -> str:
        return "in every one of " + _numbered(step.operands)

    def union(self, step: Union) -> str:
        return "in any of " + _numbered(step.operands)

    def difference(self, step: Difference) -> str:
        return f"in #{step.minuend} and not in #{step.subtrahend}"

    def attribute(self, step: AttributeMatch) -> str:
        return f"attribute {quoted(step.key)} {step.test.describe()} in {_listed(step.workspaces)}"

    def seen(self, step: SeenMatch) -> str:
        which = "last" if step.last else "first"
        return f"{which} seen {step.test.describe()} through {_listed(step.inputs)}"

    def identity(self, step: IdentityMatch) -> str:
        return f"identity {quoted(step.type)} {step.test.describe()}"

    def user_id(self, step: UserIdMatch) -> str:
        return f"user id {step.test.describe()}"

    def consent(self, step: ConsentMatch) -> str:
        under = f"{quoted(step.regulation)} for {quoted(step.purpose)}"
        return f"consent under {under} is {step.state.value}"

    def event(self, step: EventMatch) -> str:
        of = f"{step.aggregate.value} of {quoted(step.of)}" if step.of else step.aggregate.value
        return f"{of} {intervals_in_words(step.intervals)} over {_selection(step.selection)}"

    def sequence(self, step: SequenceMatch) -> str:
        return ", then ".join(map(_selection, step.steps)) + _within(step.within)

    def bucket(self, step: BucketMatch) -> str:
        share = (step.last - step.first + 1) / HASHES
        return f"{share:.4%} of the users by salt {quoted(step.salt)}"


def _within(micros: Micros | None) -> str:
    return "" if micros is None else f", the last within {micros} µs of the first"


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "nothing"


def _numbered(operands: tuple[int, ...]) -> str:
    return ", ".join(f"#{operand}" for operand in operands)


def _selection(selection: EventSelection) -> str:
    parts = [f"event {quoted(selection.name)}" if selection.name else "any event"]
    if selection.type is not None:
        parts.append(f"of type {selection.type.name}")
    if selection.where is not None:
        parts.append(f"where {condition_in_words(selection.where)}")
    if selection.time != ALL_TIME:
        parts.append(range_in_words(selection.time))
    parts.append(f"through {_listed(selection.inputs)}")
    return " ".join(parts)


# --- a user's verdicts --------------------------------------------------------------------------------------


class ExplainedNode(msgspec.Struct, frozen=True):
    """A node of a criterion, and the root of the users for whom it is true."""

    path: str
    criterion: Criterion
    root: int
    children: tuple[ExplainedNode, ...] = ()


class ExplainedMilestone(msgspec.Struct, frozen=True):
    """A milestone on the path: its root, its criterion if it has one, and its earlier siblings (ids) with the
    roots of their users.
    """

    id: str
    root: int
    criterion: ExplainedNode | None
    siblings: tuple[tuple[str, int], ...]


class CompiledExplanation(msgspec.Struct, frozen=True):
    """Root 0 is the journey's users; `milestones` lead from the start to the target."""

    plan: Plan
    milestones: tuple[ExplainedMilestone, ...]


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """A criterion evaluated for one user.

    `decisive` means that the parent's verdict would be another if only this one were. The parent of the whole
    criterion is the milestone: its root is decisive when the user is in the parent milestone and no earlier
    sibling took it. So where a node and all nodes above it are decisive, that node alone decides membership.
    """

    path: str
    label: str
    description: str
    verdict: bool
    decisive: bool
    criterion: Criterion
    children: tuple[Explanation, ...] = ()


class MilestoneExplanation(msgspec.Struct, frozen=True, kw_only=True):
    """A milestone evaluated for one user. `taken_by` is the id of the earlier sibling that took the user, ""
    when none did; `criterion` is None for REMAINING_USERS.
    """

    id: str
    member: bool
    taken_by: str
    criterion: Explanation | None


def compile_explanation(
    account: Account,
    journey: JourneyTree,
    milestone_id: str,
    as_of: Micros,
    resolver: AudienceResolver,
    *,
    passes: Sequence[Pass] = ALL_PASSES,
) -> CompiledExplanation:
    """The plan to ask a backend which of its roots contain a user, for `explain`."""
    planner = Planner(account, as_of, resolver)
    universe = planner.universe(journey)
    roots = [universe]

    def root(step: int) -> int:
        roots.append(step)
        return len(roots) - 1

    def explained(node: CompiledNode) -> ExplainedNode:
        # Users of other journeys can pass a predicate; only the journey's users belong to the set.
        own = root(planner.steps.intersection([universe, node.step]))
        return ExplainedNode(node.path, node.criterion, own, tuple(map(explained, node.children)))

    milestones = []
    for milestone in _way_to(journey, milestone_id):
        criterion = planner.criterion_of(journey, milestone.id)
        before = [sibling.id for sibling in journey.before(milestone)]
        siblings = zip(before, planner.milestones(journey, before), strict=True)
        milestones.append(
            ExplainedMilestone(
                milestone.id,
                root(planner.milestone(journey, milestone.id)),
                None if criterion is None else explained(criterion),
                tuple((sibling, root(step)) for sibling, step in siblings),
            )
        )
    return CompiledExplanation(planner.plan(roots, passes), tuple(milestones))


def _way_to(journey: JourneyTree, milestone_id: str) -> list[TreeMilestone]:
    """The milestone's ancestors from the start, and itself."""
    way = [journey.milestone(milestone_id)]
    while (parent := way[-1].parent) is not None:
        way.append(journey.milestone(parent))
    return way[::-1]


def explain(compiled: CompiledExplanation, flags: Sequence[bool]) -> tuple[MilestoneExplanation, ...]:
    """Interprets the flags of one user (one for each root, as in `Containment`), from the start to the target
    milestone.
    """
    found: list[MilestoneExplanation] = []
    is_above = flags[0]
    for milestone in compiled.milestones:
        taken_by = next((sibling for sibling, root in milestone.siblings if flags[root]), "")
        criterion, is_reached = milestone.criterion, is_above and not taken_by
        found.append(
            MilestoneExplanation(
                id=milestone.id,
                member=flags[milestone.root],
                taken_by=taken_by,
                criterion=_explain(criterion, flags, decisive=is_reached) if criterion else None,
            )
        )
        is_above = flags[milestone.root]
    return tuple(found)


def _explain(node: ExplainedNode, flags: Sequence[bool], *, decisive: bool) -> Explanation:
    verdicts = [flags[child.root] for child in node.children]
    return Explanation(
        path=node.path,
        label=node.criterion.label,
        description=describe_criterion(node.criterion),
        verdict=flags[node.root],
        decisive=decisive,
        criterion=node.criterion,
        children=tuple(
            _explain(child, flags, decisive=_is_decisive(node.criterion, verdict, verdicts))
            for child, verdict in zip(node.children, verdicts, strict=True)
        ),
    )


def _is_decisive(parent: Criterion, verdict: bool, verdicts: Sequence[bool]) -> bool:
    """Whether the parent's verdict depends on this child's, given those of all its children."""
    match parent:
        case AllOf():
            return verdicts.count(False) == (not verdict)
        case AnyOf():
            return verdicts.count(True) == verdict
        case Not():
            return True
        case UserAttribute() | Event() | SequenceCriterion() | Audience() | Consent() | Identity() | Bucket():
            raise AssertionError(f"a {type(parent).__name__} has no children")
        case _:
            assert_never(parent)
