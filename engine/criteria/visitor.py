"""One walk over criteria that cannot skip a kind of node.

Everything that treats nodes differently subclasses `CriterionVisitor`. A new node needs a case in `visit` and
an abstract method: the type checker, and Python itself, then reject every visitor that does not handle it.
Code that only follows the tree uses `children_of`, `walk` and `with_children`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar, assert_never

import msgspec

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
    Sequence,
    UserAttribute,
)

Context = TypeVar("Context")
Result = TypeVar("Result")


class CriterionVisitor(ABC, Generic[Context, Result]):
    """A function of one node, with a method for each kind of node.

    `context` goes to the method unchanged: a path, a depth, or None. Methods visit children themselves.
    """

    def visit(self, criterion: Criterion, context: Context) -> Result:
        """Calls the method for this kind of node."""
        match criterion:
            case AllOf():
                return self.all_of(criterion, context)
            case AnyOf():
                return self.any_of(criterion, context)
            case Not():
                return self.not_(criterion, context)
            case UserAttribute():
                return self.user_attribute(criterion, context)
            case Event():
                return self.event(criterion, context)
            case Sequence():
                return self.sequence(criterion, context)
            case Audience():
                return self.audience(criterion, context)
            case Consent():
                return self.consent(criterion, context)
            case Identity():
                return self.identity(criterion, context)
            case Bucket():
                return self.bucket(criterion, context)
            case _:
                assert_never(criterion)

    @abstractmethod
    def all_of(self, criterion: AllOf, context: Context) -> Result: ...

    @abstractmethod
    def any_of(self, criterion: AnyOf, context: Context) -> Result: ...

    @abstractmethod
    def not_(self, criterion: Not, context: Context) -> Result: ...

    @abstractmethod
    def user_attribute(self, criterion: UserAttribute, context: Context) -> Result: ...

    @abstractmethod
    def event(self, criterion: Event, context: Context) -> Result: ...

    @abstractmethod
    def sequence(self, criterion: Sequence, context: Context) -> Result: ...

    @abstractmethod
    def audience(self, criterion: Audience, context: Context) -> Result: ...

    @abstractmethod
    def consent(self, criterion: Consent, context: Context) -> Result: ...

    @abstractmethod
    def identity(self, criterion: Identity, context: Context) -> Result: ...

    @abstractmethod
    def bucket(self, criterion: Bucket, context: Context) -> Result: ...


def children_of(criterion: Criterion) -> tuple[Criterion, ...]:
    """The criteria directly below a node, in reading order."""
    match criterion:
        case AllOf() | AnyOf():
            return criterion.criteria
        case Not():
            return (criterion.criterion,)
        case UserAttribute() | Event() | Sequence() | Audience() | Consent() | Identity() | Bucket():
            return ()
        case _:
            assert_never(criterion)


def walk(criterion: Criterion) -> Iterator[Criterion]:
    """The node and everything below it, in reading order. Depth is not bound by Python's stack."""
    pending = [criterion]
    while pending:
        node = pending.pop()
        yield node
        pending.extend(reversed(children_of(node)))


def with_children(criterion: Criterion, change: Callable[[Criterion], Criterion]) -> Criterion:
    """The same node with each direct child replaced by `change` of it."""
    match criterion:
        case AllOf() | AnyOf():
            return msgspec.structs.replace(criterion, criteria=tuple(map(change, criterion.criteria)))
        case Not():
            return msgspec.structs.replace(criterion, criterion=change(criterion.criterion))
        case UserAttribute() | Event() | Sequence() | Audience() | Consent() | Identity() | Bucket():
            return criterion
        case _:
            assert_never(criterion)
