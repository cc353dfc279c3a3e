"""From hits in a sample to a size with bounds.

Partitions are cut by a uniform hash of the user id, so the users in any fixed set of partitions are a simple
random sample, without replacement, of the N users of the journey. How many of them were read, n, is counted
exactly, and given n and N the hits are hypergeometric.

The interval is Wilson's score interval (E. B. Wilson, "Probable inference, the law of succession, and
statistical inference", JASA 22, 1927), which keeps its coverage for small counts where the usual normal
interval fails (L. D. Brown, T. T. Cai, A. DasGupta, "Interval estimation for a binomial proportion",
Statistical Science 16, 2001), with the finite-population correction of the hypergeometric variance,
(N - n) / (N - 1), taken in as an effective sample size n (N - 1) / (N - n) (W. G. Cochran, "Sampling
Techniques", 3rd ed., 1977, sections 2.8 and 3.3; the effective sample size inside the score interval as in
E. L. Korn, B. I. Graubard, "Confidence intervals for proportions with small expected number of positive
counts estimated from survey data", Survey Methodology 24, 1998). Bounds are rounded outwards, and never
contradict what was seen: the hits are members and the other users read are not.
"""

from __future__ import annotations

import math

from engine.audiences.model import Size, SizeState

Z_95 = 1.959963984540054
"""The 97.5 % point of the normal distribution: 95 % lie within it on both sides."""

HITS_MIN = 10
"""Fewer hits than this, but some, are TOO_SMALL to estimate from."""


def exact_size(users: int) -> Size:
    """A size that everyone was counted for."""
    return Size(state=SizeState.EXACT, users=users, lower=users, upper=users, sampled_fraction=1.0)


def failed_size(why: str) -> Size:
    """A size that could not be found."""
    return Size(state=SizeState.FAILED, failure=why)


def estimated_size(hits: int, sampled: int, population: int) -> Size:
    """The size that `hits` of `sampled` users stand for in a population; EXACT when all were read."""
    if sampled >= population:
        return exact_size(hits)
    if sampled == 0:
        return Size(state=SizeState.ESTIMATED, users=0, lower=0, upper=population)
    lower, upper = interval_95(hits, sampled, population)
    return Size(
        state=SizeState.TOO_SMALL if 0 < hits < HITS_MIN else SizeState.ESTIMATED,
        users=min(max(round(hits * population / sampled), lower), upper),
        lower=lower,
        upper=upper,
        sampled_fraction=sampled / population,
    )


def interval_95(hits: int, sampled: int, population: int) -> tuple[int, int]:
    """Bounds that hold the number of members of the population in 95 % of samples (see the module).

    0 <= hits <= sampled < population, sampled > 0.
    """
    share = hits / sampled
    effective = sampled * (population - 1) / (population - sampled)
    z2 = Z_95 * Z_95
    centre = (share + z2 / (2 * effective)) / (1 + z2 / effective)
    half = math.sqrt(share * (1 - share) / effective + z2 / (4 * effective * effective))
    half *= Z_95 / (1 + z2 / effective)
    lower = math.floor((centre - half) * population)
    upper = math.ceil((centre + half) * population)
    return max(hits, lower), min(population - (sampled - hits), upper)


def relative_error(size: Size) -> float:
    """Half the width of the interval over the size; 0 for an exact one, infinite for an estimate of none."""
    half = (size.upper - size.lower) / 2
    if half == 0:
        return 0.0
    return half / size.users if size.users else math.inf
