"""A backend has the methods of every role that it announces."""

from __future__ import annotations

import pytest

from engine.backends.base import PROTOCOLS, Role, Store
from tests.conformance.conftest import methods_of
from tests.conformance.site import Site


@pytest.mark.needs
def test_announced_roles_are_implemented(site: Site) -> None:
    assert isinstance(site.backend, Store)
    able = site.backend.capabilities()
    assert able.name
    for role in able.roles:
        assert isinstance(site.backend, PROTOCOLS[role]), role
    assert site.backend.capabilities() == able


def test_no_method_belongs_to_two_roles() -> None:
    methods = [method for role in Role for method in methods_of(role)]
    assert len(methods) == len(set(methods)) >= 30
