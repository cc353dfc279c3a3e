"""Explains why a user is in an audience or not, and what an audience's plan does.

Verdicts come from the plan that counts, with one root for each criterion and a single user.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from engine.audiences.model import (
    AudienceExplanation,
    CriterionVerdict,
    MembershipExplanation,
    MilestoneVerdict,
    PlanStep,
    Target,
)
from engine.audiences.observed import Observed, ObservesUsers
from engine.audiences.targets import Targets
from engine.backends.base import Contains
from engine.plan.explain import Explanation, compile_explanation, describe_plan, explain
from engine.values import MICROS_PER_SECOND, Micros


class Explainer:
    """Explains verdicts and plans."""

    def __init__(self, targets: Targets, backend: ObservesUsers) -> None:
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
        seen = Observed(self._backend, located, user_id, as_of, deadline)
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
        located = self._targets.locate(target, deadline)
        warnings = self._targets.warnings(located)
        plan = located.compile(as_of).plan
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
            warnings=warnings,
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
