"""How memberships are served to readers in other processes (`engine.backends.base.ServingTools`)."""

from __future__ import annotations

from engine.backends.base import Store
from engine.backends.local.roles.lifetime import Lifetime
from engine.backends.local.serving.layout import keeps_order
from engine.backends.local.serving.reader import LocalServingReader
from engine.backends.local.serving.writer import LocalServing
from engine.values import Micros


class LocalServingTools:
    """Serves the memberships that a store keeps in files of its own."""

    def is_possible_here(self) -> bool:
        """Whether the processor keeps the order of stores."""
        return keeps_order()

    def writer(self, store: Store) -> LocalServing:
        """Begins to serve the memberships of an open store."""
        assert isinstance(store, Lifetime), "the registry opened this store"
        return store.serve()

    def reader(self, descriptor: int, stored_age_micros_max: Micros) -> LocalServingReader:
        """Reads what a writer serves."""
        return LocalServingReader(descriptor, stored_age_micros_max)
