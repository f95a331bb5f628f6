"""Registries list names at once and import what is behind a name when it is first asked for."""

import sys

import pytest

from tcae_cli.runtime.registry import Registry


def test_a_thing_is_imported_when_it_is_first_asked_for():
    registry: Registry[object] = Registry({"rational": "fractions:Fraction", "missing": "no_such_module:Thing"})
    assert list(registry) == ["rational", "missing"] and len(registry) == 2 and "rational" in registry
    assert "no_such_module" not in sys.modules
    from fractions import Fraction

    assert registry["rational"] is Fraction
    with pytest.raises(ModuleNotFoundError):
        registry["missing"]


def test_a_thing_can_be_added_and_removed():
    registry: Registry[object] = Registry({})
    registry.add("one", 1)
    assert registry["one"] == 1 and list(registry) == ["one"]
    registry.remove("one")
    assert "one" not in registry
    with pytest.raises(KeyError):
        registry["one"]
