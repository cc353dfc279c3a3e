"""Why a user is in an audience or not, and what an audience's plan does.

Verdicts come from the plan that counts: one root a criterion, asked of one user. What was seen of a user
comes from the profile or, for aggregates, from asking the same criterion with other tests until only one
number is left, so that no second evaluator has a say.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol, assert_never

import msgspec

from engine.audiences.model import (
    AudienceExplanation,
    CriterionVerdict,
    MembershipExplanation,
    MilestoneVerdict,
    PlanStep,
    Target,
)
from engine.audiences.targets import Located, Targets
from engine.backends.base import Contains, PlanExecutor, Profile, UserReader
from engine.criteria.model import (
    FIRST_SEEN,
    LAST_SEEN,
    AllOf,
    AnyOf,
    Audience,
    Between,
    Bucket,
    Compare,
    Consent,
    Event,
    Identity,
    Not,
    NumberTest,
    Sequence,
    UserAttribute,
)
from engine.plan.compile import compile_criterion
from engine.plan.explain import Explanation, compile_explanation, describe_plan, explain
from engine.plan.tree import workspaces_of
from engine.values import MICROS_PER_SECOND, Micros

AGGREGATES_SHOWN_MAX = 16
"""Aggregates whose number is looked for in one explanation."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LARGEST = 1.7976931348623157e308


class Explains(PlanExecutor, UserReader, Protocol):
    """Executes plans, and knows single users."""


class Explainer:
    """Answers with reasons."""

    def __init__(self, targets: Targets, backend: Explains) -> None:
        self._targets = targets
        self._backend = backend

    def membership(
        self, name: str, user_id: str, as_of: Micros, at_least: int, deadline: float | None
    ) -> MembershipExplanation:
        """See `Members.explain_membership`."""
        begun = time.perf_counter()
        located = self._targets.saved(name)
        # For one user, optimising a plan takes longer than it saves.
        compiled = compile_explanation(
            located.account, located.tree, located.id, as_of, located.resolver, passes=()
        )
        ask = Contains((user_id,))
        found = self._backend.execute(compiled.plan, ask, min_revision=at_least, deadline=deadline)
        flags = found.flags[0]
        seen = _Seen(self._backend, located, user_id, as_of, deadline)
        milestones = tuple(
            MilestoneVerdict(
                milestone=each.id,
                member=each.member,
                taken_by=each.taken_by,
                criteria=None if each.criterion is None else _verdict(each.criterion, seen.of),
            )
            for each in explain(compiled, flags)
        )
        return MembershipExplanation(
            member=milestones[-1].member,
            in_journey=flags[0],
            milestones=milestones,
            as_of=as_of,
            revision=found.revision,
            elapsed=_micros_since(begun),
        )

    def audience(
        self, target: Target, as_of: Micros, at_least: int, deadline: float | None
    ) -> AudienceExplanation:
        """See `Members.explain_audience`."""
        begun = time.perf_counter()
        plan = self._targets.locate(target).compile(as_of).plan
        trace = self._backend.trace(plan, min_revision=at_least, deadline=deadline)
        return AudienceExplanation(
            steps=tuple(
                PlanStep(
                    index=text.index,
                    operator=text.operator,
                    description=text.text,
                    operands=text.operands,
                    users=traced.users,
                    elapsed=round(traced.elapsed_us),
                    source=traced.source,
                    looked_at=traced.looked_at,
                )
                for text, traced in zip(describe_plan(plan), trace.steps, strict=True)
            ),
            root=plan.roots[0],
            plan_digest=plan.digest(),
            as_of=as_of,
            revision=trace.revision,
            elapsed=_micros_since(begun),
        )


def _verdict(explanation: Explanation, seen: Callable[[Explanation], str]) -> CriterionVerdict:
    return CriterionVerdict(
        path=explanation.path,
        label=explanation.label,
        description=explanation.description,
        true_for_user=explanation.verdict,
        decisive=explanation.decisive,
        seen=seen(explanation),
        children=tuple(_verdict(child, seen) for child in explanation.children),
    )


