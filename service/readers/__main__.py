"""`python -P -m service.readers`: a reader, started by the service."""

from __future__ import annotations

import sys

from service.readers.process import run

if __name__ == "__main__":
    sys.exit(run())
