"""Lists the images in zip archives, as StyleGAN and EDM2 write them; nothing is ever extracted.

A zip is a folder in a file: its central directory is indexed as the names in a folder are, and images are read by
position.
"""

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from tcae_cli.errors import SourceError
from tcae_cli.recipe.choices import NO_FIELDS, SampleFields
from tcae_cli.runtime.folder import Folder, common_root, open_to_read
from tcae_cli.sources.folder import File, list_images
from tcae_cli.sources.listing import Container, Entry, Listing, ignore, image_suffixes, system_folder_in
from tcae_cli.sources.locations import without_query
from tcae_cli.sources.patterns import expand_pattern, names_files
from tcae_cli.sources.registry import Located, Reader
from tcae_cli.sources.zip_reader import DAMAGED, ZipReader

Item = TypeVar("Item")
Result = TypeVar("Result")

_SUFFIX = ".zip"
_IS_ENCRYPTED = 1  # a flag of a member
_MOST_TEXT_BYTES = 1 << 30
_MOST_EXPANDED = 1040  # times that deflated bytes grow at most


class ZipArchives:
    """One zip, or those of a brace pattern or a glob."""

    words = "zip archives (.zip)"
    fields = frozenset({"label", "caption", "allow_missing"})

    def recognises(self, uri: str) -> bool:
        return names_files(uri, lambda name: name.lower().endswith(_SUFFIX))

    def reader(self, located: Located) -> Reader:
        return ZipReader(located)

    def scan(self, uri: str, fields: SampleFields = NO_FIELDS, on_progress: Callable[[int], None] = ignore) -> Listing:
        """List every image in the zips of a pattern, by zip in the pattern's order, then by sorted name.

        Labels and captions are those that a folder of the same files would have; of a single zip, the folder that
        holds all of its files. An image that cannot be read by position, such as an encrypted one, has a problem.
        Raises NotFoundError if a zip does not exist, SourceError if one is damaged or none holds an image.
        """
        found = expand_pattern(uri, fields.allow_missing)
        folder = open_to_read(found.root)
        of_zips = _ScanOfZips(uri, folder, replace(fields, allow_missing=None), has_others=len(found.names) > 1)
        listings = []
        num_images = 0
        for listing in folder.in_order(of_zips.scan, enumerate(found.names)):
            listings.append(listing)
            num_images += len(listing.entries)
            on_progress(num_images)
        passed_over: Counter[str] = Counter()
        for listing in listings:
            passed_over.update(listing.passed_over)
        if not num_images:
            others = ", ".join(f"{count} with {suffix}" for suffix, count in passed_over.most_common(3))
            raise SourceError(
                f"{uri} holds no images, only other members ({others or 'none'}); images end in {image_suffixes()}"
            )
        class_names = _common_classes(uri, listings)
        return Listing(
            uri,
            found.root,
            [entry for listing in listings for entry in _renumbered(listing, class_names)],
            class_names,
            containers=tuple(Container(name) for name in found.names),
            kind="zip",
            passed_over=dict(passed_over.most_common()),
            remarks=(*found.remarks, *(remark for listing in listings for remark in listing.remarks)),
            disagreements=tuple(sentence for listing in listings for sentence in listing.disagreements),
        )


class _ScanOfZips(NamedTuple):
    uri: str
    folder: Folder
    fields: SampleFields
    has_others: bool  # whether there are several

    def scan(self, zip_file: tuple[int, str]) -> Listing:
        """Return the images in one zip, given as its number and name."""
        number, location = zip_file
        name = without_query(self.folder.uri, location)
        where = os.path.join(self.folder.uri, name)
        with self.folder.open(location) as file:
            size_bytes = file.seek(0, os.SEEK_END)
            try:
                archive = ZipFile(file)
            except DAMAGED as error:
                raise SourceError(f"{where} is not a zip archive, or is damaged ({error}); copy it again") from error
            members = _Members(archive, name, where, size_bytes, may_lie_in_a_folder=not self.has_others)
            listing = list_images(self.uri, "", members, members.files(), self.fields)
        copies: Counter[str] = Counter()
        entries = []
        for entry in listing.entries:
            entries.append(members.place(entry, copies[entry.key])._replace(container=number))
            copies[entry.key] += 1
        return replace(listing, entries=entries)


