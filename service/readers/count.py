"""How many readers suit a machine."""

from __future__ import annotations

import math
import os
from pathlib import Path

from engine.backends import registry

BY_DEFAULT_MAX = 8
"""Readers that are started unless a number is given: beyond, their memory has to be wanted."""

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""The processor time of a container: microseconds of each period, or `max`."""


def readers_for(store_url: str) -> int:
    """One less than cores, at most `BY_DEFAULT_MAX`. None where a store is not served to readers, or ends
    with its process: a trial need not wait for them.
    """
    backend, _ = registry.split_url(store_url)
    tools = registry.registration(backend).serving
    if store_url == registry.IN_MEMORY or tools is None or not tools.is_possible_here():
        return 0
    return min(cores() - 1, BY_DEFAULT_MAX)


def cores(quota: Path = CPU_QUOTA) -> int:
    """Cores that this process may use, at least one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _cores_of(quota))))


def _cores_of(quota: Path) -> float:
    try:
        granted, period = quota.read_text(encoding="ascii").split()
        return math.inf if granted == "max" else int(granted) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
