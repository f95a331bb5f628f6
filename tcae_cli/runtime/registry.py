"""Provides registries of named things, each imported when it is first asked for."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Generic, TypeVar

Thing = TypeVar("Thing")


class Registry(Mapping[str, Thing], Generic[Thing]):
    """Things of one kind by name, in the order of help and tables.

    A room has one registry, with a line for each thing: its name and where it is, as "module:Name". Listing the names
    imports none of them, so that help stays fast.
    """

    def __init__(self, homes: Mapping[str, str]) -> None:
        self._homes = dict(homes)
        self._loaded: dict[str, Thing] = {}

    def add(self, name: str, thing: Thing) -> None:
        """Register a thing that is already imported."""
        self._homes[name] = ""
        self._loaded[name] = thing

    def remove(self, name: str) -> None:
        """Take a thing out again."""
        del self._homes[name]
        self._loaded.pop(name, None)

    def __getitem__(self, name: str) -> Thing:
        if name not in self._loaded:
            module, _, attribute = self._homes[name].partition(":")
            self._loaded[name] = getattr(import_module(module), attribute)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)
