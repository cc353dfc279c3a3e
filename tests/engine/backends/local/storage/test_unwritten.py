"""What came since the last checkpoint is looked up, written once, and kept when the checkpoint fails."""

from __future__ import annotations

import random

import pytest

from engine.backends.local.storage.unwritten import Unwritten


@pytest.mark.parametrize("seed", range(20))
def test_it_holds_what_no_checkpoint_has_committed(seed: int) -> None:
    drawn = random.Random(seed)
    unwritten: Unwritten[int, int] = Unwritten()
    stored: dict[int, int] = {}
    fresh: dict[int, int] = {}
    writing: dict[int, int] = {}
    for value in range(200):
        match drawn.randrange(6):
            case 0 if not writing:
                unwritten.prepare()
                writing, fresh = fresh, {}
            case 1:
                stored.update(unwritten.writing)
                unwritten.commit()
                writing = {}
            case 2:
                unwritten.rollback()
                fresh, writing = {**writing, **fresh}, {}
            case _:
                key = drawn.randrange(10)
                unwritten.fresh[key] = fresh[key] = value
        expected = {**writing, **fresh}
        assert {key: unwritten[key] for key in range(10) if key in unwritten} == expected
        assert set(unwritten) == expected.keys()
        assert list(unwritten.values()) == [*writing.values(), *fresh.values()]
        assert bool(unwritten) == bool(expected)
    unwritten.rollback()
    unwritten.prepare()
    assert {**stored, **unwritten.writing} == {**stored, **writing, **fresh}


def test_values_of_both_are_joined() -> None:
    unwritten: Unwritten[str, set[int]] = Unwritten(set.union)
    unwritten.fresh["a"] = {1}
    unwritten.fresh["b"] = {2}
    unwritten.prepare()
    unwritten.fresh["a"] = {3}
    unwritten.rollback()
    assert unwritten.fresh == {"a": {1, 3}, "b": {2}}
