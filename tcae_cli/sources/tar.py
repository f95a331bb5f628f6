"""Lists the samples of tar shards: tars are indexed once by their headers, then read by position.

`a.jpg`, `a.cls`, `a.txt` and `a.json` are one sample, as in WebDataset: image, label, caption and metadata. Its own
reader is not used: it ends a damaged tar without an error and cannot resume where it stopped.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

from braceexpand import braceexpand

from tcae_cli.errors import NotFoundError, SourceError, UsageError
from tcae_cli.recipe.choices import NO_FIELDS, SampleFields
from tcae_cli.runtime.folder import Folder, common_root, open_to_read
from tcae_cli.runtime.remote import is_remote, suffix_of
from tcae_cli.sources.files import FileReader
from tcae_cli.sources.listing import Container, Entry, Listing, counted, ignore, image_suffixes, is_image_name
from tcae_cli.sources.metadata import caption_of, parse_label, parse_metadata, parse_text
from tcae_cli.sources.registry import Located, Reader
from tcae_cli.sources.tar_members import SIDECAR_SUFFIXES, Member, read_members


class TarShards:
    """One tar, or the tars of a brace pattern."""

    words = "tar shards ending in .tar"
    fields = frozenset[str]()

    def recognises(self, uri: str) -> bool:
        return suffix_of(uri) == ".tar" and not os.path.isdir(uri)

    def reader(self, located: Located) -> Reader:
        return FileReader(located)

    def scan(self, uri: str, fields: SampleFields = NO_FIELDS, on_progress: Callable[[int], None] = ignore) -> Listing:
        """List every image in the tars of a pattern, by tar in the pattern's order, then by position.

        A damaged part of a tar, and a damaged sample, is a row with a problem.
        Raises NotFoundError if a tar does not exist, SourceError if one cannot be read or none holds an image.
        """
        locations = expand_pattern(uri)
        root = common_root(locations)
        names = [location.removeprefix(root) for location in locations]
        folder = open_to_read(root)
        scans = folder.in_order(partial(_scan_tar, folder), enumerate(names))
        entries = list(counted(chain.from_iterable(scans), on_progress))
        if not entries:
            raise SourceError(f"{uri} holds no images; images are members ending in {image_suffixes()}")
        return Listing(uri, root, entries, containers=tuple(map(Container, names)), kind="tar")


def expand_pattern(uri: str) -> list[str]:
    """Return the tars that a pattern names, in its order: absolute paths of files that exist, or URLs.

    Raises UsageError if it is no pattern, NotFoundError if a file does not exist.
    """
    try:
        names = [uri] if Path(uri).exists() else list(braceexpand(uri))
    except ValueError as error:
        raise UsageError(f"{uri} is not a pattern of tars ({error}); write it as shards/{{000..127}}.tar") from error
    if is_remote(uri):
        return names
    paths = [os.path.abspath(name) for name in names]
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        of_them = f"; {len(missing)} of its {len(paths)} tars do not exist" if len(paths) > 1 else ""
        raise NotFoundError(f"{missing[0]} does not exist{of_them}; correct {uri}")
    return paths


def _scan_tar(folder: Folder, tar: tuple[int, str]) -> list[Entry]:
    """Return the rows of one tar, given as its number and name, by position; an unusable sample's row has a problem.

    Of members with one name, all are rows: the second's key ends in #2. Their labels and captions go k-th with k-th, or
    one serves all. A label without an image is a row too, and so is a caption or metadata, where others have that.
    The part of a tar that is lost is one row, `<tar>@<byte>`.
    """
    number, location = tar
    # The query of a signed URL holds a secret, so it is not part of the tar's name.
    name = location.partition("?")[0] if is_remote(folder.uri) else location
    with folder.open(location) as file:
        members, loss = read_members(file, name)

    by_name: dict[str, list[Member]] = {}
    for member in members:
        by_name.setdefault(member.name, []).append(member)
    images = [path for path in by_name if is_image_name(path)]
    entries = [entry for image in images for entry in _images(name, number, image, by_name)]
    # The image of the last label may be in the part that is lost, whose row stands for it.
    unsure = _sample(members[-1].name) if loss and members else None
    entries += [
        Entry(
            f"{name}/{sample}", 0, container=number, offset=first.offset, problem="has a label or caption but no image"
        )
        for sample, first in _without_image(images, by_name).items()
        if sample != unsure
    ]

    entries.sort(key=lambda entry: entry.offset)
    if loss:
        entries.append(Entry(f"{name}@{loss.offset}", 0, container=number, offset=loss.offset, problem=loss.problem))
    return entries


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
    """Return a sample's name, as in WebDataset: the file's up to the first dot."""
    parent, base = os.path.split(name)
    return os.path.join(parent, base.split(".")[0])
