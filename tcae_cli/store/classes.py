"""Keeps the class numbers of several stores apart: maps labels by class name, and refuses to mix what differs."""

import warnings
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Protocol
from weakref import WeakSet

import numpy as np
import torch.utils.data

from tcae_cli.errors import UsageError

_FIX = "number one as the other: LatentDataset(..., class_names=other.class_names)"


class Labelled(Protocol):
    """A dataset of a store, with the names of its classes 0, 1, ...; () if they have none."""

    uri: str  # of the store
    fields: tuple[str, ...]
    class_names: tuple[str, ...]


_alive: "WeakSet[Labelled]" = WeakSet()  # datasets of this process that give labels


def renumber(labels: np.ndarray, class_names: Sequence[str], wanted: Sequence[str], where: str) -> np.ndarray:
    """Return labels, [n], int64, as the places of their classes in another list of names; -1 stays.

    where: the store, for messages. Raises UsageError if the classes have no names or the list lacks one with rows.
    """
    if not class_names:
        raise UsageError(f"{where} has no class names, so its labels cannot be numbered by class_names; omit it")
    places = {name: number for number, name in enumerate(wanted)}
    used = set(labels.tolist()) - {-1}
    if missing := [name for number, name in enumerate(class_names) if number in used and name not in places]:
        raise UsageError(f"{where} has rows of class {missing[0]}, which class_names lacks; add it")
    numbers = [places.get(name, -1) for name in class_names]
    return np.array([*numbers, -1], np.int64)[labels]


def warn_if_numbered_differently(dataset: Labelled) -> None:
    """Warn if a dataset of this process numbers a class of this one differently: mixed, their labels would be wrong.

    torch's own ConcatDataset, and a model trained on one and measured on the other, mix them without a word.
    """
    if "label" not in dataset.fields or not dataset.class_names:
        return
    numbers = {name: number for number, name in enumerate(dataset.class_names)}
    for other in _alive:
        for number, name in enumerate(other.class_names):
            if numbers.get(name, number) != number:
                warnings.warn(
                    f"class {name} is {numbers[name]} in {dataset.uri} and {number} in {other.uri}; {_FIX}",
                    stacklevel=3,
                )
                break
    _alive.add(dataset)


class ConcatDataset(torch.utils.data.ConcatDataset[Any]):
    """ConcatDataset is torch's, for datasets whose labels mean the same.

    `class_names` are those of all. Raises UsageError if two LatentDatasets give labels and number classes differently.
    """

    def __init__(self, datasets: Iterable[torch.utils.data.Dataset[Any]]) -> None:
        super().__init__(datasets)
        labelled: list[Any] = [
            each for each in self.datasets if {"label", "class_name"} & {*getattr(each, "fields", ())}
        ]
        for one, other in pairwise(sorted(labelled, key=lambda each: len(each.class_names))):
            _refuse_differing(one, other)
        self.class_names: tuple[str, ...] = max((each.class_names for each in labelled), key=len, default=())

    def __add__(self, other: torch.utils.data.Dataset[Any]) -> "ConcatDataset":
        return ConcatDataset([*self.datasets, other])


def _refuse_differing(one: Labelled, other: Labelled) -> None:
    """Raise UsageError unless the classes of one are the first classes of the other."""
    names = one.class_names, other.class_names
    if bool(names[0]) == bool(names[1]) and names[1][: len(names[0])] == names[0]:
        return
    uris = one.uri, other.uri
    if not names[0]:
        raise UsageError(f"the classes of {uris[0]} have numbers alone and those of {uris[1]} have names; use one kind")
    number = next(number for number, (mine, yours) in enumerate(zip(*names, strict=False)) if mine != yours)
    raise UsageError(f"class {number} is {names[0][number]} in {uris[0]} and {names[1][number]} in {uris[1]}; {_FIX}")
