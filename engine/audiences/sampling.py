"""Sizes with confidence bounds, from hits in a sample.

Partitions are cut by a uniform hash of the user id and sampled in a secret order that the store fixes, so the
users of the partitions read are a random sample, without replacement, of the N users of the journey. Their
number n is counted exactly.

Where hits are many, the interval is Wilson's score interval (E. B. Wilson, "Probable inference, the law of
succession, and statistical inference", JASA 22, 1927; L. D. Brown, T. T. Cai, A. DasGupta, "Interval
estimation for a binomial proportion", Statistical Science 16, 2001) over an effective sample. Its size is
n (N - 1) / (N - n), the finite-population correction (W. G. Cochran, "Sampling Techniques", 3rd ed., 1977,
sections 2.8 and 3.3), over the design effect: the variance of the hits between partitions relative to that of
a simple random sample would (Cochran, chapter 9; the effective sample inside the score interval as in E. L.
Korn, B. I. Graubard, "Confidence intervals for proportions with small expected number of positive counts
estimated from survey data", Survey Methodology 24, 1998). An attribute derived from the hash that cuts the
partitions has a large design effect.

With few hits, or few misses, the interval also includes the exact bounds of the hypergeometric
distribution, those in which neither tail has more than 2.5 % (C. J. Clopper, E. S. Pearson, Biometrika 26,
1934), so that small sizes keep their 95 % too.

Bounds are rounded outwards and never contradict the sample: the hits are members and the other users read are
not. Each interval holds its true size in 95 % of cases; several together hold less often.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import msgspec

from engine.audiences.model import Size, SizeState
from engine.backends.base import Block
from engine.plan.model import Difference, Intersection, Plan, Union

Z_95 = 1.959963984540054
"""The 97.5 % point of the normal distribution: 95 % lie within it on both sides."""

TAIL = 0.025
"""The probability that the exact bounds leave in each tail."""

HITS_MIN = 10
"""Fewer hits than this are TOO_SMALL to estimate from."""

FEW_HITS = 50
"""Up to this many hits or misses, the exact bounds are computed too."""


def exact_size(users: int) -> Size:
    """A size counted over all users."""
    return Size(state=SizeState.EXACT, users=users, lower=users, upper=users, sampled_fraction=1.0)


def failed_size(why: str) -> Size:
    """A size that could not be determined."""
    return Size(state=SizeState.FAILED, failure=why)


def estimated_size(hits: int, sampled: int, population: int, design_effect: float = 1.0) -> Size:
    """The population size estimated from `hits` of `sampled` users; EXACT when all were read.

    `sampled` is at least 1: an empty sample supports no estimate.
    """
    if sampled >= population:
        return exact_size(hits)
    lower, upper = interval_95(hits, sampled, population, design_effect)
    return Size(
        state=SizeState.TOO_SMALL if hits < HITS_MIN else SizeState.ESTIMATED,
        users=min(max(round(hits * population / sampled), lower), upper),
        lower=lower,
        upper=upper,
        sampled_fraction=sampled / population,
    )


# --- intervals ----------------------------------------------------------------------------------------------


def interval_95(hits: int, sampled: int, population: int, design_effect: float = 1.0) -> tuple[int, int]:
    """Bounds that contain the number of members in 95 % of samples (see the module).

    0 <= hits <= sampled < population, sampled > 0, design_effect >= 1.
    """
    lower, upper = _score_interval(hits, sampled, population, design_effect)
    if hits <= FEW_HITS:
        return _widened(lower, upper, hits, sampled, population)
    others = sampled - hits
    if others <= FEW_HITS:
        low, high = _widened(population - upper, population - lower, others, sampled, population)
        return population - high, population - low
    return lower, upper


def _score_interval(hits: int, sampled: int, population: int, design_effect: float) -> tuple[int, int]:
    share = hits / sampled
    effective = sampled * (population - 1) / (population - sampled) / design_effect
    z2 = Z_95 * Z_95
    centre = (share + z2 / (2 * effective)) / (1 + z2 / effective)
    half = math.sqrt(share * (1 - share) / effective + z2 / (4 * effective * effective))
    half *= Z_95 / (1 + z2 / effective)
    lower = math.floor((centre - half) * population)
    upper = math.ceil((centre + half) * population)
    return max(hits, lower), min(population - (sampled - hits), upper)


def _widened(lower: int, upper: int, hits: int, sampled: int, population: int) -> tuple[int, int]:
    """The bounds moved outwards to include every size under which at least this many hits, and at most this
    many, each have a probability above `TAIL`.
    """
    least, most = hits, population - (sampled - hits)
    return (
        _farthest(lower, least, lambda size: 1 - _at_most(hits - 1, sampled, population, size) > TAIL),
        _farthest(upper, most, lambda size: _at_most(hits, sampled, population, size) > TAIL),
    )


def _farthest(start: int, end: int, holds: Callable[[int], bool]) -> int:
    """The number farthest from `start` towards `end` for which a monotone condition holds; `start` when there
    is none.
    """
    way, room = (1, end - start) if end >= start else (-1, start - end)
    good, step = 0, 1
    while good < room and holds(start + way * min(good + step, room)):
        good, step = min(good + step, room), step * 2
    bad = min(good + step, room + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        if holds(start + way * middle):
            good = middle
        else:
            bad = middle
    return start + way * good


def _at_most(hits: int, sampled: int, population: int, size: int) -> float:
    """The probability that a sample has at most `hits` of `size` members (hypergeometric)."""
    others = population - size
    least = max(0, sampled - others)
    if hits < least:
        return 0.0
    chance = math.exp(_choose(size, least) + _choose(others, sampled - least) - _choose(population, sampled))
    total = chance
    for k in range(least, min(hits, size, sampled)):
        chance *= (size - k) * (sampled - k) / ((k + 1) * (others - sampled + k + 1))
        total += chance
    return min(total, 1.0)


def _choose(n: int, k: int) -> float:
    """The logarithm of a binomial coefficient."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def relative_error(size: Size) -> float:
    """Half the width of the interval over the size; 0 for an exact one, infinite for an estimate of 0."""
    half = (size.upper - size.lower) / 2
    if half == 0:
        return 0.0
    return half / size.users if size.users else math.inf


