"""Defines what a scan of a source returns: its samples in row order, and the files that hold many of them."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")

_PROGRESS_EVERY = 100
PASSED_OVER = "images in folders of thumbnails, deleted or hidden files were passed over"  # with their number before it

# Of the thumbnails and remains of network drives, Windows, macOS and notebooks.
_SYSTEM_FOLDERS = {
    *("@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin"),
    *("system volume information", "__macosx", ".ipynb_checkpoints", "lost+found"),
}
_IMAGE_SUFFIXES = {
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm"),
    *(".tif", ".tiff", ".webp"),
}


class Entry(NamedTuple):
    """One image as a scan found it."""

    key: str  # path relative to the source, "/" between parts, with its suffix
    size_bytes: int  # 0: unknown
    label: int = -1  # -1: none
    caption: str = ""  # "": none
    container: int = -1  # number of the file that holds it and others; -1: a file of its own
    offset: int = -1  # of its bytes in that file, or its row there
    problem: str = ""  # why it cannot be read, as far as the scan knows; "": nothing
    label_from: str = ""  # the place that states the label; "": as the listing says
    caption_from: str = ""


class Group(NamedTuple):
    """Rows of a container that are read together."""

    num_rows: int
    stamp: str  # differs once the rows have changed; "": their sizes and offsets tell


class Container(NamedTuple):
    """A file that holds many images: a tar, or a file of a table."""

    name: str  # relative to the root of the listing
    compression: str = ""  # "gzip" or "zstd" of a tar that is read front to back; "": read by position
    groups: tuple[Group, ...] = ()  # of a file whose rows are read in groups


@dataclass(frozen=True)
class Listing:
    """All samples that a scan found, in row order."""

    uri: str
    root: str  # of keys and containers: an absolute path or a URL, ending in "/"
    entries: Sequence[Entry]
    class_names: tuple[str, ...] = ()
    containers: tuple[Container, ...] = ()
    kind: str = "folder"  # that reads the images, by its name in the registry
    image_column: str = ""  # of tables
    passed_over: Mapping[str, int] = field(default_factory=dict)  # files that are not images, by suffix
    remarks: tuple[str, ...] = ()  # sentences for the user on what else is not used
    disagreements: tuple[str, ...] = ()  # sentences on labels and captions that two places state differently
    set_aside: Sequence[Entry] = ()  # no samples, but rows of stores that were begun when these counted as samples
    label_from: str = ""  # the place that states the labels of entries that name none
    caption_from: str = ""


def counted(items: Iterable[Item], on_progress: Callable[[int], None]) -> Iterator[Item]:
    """Yield the items; call `on_progress` now and then, and at the end, with their number so far."""
    number = 0
    for number, item in enumerate(items, start=1):
        if number % _PROGRESS_EVERY == 0:
            on_progress(number)
        yield item
    on_progress(number)


def ignore(_: int) -> None:
    """Do nothing on progress."""


def is_image_name(name: str) -> bool:
    """Return whether a file of this name counts as an image."""
    return os.path.splitext(name)[1].lower() in _IMAGE_SUFFIXES


def system_folder_in(name: str) -> str:
    """Return the first folder in a name that systems fill and that holds no samples, or that is hidden; "" if none."""
    for part in name.split("/")[:-1]:
        if part.lower() in _SYSTEM_FOLDERS or (part.startswith(".") and part.strip(".")):
            return part
    return ""


def image_suffixes() -> str:
    """Return the suffixes of images, for a message."""
    return ", ".join(sorted(_IMAGE_SUFFIXES))


def count_suffixes(names: Iterable[str]) -> dict[str, int]:
    """Return how many of these files have each suffix, the most frequent first."""
    return dict(Counter(os.path.splitext(name)[1].lower() or "no suffix" for name in names).most_common())
