"""Warnings about criteria whose data are not there: never seen, seen elsewhere, or of another kind.

What counts is what the criteria can find: events through the inputs, and attributes, identities and consents
of users that belong to one of the journey's inputs.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias, assert_never

import msgspec

from engine.backends.base import (
    AttributeLookup,
    ConsentLookup,
    EventLookup,
    Found,
    FoundText,
    IdentityLookup,
    Lookup,
    LookupReader,
    TextLookup,
    UserLookup,
)
from engine.criteria.model import Criterion
from engine.criteria.uses import (
    AudienceUsed,
    ConsentsUsed,
    EventsUsed,
    EventValuesUsed,
    IdentitiesUsed,
    Use,
    UserValuesUsed,
    uses_of,
)
from engine.criteria.warnings import (
    form_never_seen,
    kind_never_seen,
    never_seen,
    not_looked_at,
    seen_elsewhere,
)
from engine.errors import DataLoss, Warning
from engine.plan.tree import workspaces_of

LOOKUPS_MAX = 300
"""Different lookups for the criteria of one call; the uses beyond them cause no warnings."""
PLACES_MAX = 20
"""An account with more inputs is not told through which other one events came."""
TEXT_SEARCHES_MAX = 20
"""Tests in the criteria of one call for which strings are looked at."""
SUGGESTIONS_MAX = 5
"""Names that were never seen in the criteria of one call, for which near ones are looked for."""
SUGGESTED_CHARACTERS_MAX = 60
"""Longer names take long to compare."""

ValuesUsed: TypeAlias = EventValuesUsed | UserValuesUsed | IdentitiesUsed


class DataWarnings:
    """Warnings about the criteria of a journey, for one call. `inputs` are the journey's and `all_inputs` the
    account's; `inputs_of` gives those of the journey of an audience.
    """

    def __init__(
        self,
        backend: LookupReader,
        account: str,
        inputs: tuple[str, ...],
        all_inputs: tuple[str, ...],
        inputs_of: Callable[[str], tuple[str, ...]],
    ) -> None:
        self._backend = backend
        self._account = account
        self._inputs = inputs
        self._all_inputs = all_inputs
        self._inputs_of = inputs_of
        self._found: dict[Lookup, Found] = {}
        self._places: dict[Lookup, str | None] = {}
        self._texts: dict[tuple[TextLookup, str], FoundText] = {}
        self._near: dict[Lookup, str] = {}

    def of_all(self, criteria: Mapping[str, Criterion]) -> tuple[Warning, ...]:
        """The warnings about valid criteria, by path, in this order."""
        return tuple(warning for path, each in criteria.items() for warning in self.of(each, path))

    def of(self, criterion: Criterion, root: str) -> tuple[Warning, ...]:
        """The warnings about a valid criterion, in reading order. Paths start at `root`."""
        try:
            return self._of(criterion, root)
        except DataLoss as damage:
            # A warning never refuses a call; what reads the data does.
            return (not_looked_at(root, damage.message),)

    def _of(self, criterion: Criterion, root: str) -> tuple[Warning, ...]:
        lookups = {use: self._lookup(use) for use in uses_of(criterion, root)}
        new = [each for each in dict.fromkeys(lookups.values()) if each not in self._found]
        chosen = tuple(new[: LOOKUPS_MAX - len(self._found)])
        self._found |= zip(chosen, self._look_up(chosen), strict=True)
        found = {use: self._found[lookup] for use, lookup in lookups.items() if lookup in self._found}
        return tuple(warning for use in found for warning in self._warnings(use, found))

    def _warnings(self, use: Use, found: Mapping[Use, Found]) -> Iterator[Warning]:
        if isinstance(use, EventValuesUsed) and not found[use.events].is_there:
            return
        if not found[use].is_there:
            yield self._missing(use)
        elif isinstance(use, EventValuesUsed | UserValuesUsed | IdentitiesUsed):
            yield from self._misfit(use, found[use])

    def _look_up(self, lookups: Sequence[Lookup]) -> tuple[Found, ...]:
        return self._backend.look_up(self._account, lookups)

    def _lookup(self, use: Use) -> Lookup:
        match use:
            case EventsUsed():
                return EventLookup(inputs=use.inputs or self._inputs, name=use.name, type=use.type)
            case EventValuesUsed() | UserValuesUsed() | IdentitiesUsed():
                return self._value_lookup(use)
            case ConsentsUsed():
                return ConsentLookup(inputs=self._inputs, regulation=use.regulation, purpose=use.purpose)
            case AudienceUsed():
                return UserLookup(inputs=self._inputs, others=self._inputs_of(use.name))
            case _:
                assert_never(use)

    def _value_lookup(self, use: ValuesUsed) -> TextLookup:
        match use:
            case EventValuesUsed():
                return EventLookup(
                    inputs=use.events.inputs or self._inputs,
                    name=use.events.name,
                    type=use.events.type,
                    key=use.key,
                    enough=use.tested.kinds,
                )
            case UserValuesUsed():
                return AttributeLookup(
                    inputs=self._inputs,
                    workspaces=workspaces_of(self._inputs),
                    key=use.key,
                    enough=use.tested.kinds,
                )
            case IdentitiesUsed():
                return IdentityLookup(inputs=self._inputs, type=use.type)

    # --- data that are not there ----------------------------------------------------------------------------

    def _missing(self, use: Use) -> Warning:
        lookup = self._lookup(use)
        if lookup not in self._places:
            self._places[lookup] = self._place(lookup)
        place = self._places[lookup]
        if place is None:
            return never_seen(use.path, _in_words(use), self._near_name(lookup))
        return seen_elsewhere(use.path, _in_words(use), _owner(use), place)

    def _near_name(self, lookup: Lookup) -> str:
        """A name like that of the lookup that has data; "" when there is none."""
        if lookup not in self._near and len(self._near) < SUGGESTIONS_MAX:
            self._near[lookup] = self._found_near(lookup)
        return self._near.get(lookup, "")

    def _found_near(self, lookup: Lookup) -> str:
        match lookup:
            case EventLookup(key="", name=""):
                return ""
            case EventLookup() | AttributeLookup():
                asked = "key" if lookup.key else "name"
            case IdentityLookup():
                asked = "type"
            case _:
                return ""
        near = _nearest(getattr(lookup, asked), self._backend.names_beside(self._account, lookup))
        if not near:
            return ""
        (found,) = self._look_up((msgspec.structs.replace(lookup, **{asked: near}),))
        return near if found.is_there else ""

    def _place(self, lookup: Lookup) -> str | None:
        """Through which other inputs such data came, as precisely as the data tell; None when through
        none.
        """
        everywhere = self._all_inputs
        match lookup:
            case EventLookup() if len(everywhere) <= PLACES_MAX:
                return self._first({name: _through(lookup, (name,)) for name in everywhere})
            case AttributeLookup():
                workspaces = {
                    f"other inputs of {workspace}": AttributeLookup(
                        inputs=everywhere, workspaces=(workspace,), key=lookup.key
                    )
                    for workspace in workspaces_of(everywhere)
                }
                return self._first(workspaces)
            case EventLookup() | IdentityLookup() | ConsentLookup():
                return self._first({"other inputs": _through(lookup, everywhere)})
            case UserLookup():
                return self._first({"other inputs": _through(lookup, lookup.others)})
            case _:
                assert_never(lookup)

    def _first(self, places: Mapping[str, Lookup]) -> str | None:
        """The first place where the lookup finds something."""
        found = self._look_up(tuple(places.values()))
        return next((place for place, each in zip(places, found, strict=True) if each.is_there), None)

    # --- data of another kind -------------------------------------------------------------------------------

    def _misfit(self, use: ValuesUsed, found: Found) -> Iterator[Warning]:
        tested = use.tested
        what = f"{_in_short(use)} in the inputs of {_owner(use)}"
        if tested.kinds and found.kinds.isdisjoint(tested.kinds):
            testable = tested.path != use.path
            yield kind_never_seen(tested.path, tested.kinds, what, found.kinds, testable=testable)
        elif tested.form is not None:
            key = self._value_lookup(use), tested.form.plural
            if key not in self._texts and len(self._texts) < TEXT_SEARCHES_MAX:
                self._texts[key] = self._backend.find_text(self._account, key[0], tested.form.fits)
            text = self._texts.get(key)
            if text is not None and not text.fits:
                yield form_never_seen(tested.path, tested.form, what, all_seen=text.is_complete)


def _nearest(name: str, known: Iterable[str]) -> str:
    """The known name that differs least, whatever its case; "" when all differ much."""
    if len(name) > SUGGESTED_CHARACTERS_MAX:
        return ""
    # Names of much other lengths differ much, and comparing is what takes long.
    longer = 1 + len(name) // 4
    others = (each for each in known if each != name and abs(len(each) - len(name)) <= longer)
    by_lower = {each.lower(): each for each in others}
    return next((by_lower[near] for near in difflib.get_close_matches(name.lower(), by_lower, 1)), "")


def _through(lookup: Lookup, inputs: tuple[str, ...]) -> Lookup:
    return msgspec.structs.replace(lookup, inputs=inputs)


# --- words --------------------------------------------------------------------------------------------------


def _in_words(use: Use) -> str:
    """What is used, after "no"."""
    match use:
        case EventsUsed():
            named = f" named {use.name!r}" if use.name else ""
            return f"event{named}{_of_type(use)}"
        case EventValuesUsed():
            return f"{_in_words(use.events)} with an attribute named {use.key!r}"
        case UserValuesUsed():
            return f"user attribute named {use.key!r}"
        case IdentitiesUsed():
            return f"identity of type {use.type!r}"
        case ConsentsUsed():
            return f"consent under {use.regulation!r} for {use.purpose!r}"
        case AudienceUsed():
            return f"user of the journey of {use.name}"
        case _:
            assert_never(use)


def _in_short(use: ValuesUsed) -> str:
    """Whose values are used, after "the values of"."""
    match use:
        case EventValuesUsed():
            named = f"event {use.events.name!r}" if use.events.name else "any event"
            return f"{use.key!r} of {named}{_of_type(use.events)}"
        case UserValuesUsed():
            return f"user attribute {use.key!r}"
        case IdentitiesUsed():
            return f"identity {use.type!r}"


def _of_type(use: EventsUsed) -> str:
    return f" of type {use.type.name}" if use.type is not None else ""


def _owner(use: Use) -> str:
    """Whose inputs they are."""
    events = use.events if isinstance(use, EventValuesUsed) else use
    return "the criterion" if isinstance(events, EventsUsed) and events.inputs else "the journey"
