"""What belongs together in a tar: an image and, under its name, a label and a caption.

`a.jpg`, `a.cls`, `a.txt` and `a.json` are one sample, as in WebDataset.
"""

import os
from collections.abc import Iterator, Sequence

from tcae_cli.errors import SourceError
from tcae_cli.sources.index import Entry, caption_of, is_image_name, parse_label, parse_metadata, parse_text
from tcae_cli.sources.tar_members import SIDECAR_SUFFIXES, Loss, Member


def tar_entries(tar: str, number: int, members: Sequence[Member], loss: Loss | None) -> list[Entry]:
    """The rows of one tar, by position; what is wrong with one is its problem.

    Of members with one name, all are rows: the second's key ends in #2. Their labels and captions go k-th with k-th, or
    one serves all. A label without an image is a row too, and so is a caption or metadata, where others have that.
    What is lost is one row, `<tar>@<byte>`.
    """
    by_name: dict[str, list[Member]] = {}
    for member in members:
        by_name.setdefault(member.name, []).append(member)
    images = [name for name in by_name if is_image_name(name)]
    entries = [entry for name in images for entry in _images(tar, number, name, by_name)]
    # The image of the last label may be among what is lost, and is told of there.
    unsure = _sample(members[-1].name) if loss and members else None
    entries += [
        Entry(f"{tar}/{sample}", 0, tar=number, offset=first.offset, problem="has a label or caption but no image")
        for sample, first in _without_image(images, by_name).items()
        if sample != unsure
    ]
    entries.sort(key=lambda entry: entry.offset)
    if loss:
        entries.append(Entry(f"{tar}@{loss.offset}", 0, tar=number, offset=loss.offset, problem=loss.problem))
    return entries


def _images(tar: str, number: int, name: str, by_name: dict[str, list[Member]]) -> Iterator[Entry]:
    """The rows of all images of one name."""
    copies, beside = by_name[name], _beside(name, by_name)
    for index, image in enumerate(copies):
        key = f"{tar}/{name}" if index == 0 else f"{tar}/{name}#{index + 1}"
        try:
            sidecars = {suffix: _paired(found, index, len(copies), tar) for suffix, found in beside.items()}
            label, caption = _label_and_caption(sidecars, tar)
            problem = image.problem
        except SourceError as error:
            label, caption, problem = -1, "", image.problem or str(error)
        yield Entry(key, image.size_bytes, label, caption, number, image.offset, problem)


def _beside(name: str, by_name: dict[str, list[Member]]) -> dict[str, list[Member]]:
    """What lies beside an image, under its name without the suffix or, as WebDataset has it, up to the first dot."""
    stems = (_sample(name), os.path.splitext(name)[0])
    return {suffix: by_name[stem + suffix] for stem in stems for suffix in SIDECAR_SUFFIXES if stem + suffix in by_name}


def _paired(sidecars: list[Member], index: int, num_copies: int, tar: str) -> Member:
    if len(sidecars) not in (1, num_copies):
        name = sidecars[0].name
        raise SourceError(f"{tar}: {name} is there {len(sidecars)} times for {num_copies} images; make it one for each")
    sidecar = sidecars[index] if len(sidecars) == num_copies else sidecars[0]
    if sidecar.problem:
        raise SourceError(sidecar.problem)
    return sidecar


def _label_and_caption(sidecars: dict[str, Member], tar: str) -> tuple[int, str]:
    """Raises SourceError for one that cannot be used."""
    label, caption = -1, ""
    if found := sidecars.get(".cls"):
        label = parse_label(found.text.decode(errors="replace"), f"{tar}: {found.name}")
    if found := sidecars.get(".json"):
        caption = caption_of(parse_metadata(found.text, f"{tar}: {found.name}"))
    if found := sidecars.get(".txt"):
        caption = parse_text(found.text, f"{tar}: {found.name}")
    return label, caption


def _without_image(images: list[str], by_name: dict[str, list[Member]]) -> dict[str, Member]:
    """Samples that have something beside an image but not the image, with the first that they have."""
    with_image = {_sample(name) for name in images}
    sidecars = [name for name in by_name if name.endswith(SIDECAR_SUFFIXES)]
    # A text that is no sample's, a README, is told by this: no image has such a file beside it.
    usual = {os.path.splitext(name)[1] for name in sidecars if _sample(name) in with_image} | {".cls"}
    found: dict[str, Member] = {}
    for name in sidecars:
        if images and os.path.splitext(name)[1] in usual and _sample(name) not in with_image:
            found.setdefault(_sample(name), by_name[name][0])
    return found


def _sample(name: str) -> str:
    """A sample's name, as in WebDataset: the file's up to the first dot."""
    parent, base = os.path.split(name)
    return os.path.join(parent, base.split(".")[0])
