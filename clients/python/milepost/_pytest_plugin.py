"""Fixtures for pytest, which finds them where `milepost` is installed.

`milepost_service` is a service of its own for each test, `milepost_client` a client for its account `test`. A
marker says what `milepost.testing.service` gets; a relative `seed` is beside the file of the test:

    @pytest.mark.milepost(now="2026-11-01", seed="shop.yaml")
    def test_winback(milepost_service):
        milepost_service.clock.advance("30d")
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from milepost import Client
    from milepost.testing import Service

MARKER = "milepost(now=None, seed=None, **settings): what the fixture milepost_service starts with"


def pytest_configure(config: pytest.Config) -> None:
    """Makes the marker known."""
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
def milepost_service(request: pytest.FixtureRequest) -> Iterator[Service]:
    """A Milepost service for this test: in memory, on a free port, with a clock that can be moved."""
    # Every run of pytest loads this module, also one that has no use for it.
    from milepost import testing

    marker = request.node.get_closest_marker("milepost")
    options: dict[str, Any] = {} if marker is None else dict(marker.kwargs)
    if options.get("seed") is not None:
        options["seed"] = request.path.parent / Path(options["seed"])
    with testing.service(**options) as running:
        yield running


@pytest.fixture
def milepost_client(milepost_service: Service) -> Client:
    """A client of the service of this test."""
    return milepost_service.client