def _micros_since(begun: float) -> Micros:
    return round((time.perf_counter() - begun) * MICROS_PER_SECOND)


class _Seen:
    """What one user shows to criteria."""

    def __init__(
        self, backend: Explains, located: Located, user_id: str, as_of: Micros, deadline: float | None
    ) -> None:
        self._backend = backend
        self._located = located
        self._user_id = user_id
        self._as_of = as_of
        self._deadline = deadline
        self._profile = backend.profile(located.account.name, user_id)
        self._aggregates_left = AGGREGATES_SHOWN_MAX

    def of(self, explanation: Explanation) -> str:
        """What was seen for the criterion, "" when there is nothing to show."""
        profile, criterion = self._profile, explanation.criterion
        if profile is None:
            return ""
        match criterion:
            case UserAttribute(key=key):
                return ", ".join(self._attribute(profile, key))
            case Identity(type=type_):
                identity = profile.identities.get(type_)
                return "" if identity is None else identity[1]
            case Consent(regulation=regulation, purpose=purpose):
                consent = profile.consents.get((regulation, purpose))
                return "" if consent is None else consent[1].value
            case Event():
                return self._aggregate(criterion)
            case AllOf() | AnyOf() | Not() | Sequence() | Audience() | Bucket():
                return ""
            case _:
                assert_never(criterion)

    def _attribute(self, profile: Profile, key: str) -> list[str]:
        inputs = self._located.tree.inputs
        if key in (FIRST_SEEN, LAST_SEEN):
            times = [profile.seen[name] for name in inputs if name in profile.seen]
            if not times:
                return []
            instant = min(t[0] for t in times) if key == FIRST_SEEN else max(t[1] for t in times)
            return [(_EPOCH + timedelta(microseconds=instant)).isoformat()]
        workspaces = workspaces_of(inputs)
        values = (profile.attributes.get(workspace, {}).get(key) for workspace in workspaces)
        return [_shown(value[1]) for value in values if value is not None]

    def _aggregate(self, criterion: Event) -> str:
        """The number that the criterion's test is held against; "" when it is undefined."""
        if self._aggregates_left == 0:
            return ""
        self._aggregates_left -= 1
        if not self._holds(criterion, Between(-_LARGEST, _LARGEST)):
            return ""
        if criterion.aggregate.is_whole_number:
            return str(self._whole_number(criterion))
        return repr(self._number(criterion))

    def _holds(self, criterion: Event, test: NumberTest) -> bool:
        plan = compile_criterion(
            self._located.account,
            self._located.tree,
            msgspec.structs.replace(criterion, test=test),
            self._as_of,
            self._located.resolver,
            passes=(),
        )
        answer = self._backend.execute(plan, Contains((self._user_id,)), deadline=self._deadline)
        return answer.flags[0][0]

    def _at_most(self, criterion: Event, number: float) -> bool:
        return self._holds(criterion, Compare("less_or_equal", number))

    def _whole_number(self, criterion: Event) -> int:
        high = 1
        while not self._at_most(criterion, float(high)):
            high *= 2
        low = high // 2 if high > 1 else 0
        while low < high:
            middle = (low + high) // 2
            if self._at_most(criterion, float(middle)):
                high = middle
            else:
                low = middle + 1
        return low

    def _number(self, criterion: Event) -> float:
        """The smallest double that is not below the number: itself, unless an exact sum lies between two."""
        low, high = _place_of(-_LARGEST), _place_of(_LARGEST)
        while low < high:
            middle = (low + high) // 2
            if self._at_most(criterion, _double_at(middle)):
                high = middle
            else:
                low = middle + 1
        return _double_at(low) + 0.0


def _shown(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _place_of(number: float) -> int:
    """The place of a double among all doubles in order, negative below zero."""
    (bits,) = struct.unpack("<q", struct.pack("<d", math.fabs(number)))
    return -bits if number < 0 else int(bits)


def _double_at(place: int) -> float:
    (number,) = struct.unpack("<d", struct.pack("<q", abs(place)))
    return -number if place < 0 else float(number)
