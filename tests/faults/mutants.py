"""Faults to put into the engine, each a small slip that a reader could overlook.

`tests.faults.mutation_run` puts one at a time into a copy of the engine and looks for a random world whose
answers differ from the oracle's. A fault that no world finds is a gap in the worlds. `before` must occur
exactly once in its file; when the code moves, the fault moves with it (`test_mutants.py`).
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """In `file`, below engine/, `before` becomes `after`."""

    name: str
    file: str
    before: str
    after: str


_LOCAL = "backends/local/"
_EVENTS = _LOCAL + "events/"

MUTANTS = (
    # Time.
    Mutant(
        "a window includes its far end",
        "criteria/operators/relative_time.py",
        "TimeRange(as_of - duration + 1, as_of + 1)",
        "TimeRange(as_of - duration, as_of + 1)",
    ),
    Mutant(
        "older_than excludes the instant itself",
        "criteria/operators/relative_time.py",
        "TimeRange(None, as_of - self.duration + 1)",
        "TimeRange(None, as_of - self.duration)",
    ),
    Mutant(
        "between_ago includes its far end",
        "plan/windows.py",
        "TimeRange(as_of - window.from_ + 1,",
        "TimeRange(as_of - window.from_,",
    ),
    Mutant(
        "calendar windows ignore their offset",
        "plan/windows.py",
        "first, end = -window.offset - window.count + 1, -window.offset + 1",
        "first, end = -window.count + 1, 1",
    ),
    Mutant(
        "retention does not narrow windows",
        "plan/windows.py",
        "oldest if span.start is None else max(oldest, span.start)",
        "oldest if span.start is None else span.start",
    ),
    Mutant(
        "distinct days are those of UTC",
        "plan/criteria.py",
        'self.account.time_zone if event.aggregate is Aggregate.DISTINCT_DAYS else "UTC"',
        '"UTC"',
    ),
    # Tests on values.
    Mutant(
        "between excludes its later end",
        "criteria/operators/ordering.py",
        "TimeRange(self.low, self.high + 1)",
        "TimeRange(self.low, self.high)",
    ),
    Mutant(
        "less than includes the operand",
        "criteria/operators/ordering.py",
        "Interval(high=operand, high_included=False)",
        "Interval(high=operand)",
    ),
    Mutant(
        "the pattern is folded, the value is not",
        "criteria/operators/text.py",
        "passes(value.casefold(), pattern)",
        "passes(value, pattern)",
    ),
    Mutant(
        "elements of lists are not tested",
        "criteria/operators/base.py",
        "type(value) is tuple and any(map(passes_text, value))",
        "type(value) is tuple and all(map(passes_text, value))",
    ),
    Mutant(
        "a bucket excludes its first hash",
        _LOCAL + "query/predicates.py",
        "inside: Bools = (hashes >= self._first)",
        "inside: Bools = (hashes > self._first + np.uint64(1 << 60))",
    ),
    # From criteria to steps.
    Mutant(
        "zero events are not complemented",
        "plan/criteria.py",
        "return self._everyone_but(predicate) if zero_passes else predicate",
        "return predicate",
    ),
    Mutant(
        "a split is not exclusive",
        "plan/compile.py",
        "return self.steps.add(\n"
        "            Difference(minuend=self._draws[previous], subtrahend=self._criteria[previous].step)\n"
        "        )",
        "return self._draws[previous]",
    ),
    Mutant(
        "a milestone does not draw from its parent",
        "plan/compile.py",
        "return self._members[journey.name, milestone.parent]",
        "return self.universe(journey)",
    ),
    # Passes.
    Mutant(
        "a union lies inside a step when one operand does",
        "plan/passes/relations.py",
        "return all(self.inside(operand, other, depth) for operand in operands)",
        "return any(self.inside(operand, other, depth) for operand in operands)",
    ),
    Mutant(
        "groups of the other kind are flattened too",
        "plan/passes/flatten.py",
        "isinstance(inner, type(group))",
        "isinstance(inner, Intersection | Union)",
    ),
    Mutant(
        "a difference is absorbed the wrong way round",
        "plan/passes/absorb.py",
        "if relations.inside(step.minuend, step.subtrahend):",
        "if relations.inside(step.subtrahend, step.minuend):",
    ),
    Mutant(
        "whole numbers above an excluded bound begin with it",
        "plan/passes/tighten_counts.py",
        "math.floor(interval.low) + 1",
        "math.floor(interval.low)",
    ),
    # Sets.
    Mutant(
        "an intersection stops after its first operand",
        _LOCAL + "query/runs.py",
        "            if not running:\n                break",
        "            break",
    ),
    Mutant(
        "the ordinals of a group overlap those of the next",
        _LOCAL + "storage/ordinals.py",
        "users |= dense.shift(group * self.stride)",
        "users |= dense.shift(group // 2 * self.stride)",
    ),
    # Events.
    Mutant(
        "rows of the day at the end of a window are left out",
        _EVENTS + "all_rows.py",
        "            edges.add(last)",
        "            pass",
    ),
    Mutant(
        "the first of equal rows counts as the last",
        _EVENTS + "aggregate.py",
        "at = rows.starts[:-1] if first else rows.starts[1:] - 1",
        "at = rows.starts[:-1]",
    ),
    Mutant(
        "the largest number of several parts is that of the parts that last",
        _EVENTS + "aggregate.py",
        "better(best.numbers[:count], kept.numbers, out=best.numbers[:count])",
        "best.numbers[:count] = kept.numbers",
    ),
    Mutant(
        "counts ignore all intervals but the last",
        _EVENTS + "aggregate.py",
        "passed |= integers_between(counts, least, most)",
        "passed = integers_between(counts, least, most)",
    ),
    Mutant(
        "an average above a limit includes it",
        _EVENTS + "sums.py",
        "left >= right if included else left > right",
        "left >= right",
    ),
    Mutant(
        "not in a condition is left out",
        _EVENTS + "select.py",
        "return ~holds(child, columns, positions, count, check)",
        "return holds(child, columns, positions, count, check)",
    ),
    Mutant(
        "steps of a sequence may be at one instant",
        _EVENTS + "sequence.py",
        'np.searchsorted(ends, later, "left") - 1',
        'np.searchsorted(ends, later, "right") - 1',
    ),
    Mutant(
        "a sequence must be shorter than its limit",
        _EVENTS + "sequence.py",
        "timeline.times(starts) <= within",
        "timeline.times(starts) < within",
    ),
    Mutant(
        "a removed row counts in parts with a floor",
        _EVENTS + "part.py",
        "return live & ~np.isin(self.row_users(), self.removed_users()) if self.removed else live",
        "return np.ones(len(live), np.bool_)",
    ),
    Mutant(
        "an event with an id counts each time it comes",
        _LOCAL + "storage/dedupe.py",
        "seen.append(repeated)",
        "seen.append(False)",
    ),
    # Users.
    Mutant(
        "the write that arrived last wins",
        _LOCAL + "attributes/index.py",
        "if write[:2] >= before[:2]:",
        "if write[1] >= before[1]:",
    ),
    Mutant(
        "a value that is gone keeps its user",
        _LOCAL + "attributes/index.py",
        "            cached.value.discard(user)\n",
        "            pass\n",
    ),
    Mutant(
        "an earlier first time is not noticed",
        _LOCAL + "users/first_last_seen.py",
        "        if first < times[slot]:\n            times[slot] = first\n",
        "        if first < times[slot]:\n",
    ),
    Mutant(
        "the events of an alias stay with its old number",
        _LOCAL + "account/account.py",
        "row.group, row.user = after >> GROUP_SHIFT, after & DENSE_MASK",
        "pass",
    ),
)
