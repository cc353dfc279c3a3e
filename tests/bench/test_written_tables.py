"""Tables of docs/benchmarks.md that name the build they were measured on."""

from __future__ import annotations

import pytest

from tests.bench.written_tables import BEFORE, PAGE, Stamp, age, replaced, stamps

OLD, NEW = Stamp("c0ffee", "beef", "2026-01-02"), Stamp("decade", "facade", "2026-03-04")


def test_each_table_says_how_old_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    found = stamps(PAGE.read_text(encoding="utf-8"))
    assert "criteria" in found
    with capsys.disabled():
        for name, stamp in found.items():
            print(f"\ndocs/benchmarks.md, {name}: {age(stamp)}", end="")


def test_a_new_table_keeps_the_one_before() -> None:
    block = "<!-- measured: {} -->\nCommit `{}`, engine `{}`, {}, here.\n\n|{}|\n<!-- end -->"
    first = block.format("x", OLD.commit, OLD.engine, OLD.day, "old")
    oldest = block.format("x" + BEFORE, "a", "b", "2025-01-01", "oldest")
    page = replaced(f"Above\n\n{first}\n\n{oldest}\n\nbelow\n", "x", "|new|", NEW, "there")
    assert page == (
        "Above\n\n"
        + block.format("x", NEW.commit, NEW.engine, NEW.day, "new").replace("here", "there")
        + "\n\n"
        + block.format("x" + BEFORE, OLD.commit, OLD.engine, OLD.day, "old")
        + "\n\nbelow\n"
    )
    assert stamps(page) == {"x": NEW, "x" + BEFORE: OLD}


def test_a_table_without_its_block_is_not_written() -> None:
    with pytest.raises(LookupError):
        replaced("<!-- measured: x -->\n<!-- end -->", "x", "|new|", NEW, "there")


def test_a_table_that_names_no_build_is_refused() -> None:
    with pytest.raises(ValueError, match="names no build"):
        stamps("<!-- measured: x -->\n|1|\n<!-- end -->")
