"""Finds names that are the same text, composed otherwise: macOS writes é as two characters, others as one.

Shows names that are not text.
"""

import os
from collections.abc import Mapping
from functools import cached_property
from typing import Generic, TypeVar
from unicodedata import normalize

Item = TypeVar("Item")


def shown(key: str) -> str:
    """Return a key, or another name of a file, as it is shown, with bytes that are not UTF-8 escaped."""
    return os.fsencode(key).decode(errors="backslashreplace")


class BySpelling(Generic[Item]):
    """Items by name; where no name is spelled as the one that is asked for, by its composed form."""

    def __init__(self, items: Mapping[str, Item]) -> None:
        self._items = items

    def get(self, name: str) -> Item | None:
        """Return the item of a name, None if there is none."""
        found = self._items.get(name)
        return self._composed.get(normalize("NFC", name)) if found is None and not name.isascii() else found

    @cached_property
    def _composed(self) -> dict[str, Item]:
        return {normalize("NFC", name): item for name, item in self._items.items() if not name.isascii()}
