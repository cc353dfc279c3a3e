"""Validates criteria: all faults together, each with its path.

Paths read as in the proto messages, for example `criteria.all_of.criteria[1].event.window.range`. Names that
have never been seen are valid: they may arrive later.

`validate` walks the nodes, `events` covers conditions, windows, aggregates and sequences, and each operator
checks its own operands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine.criteria.faults import TOO_DEEP, Faults
from engine.criteria.faults import AudienceReference as AudienceReference
from engine.criteria.faults import Context as Context
from engine.criteria.model import (
    FIRST_SEEN,
    LAST_SEEN,
    USER_ID,
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
from engine.criteria.operators import ANY_KIND, TIMES, check_test
from engine.criteria.patterns import findings
from engine.criteria.validation.events import check_event, check_sequence
from engine.criteria.visitor import CriterionVisitor
from engine.errors import Violation
from engine.values import Kind

PERCENT_MAX = 100.0

_STRINGS = frozenset({Kind.STRING})
_BUILT_IN_KINDS = {FIRST_SEEN: TIMES, LAST_SEEN: TIMES, USER_ID: _STRINGS}


def validate(criterion: Criterion, context: Context) -> tuple[Violation, ...]:
    """All faults of the criterion, in reading order."""
    if context.patterns is None:
        context = replace(context, patterns=findings([criterion], context.limits))
    faults = Faults(context)
    _Validation(faults).check(criterion, context.root, 1)
    nodes_max = context.limits.criteria_nodes_max
    if faults.node_count > nodes_max:
        faults.add(context.root, f"has {faults.node_count} nodes; at most {nodes_max} are allowed")
    return tuple(faults.violations)


@dataclass(frozen=True, slots=True)
class _At:
    """The position of a node: the path of its message, and its depth."""

    path: str
    depth: int


class _Validation(CriterionVisitor[_At, None]):
    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def check(self, criterion: Criterion, path: str, depth: int) -> None:
        """Checks a node and everything below it."""
        if self._faults.enter(path, depth):
            self._faults.check_name(f"{path}.label", criterion.label, required=False)
            self.visit(criterion, _At(f"{path}.{criterion.__struct_config__.tag}", depth))

    def all_of(self, criterion: AllOf, at: _At) -> None:
        self._check_group(criterion.criteria, at)

    def any_of(self, criterion: AnyOf, at: _At) -> None:
        self._check_group(criterion.criteria, at)

    def _check_group(self, parts: tuple[Criterion, ...], at: _At) -> None:
        for index, part in enumerate(parts):
            self.check(part, f"{at.path}.criteria[{index}]", at.depth + 1)

    def not_(self, criterion: Not, at: _At) -> None:
        self.check(criterion.criterion, at.path, at.depth + 1)

    def user_attribute(self, criterion: UserAttribute, at: _At) -> None:
        self._faults.check_name(f"{at.path}.key", criterion.key)
        kinds = _BUILT_IN_KINDS.get(criterion.key, ANY_KIND)
        check_test(self._faults, f"{at.path}.test", criterion.test, kinds)

    def event(self, criterion: Event, at: _At) -> None:
        check_event(self._faults, at.path, criterion, at.depth)

    def sequence(self, criterion: Sequence, at: _At) -> None:
        check_sequence(self._faults, at.path, criterion, at.depth)

    def audience(self, criterion: Audience, at: _At) -> None:
        name, path = criterion.name, f"{at.path}.name"
        match self._faults.context.audience(name):
            case AudienceReference.UNKNOWN:
                self._faults.missing_audience(path, name)
            case AudienceReference.CYCLE:
                self._faults.add(path, f"audience {name!r} itself depends on this milestone")
            case AudienceReference.TOO_DEEP:
                self._faults.add(path, f"audience {name!r} {TOO_DEEP}")
            case AudienceReference.DELETED:
                self._faults.add(path, f"audience {name!r} is deleted by this document")
            case AudienceReference.FOUND:
                pass

    def consent(self, criterion: Consent, at: _At) -> None:
        self._faults.check_name(f"{at.path}.regulation", criterion.regulation)
        self._faults.check_name(f"{at.path}.purpose", criterion.purpose)

    def identity(self, criterion: Identity, at: _At) -> None:
        self._faults.check_name(f"{at.path}.type", criterion.type)
        check_test(self._faults, f"{at.path}.test", criterion.test, _STRINGS)

    def bucket(self, criterion: Bucket, at: _At) -> None:
        self._faults.check_name(f"{at.path}.salt", criterion.salt, required=False)
        ends = {"from_percent": criterion.from_percent, "to_percent": criterion.to_percent}
        outside = [name for name, percent in ends.items() if not 0 <= percent <= PERCENT_MAX]
        for name in outside:
            self._faults.add(f"{at.path}.{name}", "must lie between 0 and 100")
        if not outside and criterion.from_percent >= criterion.to_percent:
            self._faults.add(at.path, "is empty: from_percent must be less than to_percent")
