"""Tar shards: indexed once by their headers, then read by position.

webdataset's own reader is not used: it ends a damaged tar quietly and cannot go on where it stopped.
"""

import os
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path

from braceexpand import braceexpand

from tcae_cli.errors import NotFoundError, SourceError, UsageError
from tcae_cli.runtime.folder import Folder, common_root, open_to_read
from tcae_cli.runtime.remote import is_remote
from tcae_cli.sources.index import Entry, Listing, counted, ignore, image_suffixes
from tcae_cli.sources.tar_members import read_members
from tcae_cli.sources.tar_samples import tar_entries


def scan(uri: str, on_progress: Callable[[int], None] = ignore) -> Listing:
    """Every image in the tars of a pattern, by tar in the pattern's order, then by position.

    on_progress: called now and then with the number of images found so far.
    A damaged part of a tar, and a damaged sample, is a row with a problem.
    Raises NotFoundError if a tar is not there, SourceError if one cannot be read or none holds an image.
    """
    locations = expand_pattern(uri)
    root = common_root(locations)
    names = tuple(location.removeprefix(root) for location in locations)
    folder = open_to_read(root)
    scans = folder.in_order(partial(_scan_tar, folder), enumerate(names))
    entries = list(counted(chain.from_iterable(scans), on_progress))
    if not entries:
        raise SourceError(f"{uri} holds no images; images are members ending in {image_suffixes()}")
    return Listing(uri, root, entries, tar_names=names)


def expand_pattern(uri: str) -> list[str]:
    """The tars a pattern names, in its order: absolute paths of files that exist, or URLs.

    Raises UsageError if it is no pattern, NotFoundError if a file is not there.
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
    number, name = tar
    key = name.partition("?")[0] if is_remote(folder.uri) else name  # a signed URL's secret is no part of a name
    with folder.open(name) as file:
        members, loss = read_members(file, key)
    return tar_entries(key, number, members, loss)
