"""A process that answers from the memory of another: `NAME USER` in, `True`, `False` or `None` out."""

from __future__ import annotations

import sys

from engine.audiences.live import STORED_AGE_MICROS_MAX
from engine.backends import registry


def main() -> None:
    """Answers until the input ends."""
    tools = registry.registration("local").serving
    assert tools is not None
    reader = tools.reader(int(sys.argv[1]), STORED_AGE_MICROS_MAX)
    print("ready", flush=True)
    for line in sys.stdin:
        name, user_id = line.split()
        answer = reader.contains(name, user_id)
        print(None if answer is None else answer.member, flush=True)


if __name__ == "__main__":
    main()
