"""Places: where a user is, its group and its dense id in one number."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Place: TypeAlias = int
"""group << 32 | dense id."""
Places: TypeAlias = npt.NDArray[np.int64]

PLACE_SHIFT = 32
DENSE_MASK = (1 << PLACE_SHIFT) - 1

PLACE_BITS = 40
"""A place has less than so many bits: there are at most 64 groups."""
PLACE_MASK = (1 << PLACE_BITS) - 1
