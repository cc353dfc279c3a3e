"""A background thread that repeats one task."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod


class Repeating(ABC):
    """Runs a task, pauses for the time it returns, and repeats until stopped."""

    def __init__(self, name: str) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stops the thread and waits for the current turn."""
        self._stopping.set()
        self._wake()
        if self._thread.ident is not None:
            self._thread.join()

    def _wake(self) -> None:  # noqa: B027 (most tasks wait for nothing else)
        """Ends a wait within the turn, other than the pause after it."""

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._stopping.wait(self._turn())

    @abstractmethod
    def _turn(self) -> float:
        """Runs the task once and returns the pause in seconds. Never raises."""
