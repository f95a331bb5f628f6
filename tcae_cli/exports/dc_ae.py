"""DC-AE's trainers (efficientvit and DC-Gen, arXiv:2410.10733): class folders of .npy, read by torchvision.

A file is [c, h, w], float32, scaled. The number of a class is the place of its folder among the sorted folders.
"""

from functools import cached_property

import numpy as np

from tcae_cli.exports.array_file import npy_bytes
from tcae_cli.exports.pieces import PieceFormat
from tcae_cli.images.file_names import file_name


class DcAe(PieceFormat):
    """CLASS/KEY.npy."""

    name = "dc-ae"
    trainer = "DC-AE's trainers: efficientvit and DC-Gen"
    contents = "class folders of .npy files, a row each: [c, h, w], float32, scaled"
    takes_scale = True
    needs_classes = True
    most_rows = 256  # open files at a time

    @property
    def notes(self) -> list[str]:
        notes = [self.rows.scale_note]
        if list(self._folders) != list(range(len(self._folders))):
            notes.append("some classes have no rows, so the trainer's class numbers are not the store's")
        return notes

    def names(self, piece: range) -> list[str]:
        names = []
        for row in piece:
            label = int(self.rows.labels[row])
            key = self.rows.keys[row]
            if self._keys_begin_with_class:
                key = key.removeprefix(f"{self.rows.class_name(label)}/")
            names.append(f"{self._folders[label]}/{file_name(key)}.npy")
        return names

    def files(self, piece: range) -> dict[str, bytes]:
        latents = self.rows.latents(piece)
        return {name: npy_bytes(each) for name, each in zip(self.names(piece), latents, strict=True)}

    @cached_property
    def _folders(self) -> dict[int, str]:
        """The folder of each class that has rows, by number, ascending; sorted folders are in the order of numbers."""
        labels = np.unique(self.rows.labels).tolist()
        numbers = {label: f"{label:0{len(str(labels[-1]))}d}" for label in labels}
        names = {label: "%2F".join(file_name(self.rows.class_name(label)).parts) for label in labels}
        if not all(map(self.rows.class_name, labels)):
            return numbers
        if sorted(names.values()) != list(names.values()):  # classes were added to the store later
            return {label: f"{numbers[label]}_{name}" for label, name in names.items()}
        return names

    @cached_property
    def _keys_begin_with_class(self) -> bool:
        pairs = zip(self.rows.labels.tolist(), self.rows.keys, strict=True)
        return all(key.startswith(f"{self.rows.class_name(label)}/") for label, key in pairs)
