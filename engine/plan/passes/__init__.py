"""Optimiser passes: each takes a plan and answers with one that denotes the same sets, whatever the data.

One pass a file, with its examples in tests/engine/plan/passes/fixtures under the same name. To add one, write
its file and put it into `ALL_PASSES`; a property test runs every subset of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from engine.plan.model import Plan
from engine.plan.passes.absorb import absorb
from engine.plan.passes.flatten import flatten
from engine.plan.passes.fold_constants import fold_constants
from engine.plan.passes.merge_complements import merge_complements
from engine.plan.passes.order_operands import order_operands
from engine.plan.passes.share import share
from engine.plan.passes.simplify_rows import simplify_rows
from engine.plan.passes.tighten_counts import tighten_counts
from engine.plan.statistics import NoStatistics, Statistics

Pass: TypeAlias = Callable[[Plan, Statistics], Plan]

ALL_PASSES: tuple[Pass, ...] = (
    simplify_rows,
    tighten_counts,
    fold_constants,
    share,
    flatten,
    merge_complements,
    absorb,
    order_operands,
)
"""In the order in which they run: what makes steps alike comes before `share`, what compares them after."""

ROUNDS_MAX = 4
"""One pass makes room for another, so they run until nothing changes, at most this often."""


def optimise(plan: Plan, passes: Sequence[Pass] = ALL_PASSES, statistics: Statistics | None = None) -> Plan:
    """A plan with the same roots' sets that costs less to execute, and no step that no root needs."""
    known = statistics or NoStatistics()
    before = plan.encode()
    for _ in range(ROUNDS_MAX):
        for run in passes:
            plan = run(plan, known)
        after = plan.encode()
        if after == before:
            break
        before = after
    return plan
