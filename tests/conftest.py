"""Settings of all tests: the Hypothesis profile, and the seed that repeats a failed run."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.service_log import keep_apart
from tests.short_forms import DEFAULT_EXAMPLES, examples

# Timing never decides a test, so examples have no deadline; a failure prints the blob that reproduces it.
settings.register_profile(
    "milepost", max_examples=examples(DEFAULT_EXAMPLES), deadline=None, derandomize=False, print_blob=True
)
settings.load_profile("milepost")

SEED_BITS = 32
SEED = "hypothesis_seed"

LONG_FILES = (
    "conformance/test_execute.py",
    "spec/test_every_command.py",
    "spec/test_criteria_worlds.py",
    "spec/test_criteria_limits.py",
    "spec/test_sample_journey.py",
    "spec/test_criteria_laws.py",
    "spec/test_journeys_by_command.py",
    "conformance/test_users.py",
    "service/test_command.py",
    "service/readers/test_processes.py",
    "engine/test_space.py",
    "engine/backends/local/test_walk.py",
    "faults/test_kill_rounds.py",
    "faults/test_delivery_campaign.py",
    "bench/test_intervals.py",
    "clients/test_sample.py",
    "spec/test_audience_levels.py",
    "test_layering.py",
)
"""The files that take longest. They come first, so that no worker is busy long after the others."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose the seed of this run before Hypothesis reads it, unless `--hypothesis-seed` gives one. Workers
    take the seed of the process that started them, which names it. Services start without readers.
    """
    keep_apart()
    # Only tests of readers start them: hundreds of processes would begin with each run.
    os.environ.setdefault("MILEPOST_READERS", "0")
    if config.getoption("--hypothesis-seed") is None:
        given = getattr(config, "workerinput", {})
        config.option.hypothesis_seed = given.get(SEED) or str(secrets.randbits(SEED_BITS))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give the seed to a worker of pytest-xdist."""
    node.workerinput[SEED] = str(node.config.getoption("--hypothesis-seed"))


def pytest_report_header(config: pytest.Config) -> str:
    """Name the seed of this run."""
    return f"examples are drawn with --hypothesis-seed={config.getoption('--hypothesis-seed')}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    tests = Path(__file__).parent
    ranks = {tests / file: rank for rank, file in enumerate(LONG_FILES)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))