class _Members:
    """The files in a zip, as those of a folder: the folder that holds all of them, if there is one."""

    def __init__(
        self, archive: ZipFile, name: str, where: str, archive_bytes: int, *, may_lie_in_a_folder: bool
    ) -> None:
        self._archive = archive
        self._archive_bytes = archive_bytes
        members = [member for member in archive.infolist() if _is_shown_file(member.filename)]
        names = [member.filename.removeprefix("./") for member in members]
        folder = common_root([path for path in names if not system_folder_in(path)]) if may_lie_in_a_folder else ""
        self.uri = f"{where}/{folder}"
        self._prefix = f"{name}/{folder}"  # of keys
        self._by_name: dict[str, list[ZipInfo]] = {}  # several of one name are rows each
        for path, member in zip(names, members, strict=True):
            self._by_name.setdefault(path.removeprefix(folder), []).append(member)

    def files(self) -> list[File]:
        """Return the files by sorted name."""
        return sorted(File(name, each.file_size) for name, members in self._by_name.items() for each in members)

    def read(self, name: str) -> bytes:
        """Return the contents of a text. Raises OSError if it is damaged, or so large that it is none."""
        member = self._by_name[name][-1]
        if member.file_size > _MOST_TEXT_BYTES:
            raise OSError(errno.EFBIG, "too large for a text", f"{self.uri}{name}")
        try:
            return self._archive.read(member)
        except DAMAGED as error:
            raise OSError(errno.EIO, f"damaged in the zip: {error}", f"{self.uri}{name}") from error

    def in_order(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield function(item) of each item, in order."""
        return map(function, items)

    def place(self, entry: Entry, copy: int) -> Entry:
        """Return the entry of an image with its key, its place, and the reason why it cannot be read there."""
        member = self._by_name[entry.key][copy]
        return entry._replace(
            key=f"{self._prefix}{entry.key}" + (f"#{copy + 1}" if copy else ""),
            size_bytes=member.file_size,
            offset=max(0, member.header_offset),
            problem=entry.problem or self._problem(member),
        )

    def _problem(self, member: ZipInfo) -> str:
        if stat.S_ISLNK(member.external_attr >> 16):
            return "is a link inside a zip; make the zip without --symlinks"
        if member.flag_bits & _IS_ENCRYPTED:
            return "is encrypted; make the zip without a password"
        if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            return f"is compressed by method {member.compress_type}; make the zip with deflate, or without compression"
        end = member.header_offset + member.compress_size
        most_bytes = member.compress_size * (1 if member.compress_type == ZIP_STORED else _MOST_EXPANDED)
        if member.header_offset < 0 or end > self._archive_bytes or member.file_size > most_bytes:
            return "lies outside of the zip, whose directory is damaged; copy the zip again"
        return ""


def _is_shown_file(name: str) -> bool:
    """Return whether a member of this name is a file, and not hidden."""
    is_hidden = any(part.startswith(".") and part.strip(".") for part in name.split("/"))
    return bool(name) and not name.endswith("/") and not is_hidden


def _common_classes(uri: str, listings: Sequence[Listing]) -> tuple[str, ...]:
    """Return the names of the classes of all zips. Raises SourceError if some have names and others numbers."""
    names = {name for listing in listings for name in listing.class_names}
    has_numbers = any(entry.label >= 0 for each in listings if not each.class_names for entry in each.entries)
    if names and has_numbers:
        raise SourceError(
            f"{uri}: labels are class names in some zips and numbers in others; make them the same in all"
        )
    return tuple(sorted(names))


def _renumbered(listing: Listing, class_names: tuple[str, ...]) -> Sequence[Entry]:
    """Return the entries of a zip with labels of `class_names`, which include its own."""
    if listing.class_names == class_names:
        return listing.entries
    numbers = [class_names.index(name) for name in listing.class_names]
    return [entry._replace(label=numbers[entry.label]) if entry.label >= 0 else entry for entry in listing.entries]
