"""`make quick` runs the tests nearest to what changed."""

from __future__ import annotations

from tools.quick import imports_of, module_of, nearest_tests


def test_changed_tests_come_first_then_those_named_after_a_module_then_those_that_import_one() -> None:
    changed = ["engine/plan/windows.py", "tests/engine/test_clock.py", "docs/journeys.md"]
    tests = [
        "tests/engine/plan/test_windows.py",
        "tests/engine/test_clock.py",
        "tests/engine/plan/test_expiry.py",
        "tests/service/test_logs.py",
    ]
    assert nearest_tests(changed, tests) == [
        "tests/engine/test_clock.py",
        "tests/engine/plan/test_windows.py",
    ]
    changed = ["engine/plan/expiry.py", "service/logs.py"]
    assert nearest_tests(changed, tests) == ["tests/engine/plan/test_expiry.py", "tests/service/test_logs.py"]


def test_modules_are_named_as_they_are_imported() -> None:
    assert module_of("clients/python/milepost/cli/app.py") == "milepost.cli.app"
    assert module_of("engine/backends/__init__.py") == "engine.backends"
    assert imports_of("import a.b\nfrom c.d import e\nfrom . import f") == {"a.b", "c.d", "c.d.e"}
