"""Which criteria are refused, and why: every fault at once, each with its path.

Paths read as in the proto messages, for example `criteria.all_of.criteria[1].event.window.range`. Names never
seen are no fault (they may come later) but are warned about.

`validate` walks the nodes, `events` knows conditions, windows, aggregates and sequences, and each operator
checks its own operands.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.criteria.faults import AudienceReference as AudienceReference
from engine.criteria.faults import Context as Context
from engine.criteria.faults import Faults
from engine.criteria.faults import SeenNames as SeenNames
from engine.criteria.model import (
    BUILT_IN_ATTRIBUTES,
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
from engine.criteria.validation.events import check_event, check_sequence
from engine.criteria.visitor import CriterionVisitor
from engine.errors import Violation, Warning
from engine.values import Kind

PERCENT_MAX = 100.0

_IDENTITY_KINDS = frozenset({Kind.STRING})


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found: faults, for which the criterion is refused, and warnings, which go with the answer."""

    violations: tuple[Violation, ...]
    warnings: tuple[Warning, ...]


def validate(criterion: Criterion, context: Context) -> Checked:
    """Everything that is wrong with the criterion, in the order in which a reader meets it."""
    faults = Faults(context)
    _Validation(faults).check(criterion, context.root, 1)
    nodes_max = context.limits.criteria_nodes_max
    if faults.node_count > nodes_max:
        faults.add(context.root, f"has {faults.node_count} nodes; at most {nodes_max} are allowed")
    return Checked(tuple(faults.violations), tuple(faults.warnings))


@dataclass(frozen=True, slots=True)
class _At:
    """Where a node is: the path of its message, and how deep it lies."""

    path: str
    depth: int


class _Validation(CriterionVisitor[_At, None]):
    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def check(self, criterion: Criterion, path: str, depth: int) -> None:
        """Notes what is wrong with a node and everything below it."""
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
        key_path = f"{at.path}.key"
        built_in = criterion.key in BUILT_IN_ATTRIBUTES
        self._faults.check_name(key_path, criterion.key)
        if not built_in:
            self._faults.warn_unseen(
                key_path, "user attribute", criterion.key, lambda seen: seen.user_attributes
            )
        check_test(self._faults, f"{at.path}.test", criterion.test, TIMES if built_in else ANY_KIND)

    def event(self, criterion: Event, at: _At) -> None:
        check_event(self._faults, at.path, criterion, at.depth)

    def sequence(self, criterion: Sequence, at: _At) -> None:
        check_sequence(self._faults, at.path, criterion, at.depth)

    def audience(self, criterion: Audience, at: _At) -> None:
        name, path = criterion.name, f"{at.path}.name"
        match self._faults.context.audience(name):
            case AudienceReference.UNKNOWN:
                self._faults.add(path, f"audience {name!r} does not exist")
            case AudienceReference.CYCLE:
                self._faults.add(path, f"audience {name!r} is itself made from this milestone")
            case AudienceReference.FOUND:
                pass

    def consent(self, criterion: Consent, at: _At) -> None:
        self._faults.check_name(f"{at.path}.regulation", criterion.regulation)
        self._faults.check_name(f"{at.path}.purpose", criterion.purpose)

    def identity(self, criterion: Identity, at: _At) -> None:
        self._faults.check_name(f"{at.path}.type", criterion.type)
        check_test(self._faults, f"{at.path}.test", criterion.test, _IDENTITY_KINDS)

    def bucket(self, criterion: Bucket, at: _At) -> None:
        self._faults.check_name(f"{at.path}.salt", criterion.salt, required=False)
        ends = {"from_percent": criterion.from_percent, "to_percent": criterion.to_percent}
        outside = [name for name, percent in ends.items() if not 0 <= percent <= PERCENT_MAX]
        for name in outside:
            self._faults.add(f"{at.path}.{name}", "must lie between 0 and 100")
        if not outside and criterion.from_percent >= criterion.to_percent:
            self._faults.add(at.path, "is empty: from_percent must be less than to_percent")
