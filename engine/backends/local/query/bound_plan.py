"""Plans with names resolved to numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cached_property

from engine.backends.local.account.account import Account
from engine.backends.local.query.one_user import OneUser
from engine.backends.local.query.predicates import EmptyPredicate, Predicate
from engine.backends.local.query.resolving import moved, resolve
from engine.plan.costs import CostModel
from engine.plan.families import family_of
from engine.plan.model import Plan, Step, encode_step, operands_of


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
        self._moved: BoundPlan | None = None
        """What it was moved to last: journeys that ask the same move it to one plan."""
        self.costs: list[float] = []
        self._model = CostModel()
        uses = Counter(operand for step in plan.steps for operand in operands_of(step))
        uses.update(plan.roots)
        self.shared = [uses[index] > 1 for index in range(len(plan.steps))]
        for step in plan.steps:
            self._add(step)
            pause()
        self.searches = any(each is not None and each.searches for each in self.predicates)

    @cached_property
    def one_user(self) -> OneUser:
        """The plan as tests of one user, also as of other instants."""
        return OneUser(self.account, self.plan, self.predicates, self.costs, self.shared)

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
