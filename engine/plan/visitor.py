"""One function of plan steps that cannot skip a kind of step.

Costs, expiry, descriptions and a backend's predicates subclass `StepVisitor`. A new step needs a case in
`visit` and an abstract method: the type checker, and Python itself, then reject every visitor that does not
handle it. Optimiser passes are the exception: a pass leaves unknown steps unchanged, which is always
right.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar, assert_never

from engine.plan.model import (
    AttributeMatch,
    BucketMatch,
    ConsentMatch,
    Difference,
    Empty,
    EventMatch,
    IdentityMatch,
    Intersection,
    SeenMatch,
    SequenceMatch,
    Step,
    Union,
    Universe,
    UserIdMatch,
)

Result = TypeVar("Result")


class StepVisitor(ABC, Generic[Result]):
    """A function of one step, with a method for each kind of step."""

    def visit(self, step: Step) -> Result:  # noqa: C901 (one case for each kind of step)
        """Calls the method for this kind of step."""
        match step:
            case Universe():
                return self.universe(step)
            case Empty():
                return self.empty(step)
            case Intersection():
                return self.intersection(step)
            case Union():
                return self.union(step)
            case Difference():
                return self.difference(step)
            case AttributeMatch():
                return self.attribute(step)
            case SeenMatch():
                return self.seen(step)
            case IdentityMatch():
                return self.identity(step)
            case UserIdMatch():
                return self.user_id(step)
            case ConsentMatch():
                return self.consent(step)
            case EventMatch():
                return self.event(step)
            case SequenceMatch():
                return self.sequence(step)
            case BucketMatch():
                return self.bucket(step)
            case _:
                assert_never(step)

    @abstractmethod
    def universe(self, step: Universe) -> Result: ...

    @abstractmethod
    def empty(self, step: Empty) -> Result: ...

    @abstractmethod
    def intersection(self, step: Intersection) -> Result: ...

    @abstractmethod
    def union(self, step: Union) -> Result: ...

    @abstractmethod
    def difference(self, step: Difference) -> Result: ...

    @abstractmethod
    def attribute(self, step: AttributeMatch) -> Result: ...

    @abstractmethod
    def seen(self, step: SeenMatch) -> Result: ...

    @abstractmethod
    def identity(self, step: IdentityMatch) -> Result: ...

    @abstractmethod
    def user_id(self, step: UserIdMatch) -> Result: ...

    @abstractmethod
    def consent(self, step: ConsentMatch) -> Result: ...

    @abstractmethod
    def event(self, step: EventMatch) -> Result: ...

    @abstractmethod
    def sequence(self, step: SequenceMatch) -> Result: ...

    @abstractmethod
    def bucket(self, step: BucketMatch) -> Result: ...
