"""User refs: the group and dense id of a user in one number."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

UserRef: TypeAlias = int
"""group << 32 | dense id."""
UserRefs: TypeAlias = npt.NDArray[np.int64]

GROUP_SHIFT = 32
DENSE_MASK = (1 << GROUP_SHIFT) - 1

USER_REF_BITS = 40
"""Bits of a user ref: there are at most 64 groups."""
USER_REF_MASK = (1 << USER_REF_BITS) - 1
