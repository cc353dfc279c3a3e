"""A name for a question that does not depend on the order of its parts."""

from __future__ import annotations

from collections.abc import Iterable

import xxhash

from engine.plan.model import Difference, Intersection, Plan, Source, Step, Union, encode_step


def canonical_digest(plan: Plan) -> bytes:
    """16 bytes that name the account, the set of the first root and those of the others. The same for every
    order of the steps, of the operands of Intersection and Union, and of the roots after the first. The
    plan's instant matters only through the ranges derived from it.
    """
    names: list[bytes] = []
    for step in plan.steps:
        names.append(_name(step, names))
    first, *others = (names[root] for root in plan.roots)
    return _hashed((plan.account.encode(), first, *sorted(set(others))))


def _name(step: Step, names: list[bytes]) -> bytes:
    match step:
        case Intersection():
            return _hashed((b"intersect", *sorted(names[operand] for operand in step.operands)))
        case Union():
            return _hashed((b"unite", *sorted(names[operand] for operand in step.operands)))
        case Difference():
            return _hashed((b"subtract", names[step.minuend], names[step.subtrahend]))
        case _:
            return _source(step)


def _source(step: Source) -> bytes:
    return _hashed((b"predicate", encode_step(step)))


def _hashed(parts: Iterable[bytes]) -> bytes:
    hashed = xxhash.xxh3_128()
    for part in parts:
        hashed.update(len(part).to_bytes(4, "little"))
        hashed.update(part)
    return hashed.digest()
