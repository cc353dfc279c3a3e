"""Plans that are compiled once and moved to any instant.

Compiling the same audience for each check takes about as long as deciding it. Only windows, relative times
and retention depend on the instant, so a template keeps the steps and makes those few anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from engine.bounded_cache import held_bytes
from engine.plan.compile import Planner
from engine.plan.model import ALL_TIME, EventMatch, Plan
from engine.plan.timed_steps import TimedSteps
from engine.plan.tree import Account, AudienceResolver
from engine.values import Micros


class Template:
    """A plan without optimisation, as of any instant. Plans of one template have the same `roots` object and
    share every step that is the same, so a backend sees cheaply what differs.
    """

    def __init__(
        self,
        planner: Planner,
        roots: Sequence[int],
        timed: TimedSteps | None = None,
        like: Template | None = None,
    ) -> None:
        """`timed`: those of the planner, if they are known. `like`: a template that differs in windows alone;
        both then count as one for a backend, which binds what they share once.
        """
        self._timed = TimedSteps(planner) if timed is None else timed
        self._plan = planner.plan(roots, ())
        if like is not None:
            self._plan = _with_steps_of(like._plan, self._plan, self._timed)
        self.nbytes = 2 * held_bytes(len(self._plan.encode()), self._plan)
        """Approximate memory: of the steps, and of the criteria that they are made of."""
        self._last: Plan | None = None
        """The plan that was asked for last: the journeys of a round that share a template share it, too."""

    def at(self, as_of: Micros) -> Plan:
        """The plan as of an instant."""
        last = self._last
        if last is None or last.as_of != as_of:
            last = self._last = self._made(as_of)
        return last

    def _made(self, as_of: Micros) -> Plan:
        plan = self._plan
        steps = plan.steps
        if self._timed:
            moved = list(steps)
            for index, step in self._timed.at(as_of).items():
                moved[index] = step
            steps = tuple(moved)
        return Plan(account=plan.account, as_of=as_of, steps=steps, roots=plan.roots)


def form_of(planner: Planner, roots: Sequence[int]) -> bytes:
    """Equal for planners that make the same steps at every instant, with the same roots."""
    steps = planner.steps
    return msgspec.msgpack.encode(
        (planner.account, planner.as_of, steps.steps, [*steps.sources.items()], roots)
    )


def shape_of(planner: Planner, roots: Sequence[int]) -> bytes:
    """Equal for planners whose steps differ in windows of events alone, as far as that is seen here."""
    steps = [*planner.steps.steps]
    for index in planner.steps.sources:
        step = steps[index]
        if isinstance(step, EventMatch):
            steps[index] = replace(step, selection=replace(step.selection, time=ALL_TIME))
    return msgspec.msgpack.encode((planner.account, steps, roots))


def _with_steps_of(like: Plan, plan: Plan, timed: TimedSteps) -> Plan:
    """A plan that shares the roots, and the steps that do not depend on the instant, with another one; as it
    is if those are not the same.
    """
    moving = timed.at(plan.as_of)
    if like.roots != plan.roots or len(like.steps) != len(plan.steps):
        return plan
    pairs = enumerate(zip(plan.steps, like.steps, strict=True))
    steps = tuple([step if index in moving or step != other else other for index, (step, other) in pairs])
    return replace(plan, steps=steps, roots=like.roots)


def audiences_template(account: Account, audiences: Sequence[str], resolver: AudienceResolver) -> Template:
    """A template with a root for each of the audiences (resource names), of any journeys; see
    `compile_audiences`.
    """
    planner = Planner(account, 0, resolver)
    return Template(planner, [planner.milestone(*resolver(name)) for name in audiences])
