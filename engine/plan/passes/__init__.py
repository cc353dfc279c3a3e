"""Optimiser passes: each takes a plan and returns one that denotes the same sets, whatever the data.

One pass per file, with its examples in tests/engine/plan/passes/fixtures under the same name. To add one,
write its file and add it to `ALL_PASSES`; a property test runs every subset of them.
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
from engine.plan.passes.rewrite import pruned
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
"""In execution order: passes that make steps alike run before `share`, passes that compare them after it."""

ROUNDS_MAX = 4
"""Passes enable each other, so all run until nothing changes, at most this often."""


def optimise(plan: Plan, passes: Sequence[Pass] = ALL_PASSES, statistics: Statistics | None = None) -> Plan:
    """A plan with the same roots' sets that costs less to execute, and no step that no root needs."""
    if not passes:
        return plan
    known = statistics or NoStatistics()
    # A pass that finds nothing to do leaves the plan alone.
    plan = pruned(plan, plan.steps, plan.roots)
    for _ in range(ROUNDS_MAX):
        before = changed = plan
        for run in passes:
            plan = run(plan, known)
            if run is not order_operands:
                changed = plan
        # The order of operands enables no other pass, and a single step enables none.
        if changed is before or len(plan.steps) == 1 or plan.encode() == before.encode():
            break
    return plan
