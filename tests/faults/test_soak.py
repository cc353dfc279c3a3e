"""The soak at a small scale, and what it finds."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest

from clients.load import profile
from tests.faults import soak
from tests.faults.soak import MIB, Sample

FLAT = [Sample(float(at), 100 * MIB, 40, 60, 1.0) for at in range(20)]


def test_nothing_grew() -> None:
    assert soak.growth(FLAT) == []


@pytest.mark.parametrize(
    ("grown", "found"),
    [
        (replace(FLAT[-1], threads=45), "threads grew from 40 to 45"),
        (replace(FLAT[-1], descriptors=65), "descriptors grew from 60 to 65"),
        (replace(FLAT[-1], memory_bytes=116 * MIB), "memory grew from 100 to 116 MiB"),
    ],
)
def test_what_grew_after_the_middle_is_found(grown: Sample, found: str) -> None:
    assert soak.growth([*FLAT[:-1], grown]) == [found]


def test_what_grew_before_the_middle_is_the_plateau() -> None:
    early = [replace(each, threads=10, memory_bytes=10 * MIB) for each in FLAT[:5]]
    assert soak.growth([*early, *FLAT[5:]]) == []


@pytest.mark.skipif(importlib.util.find_spec("locust") is None, reason="locust is not installed")
def test_every_call_of_a_short_soak_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    used = replace(profile.read(profile.find("short")), users=1, calls_per_second=20)
    faults = soak.run(0.1, 1, used)
    printed = capsys.readouterr().out.splitlines()
    assert [fault for fault in faults if "failed" in fault] == []
    assert printed[0].split() == ["s", "MiB", "threads", "descriptors", "CPU", "s"]
    assert len([line for line in printed if line.split()[0].isdigit()]) == soak.SAMPLES