# --- several sizes of one sample ----------------------------------------------------------------------------


def design_effects(blocks: Sequence[Block], roots: int) -> list[float]:
    """For each of the first roots its variance between partitions relative to a simple random sample; at
    least 1. The last root of the blocks is everyone.
    """
    return [max(1.0, _mean(_deviations(blocks, root))) for root in range(roots)]


def _deviations(blocks: Sequence[Block], root: int) -> Iterator[float]:
    """The squared deviations between a root's halves, in units of their expected variance."""
    for block in blocks:
        hits, users = block.sizes[root], block.sizes[-1]
        if not 0 < hits < users:
            continue
        share = hits / users
        for in_half, half in zip(block.halves[root], block.halves[-1], strict=True):
            if 0 < half < users:
                chance = half * share * (1 - share) * (users - half) / (users - 1)
                yield (in_half - half * share) ** 2 / chance


def _mean(numbers: Iterator[float]) -> float:
    found = list(numbers)
    return sum(found) / len(found) if found else 1.0


def coherent(sizes: Sequence[Size], plan: Plan) -> tuple[Size, ...]:
    """The sizes of a plan's first roots with consistent bounds: the bound of a subset never exceeds that of
    its superset.
    """
    roots = plan.roots[: len(sizes)]
    wider = _wider_roots(plan, roots)
    lowers, uppers = [size.lower for size in sizes], [size.upper for size in sizes]
    for inner, outers in enumerate(wider):
        for outer in outers:
            lowers[outer] = max(lowers[outer], sizes[inner].lower)
            uppers[inner] = min(uppers[inner], sizes[outer].upper)
    return tuple(
        msgspec.structs.replace(size, lower=lower, upper=upper, users=min(max(size.users, lower), upper))
        for size, lower, upper in zip(sizes, lowers, uppers, strict=True)
    )


def _wider_roots(plan: Plan, roots: Sequence[int]) -> list[list[int]]:
    """For each root the others that contain it whatever the data, judged by the form of their steps."""
    direct: list[set[int]] = [set() for _ in plan.steps]
    for index, step in enumerate(plan.steps):
        match step:
            case Intersection():
                direct[index].update(step.operands)
            case Difference():
                direct[index].add(step.minuend)
            case Union():
                for operand in step.operands:
                    direct[operand].add(index)
            case _:
                pass
    found = []
    for at, root in enumerate(roots):
        around = _reached(root, direct)
        found.append(
            [other for other, held in enumerate(roots) if other != at and _holds(plan, held, around)]
        )
    return found


def _reached(start: int, direct: Sequence[set[int]]) -> set[int]:
    around, pending = {start}, [start]
    while pending:
        fresh = direct[pending.pop()] - around
        around |= fresh
        pending += fresh
    return around


def _holds(plan: Plan, step: int, around: set[int]) -> bool:
    """Whether the step contains a set that all of the steps `around` contain."""
    found = plan.steps[step]
    return step in around or (isinstance(found, Intersection) and around.issuperset(found.operands))
