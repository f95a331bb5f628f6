"""Groups the members of a tar into samples, as webdataset does, and makes a row of each image.

A member's name up to the first dot of its base name is its sample, and the rest, in lower case, its extension.
"""

import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from tcae_cli.errors import SourceError
from tcae_cli.sources.listing import Entry, count_suffixes, is_image_name
from tcae_cli.sources.metadata import caption_of, parse_label, parse_metadata, parse_text
from tcae_cli.sources.tar_members import SIDECAR_SUFFIXES, Loss, Member


class TarRows(NamedTuple):
    """The rows of one tar, by position, and how many of its members are neither images nor sidecars, by suffix."""

    entries: list[Entry]
    passed_over: dict[str, int]


def rows_of_tar(tar: str, number: int, members: list[Member], loss: Loss | None, image: str | None) -> TarRows:
    """Return the rows of one tar, given as its name and number; an unusable sample's row has a problem.

    image: extensions of images, as patterns with commas between them; None: all that images have.
    Of members with one name, all are rows: the second's key ends in #2. Their labels and captions go k-th with k-th, or
    one serves all. A label without an image is a row too, and so is a caption or metadata, where others have that.
    The part of a tar that is lost is one row, `<tar>@<byte>`.
    Raises SourceError if a sample has several images and `image` is None.
    """
    by_name: dict[str, list[Member]] = {}
    for member in members:
        by_name.setdefault(member.name, []).append(member)
    images = [name for name in by_name if is_image_name(name) and (image is None or _is_chosen(name, image))]
    if image is None:
        _refuse_several_images(tar, images)
    entries = [entry for name in images for entry in _images(tar, number, name, by_name)]
    # The image of the last label may be in the part that is lost, whose row stands for it.
    unsure = _sample(members[-1].name) if loss and members else None
    entries += [
        Entry(
            f"{tar}/{sample}", 0, container=number, offset=first.offset, problem="has a label or caption but no image"
        )
        for sample, first in _without_image(images, by_name).items()
        if sample != unsure
    ]
    entries.sort(key=lambda entry: entry.offset)
    if loss:
        entries.append(Entry(f"{tar}@{loss.offset}", 0, container=number, offset=loss.offset, problem=loss.problem))
    chosen = set(images)
    others = (name for name in by_name if name not in chosen and not name.endswith(SIDECAR_SUFFIXES))
    return TarRows(entries, count_suffixes(others))


def _is_chosen(name: str, image: str) -> bool:
    patterns = [pattern.strip().removeprefix(".").lower() for pattern in image.split(",")]
    return any(fnmatchcase(_extension(name), pattern) for pattern in patterns)


def _refuse_several_images(tar: str, images: Sequence[str]) -> None:
    """Raise SourceError if a sample has images of several extensions."""
    extensions: dict[str, list[str]] = {}
    for name in images:
        found = extensions.setdefault(_sample(name), [])
        if _extension(name) not in found:
            found.append(_extension(name))
    for sample, found in extensions.items():
        if len(found) > 1:
            likely = min(found, key=lambda extension: (extension.count("."), len(extension)))
            raise SourceError(
                f"{tar}: sample {sample} has several images ({', '.join(found)}); name the one to take, as in "
                f'--image {likely}, or make a row of each with --image "*"'
            )


def _images(tar: str, number: int, name: str, by_name: dict[str, list[Member]]) -> Iterator[Entry]:
    """Yield the rows of all images of one name."""
    copies = by_name[name]
    # Its sidecars have the same name without suffix or, as WebDataset has it, up to the first dot.
    stems = (_sample(name), os.path.splitext(name)[0])
    beside = {
        suffix: by_name[stem + suffix] for stem in stems for suffix in SIDECAR_SUFFIXES if stem + suffix in by_name
    }
    for index, image in enumerate(copies):
        key = f"{tar}/{name}" if index == 0 else f"{tar}/{name}#{index + 1}"
        try:
            sidecars = {suffix: _paired(found, index, len(copies), tar) for suffix, found in beside.items()}
            label, caption = _label_and_caption(sidecars, tar)
            problem = image.problem
        except SourceError as error:
            label = -1
            caption = ""
            problem = image.problem or str(error)
        yield Entry(key, image.size_bytes, label, caption, number, image.offset, problem)


def _paired(sidecars: list[Member], index: int, num_copies: int, tar: str) -> Member:
    """Return the sidecar of an image among several of one name. Raises SourceError if they cannot be paired or read."""
    if len(sidecars) not in (1, num_copies):
        name = sidecars[0].name
        raise SourceError(f"{tar}: {name} appears {len(sidecars)} times for {num_copies} images; make it one for each")
    sidecar = sidecars[index] if len(sidecars) == num_copies else sidecars[0]
    if sidecar.problem:
        raise SourceError(sidecar.problem)
    return sidecar


def _label_and_caption(sidecars: dict[str, Member], tar: str) -> tuple[int, str]:
    """Return the label and caption in the sidecars. Raises SourceError for one that cannot be used."""
    label = -1
    caption = ""
    if found := sidecars.get(".cls"):
        label = parse_label(found.text.decode(errors="replace"), f"{tar}: {found.name}")
    if found := sidecars.get(".json"):
        caption = caption_of(parse_metadata(found.text, f"{tar}: {found.name}"))
    if found := sidecars.get(".txt"):
        caption = parse_text(found.text, f"{tar}: {found.name}")
    return label, caption


def _without_image(images: list[str], by_name: dict[str, list[Member]]) -> dict[str, Member]:
    """Return the first sidecar of each sample that has sidecars but no image."""
    with_image = {_sample(name) for name in images}
    sidecars = [name for name in by_name if name.endswith(SIDECAR_SUFFIXES)]
    # A text that belongs to no sample, such as a README, is recognised so: no image has such a file beside it.
    usual = {os.path.splitext(name)[1] for name in sidecars if _sample(name) in with_image} | {".cls"}
    found: dict[str, Member] = {}
    for name in sidecars:
        if images and os.path.splitext(name)[1] in usual and _sample(name) not in with_image:
            found.setdefault(_sample(name), by_name[name][0])
    return found


def _sample(name: str) -> str:
    parent, base = os.path.split(name)
    return os.path.join(parent, base.split(".")[0])


def _extension(name: str) -> str:
    return os.path.basename(name).partition(".")[2].lower()
