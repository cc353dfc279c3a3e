"""Settings of every test: how Hypothesis draws its examples, and the seed a failed run is repeated with."""

from __future__ import annotations

import secrets

import pytest
from hypothesis import settings

# The machine decides no test, so examples have no deadline; a failure prints the blob that reproduces it.
settings.register_profile("milepost", deadline=None, derandomize=False, print_blob=True)
settings.load_profile("milepost")

SEED_BITS = 32


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose the seed of this run before Hypothesis reads it, unless `--hypothesis-seed` gives one."""
    if config.getoption("--hypothesis-seed") is None:
        config.option.hypothesis_seed = str(secrets.randbits(SEED_BITS))


def pytest_report_header(config: pytest.Config) -> str:
    """Name the seed of this run."""
    return f"examples are drawn with --hypothesis-seed={config.getoption('--hypothesis-seed')}"
