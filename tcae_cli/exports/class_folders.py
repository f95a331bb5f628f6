"""DC-AE's trainers (efficientvit and DC-Gen, arXiv:2410.10733): class folders of .npy, read by torchvision.

A file is [c, h, w], float32, scaled. The class number is the folder's place among the sorted folders.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tcae_cli.exports.array_file import npy_bytes
from tcae_cli.exports.pieces import rows_per_piece
from tcae_cli.exports.rows import ExportRows

_MOST_ROWS = 256  # open files at a time


@dataclass(frozen=True)
class ClassFolders:
    """CLASS/KEY.npy."""

    rows: ExportRows
    path_of: Callable[[str], Path]  # a relative path that is safe and unique, for a key

    def __post_init__(self) -> None:
        self.rows.require_classes("dc-ae")

    @property
    def rows_per_piece(self) -> int:
        return rows_per_piece(4 * self.rows.num_values, _MOST_ROWS)

    @property
    def notes(self) -> list[str]:
        notes = [self.rows.scale_note]
        if list(self._folders) != list(range(len(self._folders))):
            notes.append("some classes have no rows, so the trainer's class numbers are not the store's")
        return notes

    def names(self, piece: range) -> list[str]:
        return [self._file(row) for row in piece]

    @property
    def closing_names(self) -> tuple[str, ...]:
        return ()

    def files(self, piece: range) -> dict[str, bytes]:
        latents = self.rows.latents(piece)
        return {name: npy_bytes(each) for name, each in zip(self.names(piece), latents, strict=True)}

    def closing(self, folder: Path) -> dict[str, bytes]:
        return {}

    def _file(self, row: int) -> str:
        label, key = int(self.rows.labels[row]), self.rows.keys[row]
        if self._keys_begin_with_class:
            key = key.removeprefix(f"{self.rows.class_name(label)}/")
        return f"{self._folders[label]}/{self.path_of(key)}.npy"

    @cached_property
    def _folders(self) -> dict[int, str]:
        """Folder by class number, ascending, of classes with rows; sorted names are in the order of the numbers."""
        labels = np.unique(self.rows.labels).tolist()
        numbers = {label: f"{label:0{len(str(labels[-1]))}d}" for label in labels}
        names = {label: "%2F".join(self.path_of(self.rows.class_name(label)).parts) for label in labels}
        if not all(map(self.rows.class_name, labels)):
            return numbers
        if sorted(names.values()) != list(names.values()):  # of a store that classes were added to
            return {label: f"{numbers[label]}_{name}" for label, name in names.items()}
        return names

    @cached_property
    def _keys_begin_with_class(self) -> bool:
        pairs = zip(self.rows.labels.tolist(), self.rows.keys, strict=True)
        return all(key.startswith(f"{self.rows.class_name(label)}/") for label, key in pairs)
