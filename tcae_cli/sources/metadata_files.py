"""Reads metadata.csv and metadata.jsonl in a folder of images: tables of captions and labels, as Hugging Face has them.

Source: https://huggingface.co/docs/datasets/image_dataset#imagefolder
"""

import posixpath
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from tcae_cli.errors import FieldError
from tcae_cli.recipe.choices import SampleFields
from tcae_cli.sources.columns import CAPTION_NAMES, LABEL_NAMES, caption_in, choose, label_in, usual
from tcae_cli.sources.listing import is_image_name
from tcae_cli.sources.records import Records, read_records

Item = TypeVar("Item")
Result = TypeVar("Result")

_NAMES = ("metadata.csv", "metadata.jsonl")
_IMAGE = "file_name"  # the column that names the image, relative to the folder of the table


class Texts(Protocol):
    """The files of a folder or an archive, of which the small ones are read."""

    uri: str

    def read(self, name: str) -> bytes:
        """Return all bytes of a file. Raises OSError."""

    def in_order(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield function(item) of each item, in order."""


@dataclass(frozen=True)
class Metadata:
    """The texts that metadata files give to images, by the image's name in the folder."""

    captions: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)  # sentences on the parts that are not used


def is_metadata_name(name: str) -> bool:
    """Return whether a file of this name has the metadata of images in its folder."""
    return posixpath.basename(name) in _NAMES


def read_metadata(folder: Texts, names: Sequence[str], fields: SampleFields, has_classes: bool) -> Metadata:
    """Return the captions and labels that the metadata files among `names` give to the images among them.

    fields: the columns of captions and labels that the user named.
    has_classes: whether there are class folders, so that labels are used only if the user named their column.
    Raises SourceError for a file that cannot be used, FieldError for a column that does not exist.
    """
    found = Metadata()
    images = {name for name in names if is_image_name(name)}
    is_used = False
    for name in filter(is_metadata_name, names):
        where = f"{folder.uri.rstrip('/')}/{name}"
        table = read_records(folder.read(name), posixpath.splitext(name)[1], where)
        if _IMAGE in table.columns:
            _MetadataFile(where, posixpath.dirname(name), table, fields, has_classes).add_to(found, images)
            is_used = True
        elif table.columns:
            found.remarks.append(f"{where} is not used: it has no column {_IMAGE}, only {', '.join(table.columns)}")
    for option in ("label", "caption"):
        if getattr(fields, option) is not None and not is_used:
            raise FieldError(
                option,
                f"--{option}: {folder.uri} has no {' or '.join(_NAMES)} with a column {_IMAGE}, and so no column to "
                f"choose; omit it",
            )
    return found


@dataclass(frozen=True)
class _MetadataFile:
    where: str
    parent: str  # the folder of the file, which names are relative to
    table: Records
    fields: SampleFields
    has_classes: bool

    def add_to(self, found: Metadata, images: Collection[str]) -> None:
        """Add the captions and labels of images, and remarks on what is not used."""
        captions = self._caption_columns()
        label = self._label_column(found)
        num_lines = 0
        strays: list[int] = []
        for line, cells in self.table.records:
            num_lines += 1
            name = posixpath.normpath(posixpath.join(self.parent, str(cells.get(_IMAGE) or "")))
            if name not in images:
                strays.append(line)
                continue
            where = f"{self.where}, line {line}"
            texts = (caption_in(cells.get(column), where) for column in captions)
            # An empty cell leaves what another file has said.
            found.captions[name] = next(filter(None, texts), found.captions.get(name, ""))
            if label is not None:
                found.labels[name] = label_in(cells.get(label), where) or found.labels.get(name, "")
        if strays:
            found.remarks.append(
                f"{self.where}: {len(strays):,} of {num_lines:,} lines name no image here, the first in line "
                f"{strays[0]}; {_IMAGE} is the path of an image, relative to the folder of this file"
            )

    def _caption_columns(self) -> list[str]:
        """Return the columns of captions; the first that is not empty counts in a line."""
        columns = self.table.columns
        usual_ones: list[str] = [name for name in ("caption", "text") if name in columns]
        if self.fields.caption is None and usual_ones:
            return usual_ones
        column = choose("caption", self.fields.caption, columns, usual(columns, CAPTION_NAMES), self.where)
        return [] if column is None else [column]

    def _label_column(self, found: Metadata) -> str | None:
        columns = self.table.columns
        candidates = usual(columns, LABEL_NAMES)
        if self.fields.label is None and self.has_classes:
            if candidates:
                found.remarks.append(
                    f"{self.where}: the labels in {', '.join(candidates)} are not used, because folders are classes "
                    f"here; pass --label {candidates[0]} to use them"
                )
            return None
        return choose("label", self.fields.label, columns, candidates, self.where)
