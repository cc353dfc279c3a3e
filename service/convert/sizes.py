"""Sizes, funnels, memberships and explanations: the engine's answers as messages."""

from __future__ import annotations

from collections.abc import Iterable

from engine.audiences import model
from engine.audiences.model import SizeInterval, SizeKind, SizeState
from engine.checks.rows import is_longer
from engine.criteria.model import Criterion
from engine.errors import InvalidInput, Warning
from engine.limits import DEFAULT_LIMITS, Limits
from milepost.v1 import audience_pb2, audience_service_pb2, journey_pb2
from service.convert.criteria import criterion_of
from service.convert.enums import members_of, numbers_of
from service.convert.faults import ShapeFaults
from service.convert.journeys import MILESTONE_KIND_MESSAGES, milestone_kind
from service.convert.revisions import Revisions
from service.convert.times import duration, duration_message, timestamp

UNKNOWN_INTERVAL = "must be HOUR or DAY"
NO_TARGET = "must have a name or a draft"

_SIZE_STATES = numbers_of(audience_pb2.SizeState, SizeState)
_SIZE_KINDS = numbers_of(audience_pb2.SizeKind, SizeKind)
_INTERVALS = {
    audience_service_pb2.SIZE_INTERVAL_UNSPECIFIED: SizeInterval.DAY,
    **members_of(audience_service_pb2.SizeInterval, SizeInterval),
}


# --- questions ----------------------------------------------------------------------------------------------


def target_of(
    request: audience_service_pb2.EstimateAudienceRequest | audience_service_pb2.ExplainAudienceRequest,
    limits: Limits = DEFAULT_LIMITS,
) -> model.Target:
    """The milestone or draft of a request. Raises InvalidInput when it has neither."""
    match request.WhichOneof("target"):
        case "name":
            return model.SavedTarget(request.name)
        case "draft":
            return _draft(request.draft, limits)
    raise InvalidInput.one("name", NO_TARGET)


def _draft(message: audience_service_pb2.MilestoneDraft, limits: Limits) -> model.Draft:
    criteria = None
    if message.HasField("criteria"):
        criteria = criterion_of(message.criteria, "draft.criteria", limits)
    return model.Draft(
        journey=message.journey,
        parent=message.parent_milestone,
        kind=milestone_kind(message.kind, "draft.kind"),
        criteria=criteria,
        replaces=message.replaces,
    )


def precision_of(request: audience_service_pb2.EstimateAudienceRequest) -> model.Precision:
    """The precision of an estimate. `exact: false` is the same as unset."""
    match request.WhichOneof("precision"):
        case "exact":
            return model.Exact() if request.exact else model.Default()
        case "max_relative_error":
            return model.MaxRelativeError(request.max_relative_error)
        case "time_budget":
            faults = ShapeFaults()
            budget = duration(request.time_budget, "time_budget", faults)
            faults.raise_if_any()
            return model.TimeBudget(budget)
    return model.Default()


def preview_milestones(
    messages: Iterable[audience_service_pb2.PreviewMilestone], limits: Limits = DEFAULT_LIMITS
) -> tuple[model.PreviewMilestone, ...]:
    """The milestones of an unsaved journey. Raises InvalidInput."""
    return tuple(
        _preview_milestone(message, f"milestones[{i}]", limits) for i, message in enumerate(messages)
    )


def _preview_milestone(
    message: audience_service_pb2.PreviewMilestone, path: str, limits: Limits
) -> model.PreviewMilestone:
    faults = ShapeFaults()
    if is_longer(message.id, limits.name_bytes_max):
        faults.add(f"{path}.id", f"is longer than {limits.name_bytes_max} bytes")
    characters, characters_max = len(message.display_name), limits.display_name_characters_max
    if characters > characters_max:
        faults.add(
            f"{path}.display_name", f"has {characters} characters; at most {characters_max} are allowed"
        )
    faults.raise_if_any()
    criteria: Criterion | None = None
    if message.HasField("criteria"):
        criteria = criterion_of(message.criteria, f"{path}.criteria", limits)
    return model.PreviewMilestone(
        id=message.id,
        parent=message.parent,
        display_name=message.display_name,
        kind=milestone_kind(message.kind, f"{path}.kind"),
        criteria=criteria,
    )


def interval_of(number: int) -> SizeInterval:
    """The unit of a size history. Raises InvalidInput."""
    interval = _INTERVALS.get(number)
    if interval is None:
        raise InvalidInput.one("interval", UNKNOWN_INTERVAL)
    return interval


# --- answers ------------------------------------------------------------------------------------------------


def evaluation_message(
    answer: model.Estimate
    | model.Count
    | model.Comparison
    | model.Funnel
    | model.EditPreview
    | model.MembershipExplanation
    | model.AudienceExplanation,
    revisions: Revisions,
) -> audience_pb2.Evaluation:
    """Revision, instant and duration of an evaluation."""
    return audience_pb2.Evaluation(
        as_of=timestamp(answer.as_of),
        revision=revisions.token(answer.revision),
        elapsed=duration_message(answer.elapsed),
    )


