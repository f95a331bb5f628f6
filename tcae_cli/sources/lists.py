"""Reads image lists: text files with one path or URL a line and, after a tab, an optional class number."""

import os
import posixpath
from collections.abc import Callable

from tcae_cli.errors import SourceError
from tcae_cli.recipe.choices import NO_FIELDS, SampleFields
from tcae_cli.runtime.folder import common_root, open_to_read
from tcae_cli.runtime.remote import is_remote, suffix_of
from tcae_cli.sources.files import FileReader
from tcae_cli.sources.listing import Entry, Listing, counted, ignore
from tcae_cli.sources.metadata import parse_label, parse_text
from tcae_cli.sources.registry import Located, Reader


class ImageList:
    """A text file that names images."""

    words = "an image list ending in .txt"
    fields = frozenset[str]()

    def recognises(self, uri: str) -> bool:
        return suffix_of(uri) == ".txt" and (is_remote(uri) or (os.path.exists(uri) and not os.path.isdir(uri)))

    def reader(self, located: Located) -> Reader:
        return FileReader(located)

    def scan(self, uri: str, fields: SampleFields = NO_FIELDS, on_progress: Callable[[int], None] = ignore) -> Listing:
        """List the images by sorted name; a file that does not exist is a row that fails when read.

        Names are absolute or relative to the list's folder, and all of one protocol. Keys are relative to that folder,
        or, when an image lies outside of it, to the deepest folder that holds them all. URLs have size 0.
        Raises SourceError if nothing is listed.
        """
        folder, _, list_name = (uri if is_remote(uri) else os.path.abspath(uri)).rpartition("/")
        folder += "/"
        lines = parse_text(open_to_read(folder).read(list_name), uri).split("\n")
        labels: dict[str, int] = {}
        for number, line in enumerate(lines, start=1):
            name, _, label = line.partition("\t")
            if not line.strip():
                continue
            location = _location(folder, name.strip())
            if location in labels:
                raise SourceError(f"{uri}, line {number}: {name} was listed before; list each image once")
            labels[location] = parse_label(label, f"{uri}, line {number}") if label.strip() else -1
        if not labels:
            raise SourceError(f"{uri} lists no images; write one path a line, relative to its folder or absolute")
        _refuse_mixed(uri, list(labels))
        root = folder if all(location.startswith(folder) for location in labels) else common_root(list(labels))
        sorted_labels = sorted(labels.items())
        entries = [
            Entry(location[len(root) :], _size_bytes(location), label)
            for location, label in counted(sorted_labels, on_progress)
        ]
        return Listing(uri, root, entries, kind="list")


def _location(folder: str, name: str) -> str:
    """Return the absolute path or URL of a listed name."""
    if is_remote(name):
        return name
    if not is_remote(folder) or name.startswith("/"):
        return os.path.normpath(os.path.join(folder, name))
    protocol, _, parent = folder.partition("://")
    return f"{protocol}://{posixpath.normpath(parent + name)}"


def _refuse_mixed(uri: str, locations: list[str]) -> None:
    """Raise SourceError if the names are of several protocols, or local in a remote list."""
    protocols = sorted(
        {f"{location.partition('://')[0]}:// names" if is_remote(location) else "local paths" for location in locations}
    )
    if len(protocols) > 1:
        raise SourceError(f"{uri} lists {' and '.join(protocols)}; make a list of each")
    if is_remote(uri) and not is_remote(locations[0]):
        raise SourceError(f"{uri} is remote but lists local paths; copy the list here, or list names beside it")


def _size_bytes(location: str) -> int:
    """Return the bytes of a local file; 0 for a URL and for a file whose size cannot be read."""
    if is_remote(location):
        return 0
    try:
        return os.stat(location).st_size
    except OSError:
        return 0
