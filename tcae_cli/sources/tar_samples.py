"""Groups the members of a tar into samples, as webdataset does, and makes a row of each image.

A member's name up to the first dot of its base name is its sample, and the rest, in lower case, its extension.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from tcae_cli.errors import SourceError
from tcae_cli.recipe.choices import SampleFields
from tcae_cli.sources.listing import (
    PASSED_OVER,
    Entry,
    count_suffixes,
    is_image_name,
    system_folder_in,
)
from tcae_cli.sources.metadata_choice import Descriptions, descriptions_for
from tcae_cli.sources.metadata_files import DescribedImages, is_metadata_name
from tcae_cli.sources.metadata_sidecars import Sidecars, is_wanted, sample_of, state_sidecar, suffix_of_sidecar
from tcae_cli.sources.spelling import BySpelling
from tcae_cli.sources.tar_members import Loss, Member

_NEEDS_IMAGE = (".cls", ".txt", ".json")  # without an image, these are rows that say so


class TarRows(NamedTuple):
    """The rows of one tar, by position, and what its members state of them."""

    entries: list[Entry]  # without labels and captions
    names: list[str]  # of the images, in the tar; "": of no image
    descriptions: Descriptions
    passed_over: dict[str, int]  # members that are neither images nor used, by suffix
    set_aside: list[Entry]


class _Row(NamedTuple):
    entry: Entry
    name: str  # of its image in the tar, or of what has no image
    copy: int = -1  # of the images of this name, from 0; -1: no image

    @property
    def is_set_aside(self) -> bool:
        return bool(system_folder_in(self.name)) or (self.copy < 0 and is_metadata_name(self.name))


def rows_of_tar(tar: str, number: int, members: list[Member], loss: Loss | None, fields: SampleFields) -> TarRows:
    """Return the rows of one tar, given as its name and number; an unusable sample's row has a problem.

    fields: image: extensions of images, as patterns with commas between them; None: all that images have. label and
    caption: as the user chose them.
    Of members with one name, all are rows: the second's key ends in #2. Their labels and captions go k-th with k-th, or
    one serves all. A label without an image is a row too, and so is a caption or metadata, where others have that.
    The part of a tar that is lost is one row, `<tar>@<byte>`.
    Raises SourceError if a sample has several images and `fields` does not choose, or a metadata file cannot be used.
    """
    by_name: dict[str, list[Member]] = {}
    for member in members:
        by_name.setdefault(member.name, []).append(member)
    images = [name for name in by_name if is_image_name(name) and _is_chosen(name, fields.image)]
    if fields.image is None:
        _refuse_several_images(tar, [name for name in images if not system_folder_in(name)])
    found = [row for name in images for row in _rows_of_name(tar, number, by_name[name])]
    # The image of the last label may be in the part that is lost, whose row stands for it.
    unsure = sample_of(members[-1].name) if loss and members else None
    without_image = _without_image(images, by_name)
    found += [_row_without_image(tar, number, first) for sample, first in without_image.items() if sample != unsure]
    found.sort(key=lambda row: row.entry.offset)
    rows = [row for row in found if not row.is_set_aside]
    set_aside = [row.entry for row in found if row.is_set_aside]

    descriptions = descriptions_for(fields)
    entries = _describe(tar, rows, by_name, descriptions)
    if loss:
        entries.append(Entry(f"{tar}@{loss.offset}", 0, container=number, offset=loss.offset, problem=loss.problem))
    names = [row.name if row.copy >= 0 else "" for row in rows] + [""] * bool(loss)
    if set_aside:
        descriptions.lose(PASSED_OVER, set_aside[0].key, len(set_aside))
    passed_over = count_suffixes(_others(by_name, images, without_image))
    return TarRows(entries, names, descriptions, passed_over, set_aside)


def _others(by_name: Iterable[str], images: Sequence[str], samples_without_image: Iterable[str]) -> Iterator[str]:
    """Yield the members that are no images and belong to none, and that describe none."""
    samples = {*samples_without_image, *(sample_of(name) for name in by_name if is_image_name(name))}
    is_used = set(images)
    for name in by_name:
        is_sidecar = suffix_of_sidecar(name) and sample_of(name) in samples
        if not (name in is_used or is_sidecar or is_metadata_name(name) or system_folder_in(name)):
            yield name


def _rows_of_name(tar: str, number: int, copies: Sequence[Member]) -> list[_Row]:
    """Return the rows of all images of one name."""
    rows = []
    for copy, image in enumerate(copies):
        key = f"{tar}/{image.name}" if copy == 0 else f"{tar}/{image.name}#{copy + 1}"
        entry = Entry(key, image.size_bytes, container=number, offset=image.offset, problem=image.problem)
        rows.append(_Row(entry, image.name, copy))
    return rows


def _row_without_image(tar: str, number: int, first: Member) -> _Row:
    problem = "has a label or caption but no image"
    key = f"{tar}/{sample_of(first.name)}"
    return _Row(Entry(key, 0, container=number, offset=first.offset, problem=problem), first.name)


def _describe(
    tar: str, rows: Sequence[_Row], by_name: dict[str, list[Member]], descriptions: Descriptions
) -> list[Entry]:
    """State what members say of the rows; return the rows, some of which then have a problem."""
    sidecars = Sidecars(by_name)
    rows_of: dict[str, list[int]] = {}
    entries = []
    for number, row in enumerate(rows):
        problem = row.entry.problem
        if row.copy >= 0:
            rows_of.setdefault(row.name, []).append(number)
            for name in sidecars.beside(row.name):
                suffix = suffix_of_sidecar(name)
                try:
                    if is_wanted(suffix, descriptions):
                        sidecar = _paired(by_name[name], row.copy, len(by_name[row.name]), tar)
                        state_sidecar(descriptions, suffix, sidecar.text, [number], f"{tar}: {name}")
                except SourceError as error:
                    problem = problem or str(error)
        entries.append(row.entry._replace(problem=problem))
    if tables := [name for name in by_name if is_metadata_name(name)]:
        images = DescribedImages(BySpelling(rows_of), descriptions, lambda name: by_name[name][0].text, f"{tar}: ")
        images.state_files(tables)
    return entries


def _is_chosen(name: str, image: str | None) -> bool:
    if image is None:
        return True
    patterns = [pattern.strip().removeprefix(".").lower() for pattern in image.split(",")]
    return any(fnmatchcase(_extension(name), pattern) for pattern in patterns)


def _refuse_several_images(tar: str, images: Sequence[str]) -> None:
    """Raise SourceError if a sample has images of several extensions."""
    extensions: dict[str, list[str]] = {}
    for name in images:
        found = extensions.setdefault(sample_of(name), [])
        if _extension(name) not in found:
            found.append(_extension(name))
    for sample, found in extensions.items():
        if len(found) > 1:
            likely = min(found, key=lambda extension: (extension.count("."), len(extension)))
            raise SourceError(
                f"{tar}: sample {sample} has several images ({', '.join(found)}); name the one to take, as in "
                f'--image {likely}, or make a row of each with --image "*"'
            )


def _paired(sidecars: list[Member], index: int, num_copies: int, tar: str) -> Member:
    """Return the sidecar of an image among several of one name. Raises SourceError if they cannot be paired or read."""
    if len(sidecars) not in (1, num_copies):
        name = sidecars[0].name
        raise SourceError(f"{tar}: {name} appears {len(sidecars)} times for {num_copies} images; make it one for each")
    sidecar = sidecars[index] if len(sidecars) == num_copies else sidecars[0]
    if sidecar.problem:
        raise SourceError(sidecar.problem)
    return sidecar


def _without_image(images: list[str], by_name: dict[str, list[Member]]) -> dict[str, Member]:
    """Return the first sidecar of each sample that has sidecars but no image."""
    with_image = {sample_of(name) for name in images}
    sidecars = [name for name in by_name if name.endswith(_NEEDS_IMAGE)]
    # A text that belongs to no sample, such as a README, is recognised so: no image has such a file beside it.
    usual = {os.path.splitext(name)[1] for name in sidecars if sample_of(name) in with_image} | {".cls"}
    found: dict[str, Member] = {}
    for name in sidecars:
        if images and os.path.splitext(name)[1] in usual and sample_of(name) not in with_image:
            found.setdefault(sample_of(name), by_name[name][0])
    return found


def _extension(name: str) -> str:
    return os.path.basename(name).partition(".")[2].lower()
