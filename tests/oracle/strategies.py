"""Hypothesis strategies for worlds, drawn by the same code as the campaign's."""

from __future__ import annotations

from functools import lru_cache

from hypothesis import strategies as st

from engine.criteria.model import Criterion
from tests.oracle.generate import DEPTH_MAX, CriteriaDrawer, draw_world
from tests.oracle.palette import Chooser, draw_palette
from tests.oracle.world import World, fresh_account, walk

RECORDS_MAX = 40


@lru_cache
def _below(limit: int) -> st.SearchStrategy[int]:
    return st.integers(0, limit - 1)


@st.composite
def worlds(draw: st.DrawFn, records_max: int = RECORDS_MAX) -> World:
    """Whole worlds, each in its own account."""
    choose = Chooser(lambda limit: draw(_below(limit)))
    return draw_world(choose, draw_palette(choose, fresh_account()), records_max=records_max)


@st.composite
def worlds_with_criteria(
    draw: st.DrawFn, count: int, depth_max: int = DEPTH_MAX - 1
) -> tuple[World, list[Criterion]]:
    """A world and `count` more criteria about its first journey, outside any milestone."""
    choose = Chooser(lambda limit: draw(_below(limit)))
    palette = draw_palette(choose, fresh_account())
    world = draw_world(choose, palette, records_max=RECORDS_MAX)
    audiences = [f"{world.account}/audiences/{m.id}" for j in world.journeys for m in walk(j.milestones)]
    drawer = CriteriaDrawer(choose, palette, world.inputs_of(world.journeys[0]), audiences)
    return world, [drawer.criterion(choose.between(0, depth_max)) for _ in range(count)]
