"""`python -m service`."""

from __future__ import annotations

import os
import sys


def _run() -> int:
    # `python -m` looks in the caller's directory first, where `engine` may be another package.
    installed_in = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    if not sys.flags.safe_path and os.path.realpath(sys.path[0]) != installed_in:
        del sys.path[0]
    from service import main

    return main()


sys.exit(_run())
