"""The faults of a mutation run still have their places, and a run finds one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import mutation_run
from tests.faults.mutants import MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_fault_has_one_place_and_leaves_python(mutant: Mutant) -> None:
    text = (mutation_run.ROOT / "engine" / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.before) == 1
    compile(text.replace(mutant.before, mutant.after), mutant.file, "exec")


def test_there_are_many_faults() -> None:
    assert len(MUTANTS) >= 30
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_a_fault_is_found_and_a_sound_engine_is_not_blamed(tmp_path: Path) -> None:
    worlds, seed = 12, 7
    mutation_run.copy_of_engine(tmp_path)
    assert mutation_run.first_difference(tmp_path, seed, worlds) == mutation_run.NOT_FOUND
    (split,) = (
        mutant for mutant in MUTANTS if mutant.name == "an intersection stops after its first operand"
    )
    mutation_run.put(split, tmp_path)
    assert mutation_run.first_difference(tmp_path, seed, worlds) in range(worlds)
