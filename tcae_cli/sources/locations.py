"""Finds the images that a list or a table names, by path or by URL."""

import os
import posixpath
from typing import Any

from tcae_cli.errors import SourceError
from tcae_cli.runtime.folder import common_root
from tcae_cli.runtime.remote import is_remote


def name_in(cell: Any) -> str:
    """Return the path or URL in a cell, "" if it is none that a file could have."""
    name = cell.strip() if isinstance(cell, str) else ""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return ""
    return "" if "\0" in name else name


def location_of(folder: str, name: str) -> str:
    """Return the absolute path or URL of a name that is relative to a folder, or absolute."""
    if is_remote(name):
        return name
    if not is_remote(folder) or name.startswith("/"):
        return os.path.normpath(os.path.join(folder, name))
    protocol, _, parent = folder.partition("://")
    return f"{protocol}://{posixpath.normpath(parent + name)}"


def root_of(folder: str, locations: list[str]) -> str:
    """Return what the keys of the images at these locations are relative to: the folder or, if one lies outside of it,
    the deepest folder above them all.
    """
    return folder if all(location.startswith(folder) for location in locations) else common_root(locations)


def without_query(root: str, name: str) -> str:
    """Return the name of a file below a root without the query of a signed URL, which holds a secret."""
    return name.partition("?")[0] if is_remote(root) else name


def refuse_mixed(uri: str, locations: list[str]) -> None:
    """Raise SourceError if the names are of several protocols, or local in a remote list."""
    protocols = sorted(
        {f"{location.partition('://')[0]}:// names" if is_remote(location) else "local paths" for location in locations}
    )
    if len(protocols) > 1:
        raise SourceError(f"{uri} lists {' and '.join(protocols)}; make a list of each")
    if is_remote(uri) and protocols == ["local paths"]:
        raise SourceError(f"{uri} is remote but lists local paths; copy the list here, or list names beside it")


def size_bytes_of(location: str) -> int:
    """Return the bytes of a local file; 0 for a URL and for a file whose size cannot be read."""
    if is_remote(location):
        return 0
    try:
        return os.stat(location).st_size
    except OSError:
        return 0
