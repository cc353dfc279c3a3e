"""`near`: distance between two places on the earth.

A place is a string "lat,long" in decimal degrees: an optional sign, digits, an optional fraction; spaces
around either number are allowed, exponents are not. A latitude beyond 90 or a longitude beyond 180 degrees
makes the string invalid, and it passes no test.
"""

from __future__ import annotations

import math
import re
from typing import TypeAlias

from engine.criteria.faults import Faults
from engine.criteria.operators.base import Form, Matcher, TimelessOperator, on_strings
from engine.criteria.words import number_in_words

EARTH_RADIUS_METERS = 6_371_008.8
"""The mean radius of the WGS 84 ellipsoid, (2a + b) / 3."""
LATITUDE_DEGREES_MAX = 90.0
LONGITUDE_DEGREES_MAX = 180.0

_DEGREES = r" *([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)) *"
PLACE = re.compile(rf"{_DEGREES},{_DEGREES}")


Place: TypeAlias = tuple[float, float]
"""Latitude and longitude in degrees."""


def parse_place(text: str) -> Place | None:
    """The place a string names; None for an invalid string."""
    found = PLACE.fullmatch(text)
    if found is None:
        return None
    latitude, longitude = float(found[1]), float(found[2])
    if abs(latitude) > LATITUDE_DEGREES_MAX or abs(longitude) > LONGITUDE_DEGREES_MAX:
        return None
    return latitude, longitude


def distance_meters(place: Place, other: Place) -> float:
    """The length of the great circle between two places, by the haversine formula."""
    phi, other_phi = math.radians(place[0]), math.radians(other[0])
    half_phi = (other_phi - phi) / 2
    half_lambda = math.radians(other[1] - place[1]) / 2
    h = math.sin(half_phi) ** 2 + math.cos(phi) * math.cos(other_phi) * math.sin(half_lambda) ** 2
    # Rounding can move h slightly beyond 1 for opposite points of the globe.
    return 2 * EARTH_RADIUS_METERS * math.asin(math.sqrt(min(1.0, h)))


PLACES = Form(
    "places", '"lat,long" in decimal degrees such as 48.2,16.37', lambda text: parse_place(text) is not None
)


class Near(TimelessOperator, frozen=True, tag="near"):
    """A "lat,long" string in decimal degrees within `meters` of a point, by great-circle distance (radius
    6,371,008.8 m).
    """

    latitude: float
    longitude: float
    meters: float

    def check(self, faults: Faults, path: str) -> None:
        """Checks that the point is on the earth and the distance finite and not negative."""
        # Written so that NaN, which compares false with everything, is rejected too.
        if not abs(self.latitude) <= LATITUDE_DEGREES_MAX:
            faults.add(f"{path}.latitude", "must lie between -90 and 90 degrees")
        if not abs(self.longitude) <= LONGITUDE_DEGREES_MAX:
            faults.add(f"{path}.longitude", "must lie between -180 and 180 degrees")
        if not 0 <= self.meters < math.inf:
            faults.add(f"{path}.meters", "must be a finite number, zero or more")

    @property
    def form(self) -> Form:
        """Strings must be places."""
        return PLACES

    def matcher(self) -> Matcher:
        """Passes places no farther than `meters` from the point."""
        centre = (self.latitude, self.longitude)

        def passes(value: str) -> bool:
            place = parse_place(value)
            return place is not None and distance_meters(centre, place) <= self.meters

        return on_strings(passes)

    def describe(self) -> str:
        """In words."""
        point = f"{number_in_words(self.latitude)},{number_in_words(self.longitude)}"
        return f"within {number_in_words(self.meters)} m of {point}"


Tests: TypeAlias = Near
Resolved: TypeAlias = Near
