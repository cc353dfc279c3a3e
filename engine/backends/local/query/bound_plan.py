"""Plans with names resolved to numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import msgspec
from pyroaring import BitMap

from engine.backends.local.account.account import Account
from engine.backends.local.query.one_user import OneUser
from engine.backends.local.query.predicates import AggregatePredicate, EmptyPredicate, Predicate
from engine.backends.local.query.resolving import moved, resolve, window_of
from engine.backends.local.query.shared_answers import SharedAnswers
from engine.backends.local.storage.turns import Unshared
from engine.plan.costs import CostModel
from engine.plan.families import family_of
from engine.plan.model import Plan, Step, encode_step, operands_of

_FORM = b"form"
LANDING_STEPS = 64
"""Steps on a way through a plan after which one is answered before those that are made of it. To answer a
step is to answer its operands, and so on, by calls of the interpreter: a plan may be deeper than its stack.
"""


class FormAnswers(NamedTuple):
    """A plan without the steps that the instant decides, and the answers of these. Plans that agree in both,
    in the latter by identity, have the same answer.
    """

    form: bytes
    answers: Sequence[BitMap]


class BoundPlan:
    """A plan with names resolved to the store's numbers. Valid until a name comes or is forgotten."""

    def __init__(self, plan: Plan, account: Account, version: int, pause: Callable[[], None]) -> None:
        """`version`: that of the names."""
        self.plan = plan
        self.version = version
        self.account = account
        self.steps = plan.steps
        self.roots = plan.roots
        self.predicates: list[Predicate | None] = []
        self.encoded: list[bytes] = []
        self._families: dict[int, bytes] = {}
        self._forms: dict[tuple[int, ...], bytes] = {}
        """The plan without some of its steps (their indices)."""
        self._moved: BoundPlan | None = None
        """What it was moved to last: journeys that ask the same move it to one plan."""
        self.costs: list[float] = []
        self._model = CostModel()
        uses = Counter(operand for step in plan.steps for operand in operands_of(step))
        uses.update(plan.roots)
        self.shared = [uses[index] > 1 for index in range(len(plan.steps))]
        self.landings = _landings(plan.steps)
        """Steps to answer first, in this order, so that no answer nests deeper than `LANDING_STEPS`."""
        for index in self.landings:
            self.shared[index] = True
        for step in plan.steps:
            self._add(step)
            pause()
        self.searches = any(each is not None and each.searches for each in self.predicates)

    @cached_property
    def one_user(self) -> OneUser:
        """The plan as tests of one user, also as of other instants."""
        return OneUser(self.account, self.plan, self.predicates, self.costs, self.shared, self.landings)

    def family(self, index: int) -> bytes:
        """The family of a step that has a name in `encoded`; see `StepCache`."""
        found = self._families.get(index)
        if found is None:
            found = self._families[index] = family_of(self.steps[index])
        return found

    def moved_to(self, plan: Plan) -> BoundPlan | None:
        """A plan of the same template as of another instant, bound by resolving what differs. None when it
        has another form.
        """
        if self._moved is not None and self._moved.plan is plan:
            return self._moved
        if plan.roots is not self.roots or len(plan.steps) != len(self.steps):
            return None
        pairs = zip(plan.steps, self.steps, strict=True)
        others = [index for index, (step, before) in enumerate(pairs) if step is not before]
        if not others:
            return self
        if any(operands_of(plan.steps[index]) or operands_of(self.steps[index]) for index in others):
            return None
        found = BoundPlan.__new__(BoundPlan)
        vars(found).update(vars(self))
        found.plan, found.steps, found._moved = plan, plan.steps, None
        # Estimated costs hardly depend on the instant; they only order the operands of a step.
        found.predicates, found.encoded = list(self.predicates), list(self.encoded)
        for index in others:
            # Without a name: as of another instant it is never asked again, so it is not worth caching.
            predicate = self.predicates[index]
            assert predicate is not None
            found.predicates[index] = moved(self.account, predicate, self.steps[index], plan.steps[index])
            found.encoded[index] = b""
        self._moved = found
        return found

    def form_answers(self, plan: Plan, shared: SharedAnswers, read: Unshared) -> FormAnswers | None:
        """What decides the answer of a plan of the same template as of another instant, about users of these
        shared answers. None: that is only known once it is bound.
        """

        def find() -> tuple[BoundPlan, Plan, FormAnswers | None]:
            # What names it is kept with it, so that nothing else gets the name.
            return self, plan, self._decided_by(plan, shared, read)

        return shared.once((_FORM, id(self), id(plan)), find)[2]

    def _decided_by(self, plan: Plan, shared: SharedAnswers, read: Unshared) -> FormAnswers | None:
        if plan.roots is not self.roots or len(plan.steps) != len(self.steps):
            return None
        moved, answers = [], []
        for index, (step, before) in enumerate(zip(plan.steps, self.steps, strict=True)):
            if step is before:
                continue
            time, predicate = window_of(before, step), self.predicates[index]
            if time is None or not isinstance(predicate, AggregatePredicate):
                return None
            found = predicate.among_shared_within(time, shared, read)
            if found is None:
                return None
            moved.append(index)
            answers.append(found)
        return FormAnswers(self._form(tuple(moved)), answers)

    def _form(self, without: tuple[int, ...]) -> bytes:
        found = self._forms.get(without)
        if found is None:
            steps = [None if index in without else step for index, step in enumerate(self.steps)]
            found = self._forms[without] = msgspec.msgpack.encode((self.roots, steps))
        return found

    def _add(self, step: Step) -> None:
        predicate, encoded = self._resolved(step)
        self.predicates.append(predicate)
        self.encoded.append(encoded)
        cost = self._model.add(step).cost
        # An unknown name: nothing is cheaper or removes more users.
        self.costs.append(0.0 if isinstance(predicate, EmptyPredicate) else cost)

    def _resolved(self, step: Step) -> tuple[Predicate | None, bytes]:
        predicate = resolve(self.account, step)
        return predicate, b"" if predicate is None else encode_step(step)


def _landings(steps: Sequence[Step]) -> tuple[int, ...]:
    """Steps with at most `LANDING_STEPS` steps on any way between two of them, or from one to a source."""
    landings: list[int] = []
    heights: list[int] = []
    """By step, the steps on the longest way down to a landing or a source."""
    for index, step in enumerate(steps):
        height = max((heights[operand] + 1 for operand in operands_of(step)), default=0)
        if height == LANDING_STEPS:
            landings.append(index)
            height = 0
        heights.append(height)
    return tuple(landings)
