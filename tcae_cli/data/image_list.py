"""An image list: a text file with one path a line and, after a tab, perhaps its class number."""

import os
from pathlib import Path

from tcae_cli.data.index import Entry, Listing, parse_label, parse_text
from tcae_cli.errors import SourceError


def scan(uri: str) -> Listing:
    """The listed images by sorted path; a file that is not there is a row that fails when read.

    Paths are absolute or relative to the list's folder. Keys are relative to that folder, or, when an image lies
    outside of it, to the deepest folder that holds them all. Raises SourceError if nothing is listed.
    """
    list_path = Path(os.path.abspath(uri))
    labels: dict[Path, int] = {}
    for number, line in enumerate(parse_text(list_path.read_bytes(), uri).splitlines(), start=1):
        name, _, label = line.partition("\t")
        path = Path(os.path.normpath(list_path.parent / name.strip()))
        if not line.strip():
            continue
        if path in labels:
            raise SourceError(f"{uri}, line {number}: {name} was listed before; list each image once")
        labels[path] = parse_label(label, f"{uri}, line {number}") if label.strip() else -1
    if not labels:
        raise SourceError(f"{uri} lists no images; write one path a line, relative to its folder or absolute")
    root = _root(list_path.parent, list(labels))
    entries = [Entry(path.relative_to(root).as_posix(), _size_bytes(path), label) for path, label in labels.items()]
    return Listing(uri, root, sorted(entries))


def _root(list_folder: Path, paths: list[Path]) -> Path:
    if all(path.is_relative_to(list_folder) for path in paths):
        return list_folder
    return Path(os.path.commonpath([path.parent for path in paths]))


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