def size_message(size: model.Size) -> audience_pb2.Size:
    """A size."""
    return audience_pb2.Size(
        state=_SIZE_STATES[size.state],
        users=size.users,
        lower=size.lower,
        upper=size.upper,
        sampled_fraction=size.sampled_fraction,
        failure=size.failure,
    )


def shown_size_message(shown: model.ShownSize, revisions: Revisions) -> audience_pb2.AudienceSize:
    """The size that an audience shows."""
    return audience_pb2.AudienceSize(
        kind=_SIZE_KINDS[shown.kind],
        size=size_message(shown.size),
        progress=shown.progress,
        added_last_day=shown.added_last_day,
        dropped_last_day=shown.dropped_last_day,
        population=shown.population,
        as_of=timestamp(shown.as_of),
        revision=revisions.token(shown.revision),
    )


def warning_messages(warnings: Iterable[Warning]) -> list[journey_pb2.Warning]:
    """Possible mistakes that did not fail the call."""
    return [journey_pb2.Warning(field=w.field, description=w.description, reason=w.reason) for w in warnings]


def count_message(count: model.Count, revisions: Revisions) -> audience_service_pb2.CountAudienceResponse:
    """An exact size."""
    return audience_service_pb2.CountAudienceResponse(
        users=count.users, population=count.population, evaluation=evaluation_message(count, revisions)
    )


def estimate_message(
    estimate: model.Estimate, revisions: Revisions
) -> audience_service_pb2.EstimateAudienceResponse:
    """An estimate, whole and by labelled criterion."""
    return audience_service_pb2.EstimateAudienceResponse(
        size=size_message(estimate.size),
        labelled=[
            audience_pb2.LabelledSize(label=part.label, path=part.path, size=size_message(part.size))
            for part in estimate.labelled
        ],
        population=estimate.population,
        draw=size_message(estimate.draw),
        evaluation=evaluation_message(estimate, revisions),
        warnings=warning_messages(estimate.warnings),
    )


def intersection_messages(comparison: model.Comparison) -> list[audience_service_pb2.Intersection]:
    """The size of every intersection."""
    return [
        audience_service_pb2.Intersection(audiences=part.audiences, users=part.users)
        for part in comparison.intersections
    ]


def funnel_step_messages(funnel: model.Funnel) -> list[audience_service_pb2.FunnelStep]:
    """The milestones of a funnel."""
    return [
        audience_service_pb2.FunnelStep(
            milestone=step.milestone,
            display_name=step.display_name,
            parent_milestone=step.parent,
            kind=MILESTONE_KIND_MESSAGES[step.kind],
            audience=step.audience,
            users=step.users,
            parent_share=step.parent_share,
            split_share=step.split_share,
            activated=step.activated,
        )
        for step in funnel.steps
    ]


def size_point_messages(points: Iterable[model.SizePoint]) -> list[audience_service_pb2.AudienceSizePoint]:
    """The points of a size history."""
    return [
        audience_service_pb2.AudienceSizePoint(
            start_time=timestamp(point.start), users=point.users, added=point.added, dropped=point.dropped
        )
        for point in points
    ]


def membership_explanation_message(
    answer: model.MembershipExplanation, revisions: Revisions
) -> audience_service_pb2.ExplainMembershipResponse:
    """The explanation of a user's membership."""
    return audience_service_pb2.ExplainMembershipResponse(
        member=answer.member,
        in_journey=answer.in_journey,
        milestones=map(_milestone_verdict, answer.milestones),
        evaluation=evaluation_message(answer, revisions),
    )


def _milestone_verdict(verdict: model.MilestoneVerdict) -> audience_service_pb2.MilestoneVerdict:
    criteria = None if verdict.criteria is None else _criterion_verdict(verdict.criteria)
    return audience_service_pb2.MilestoneVerdict(
        milestone=verdict.milestone, member=verdict.member, taken_by=verdict.taken_by, criteria=criteria
    )


def _criterion_verdict(verdict: model.CriterionVerdict) -> audience_service_pb2.CriterionVerdict:
    return audience_service_pb2.CriterionVerdict(
        path=verdict.path,
        label=verdict.label,
        description=verdict.description,
        true_for_user=verdict.true_for_user,
        decisive=verdict.decisive,
        seen=verdict.seen,
        children=map(_criterion_verdict, verdict.children),
    )


def audience_explanation_message(
    answer: model.AudienceExplanation, revisions: Revisions
) -> audience_service_pb2.ExplainAudienceResponse:
    """The compiled plan with each step's users and time."""
    return audience_service_pb2.ExplainAudienceResponse(
        steps=map(_plan_step, answer.steps),
        root=answer.root,
        plan_digest=answer.plan_digest,
        evaluation=evaluation_message(answer, revisions),
        warnings=warning_messages(answer.warnings),
    )


def _plan_step(step: model.PlanStep) -> audience_service_pb2.PlanStep:
    return audience_service_pb2.PlanStep(
        index=step.index,
        operator=step.operator,
        description=step.description,
        operands=step.operands,
        users=step.users,
        elapsed=duration_message(step.elapsed),
        source=step.source,
        looked_at=step.looked_at,
    )
