"""A thread beside the server that does the same again and again."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod


class Repeating(ABC):
    """Takes a turn, rests for as long as the turn says, and so on until stopped."""

    def __init__(self, name: str) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and waits until a turn that is under way is over."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._stopping.wait(self._turn())

    @abstractmethod
    def _turn(self) -> float:
        """Does the work once and answers how many seconds to rest. Raises nothing."""
