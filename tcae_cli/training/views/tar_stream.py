"""Reads one tar front to back, from a file, an object store or a command's output, and expands patterns of tars.

webdataset's gopen runs the commands of pipe:, but tars are read here: its own reader ends a damaged tar silently.
"""

import errno
import os
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from braceexpand import braceexpand
from webdataset.gopen import gopen

from tcae_cli.errors import SourceError, UsageError
from tcae_cli.runtime.folder import common_root, open_to_read
from tcae_cli.runtime.remote import is_remote
from tcae_cli.sources.listing import image_suffixes, is_image_name
from tcae_cli.sources.patterns import expand_pattern
from tcae_cli.sources.tar import TarShards

_PIPE = "pipe:"


@dataclass(frozen=True)
class Tars:
    """The tars, or the commands that write tars, of a pattern."""

    uri: str
    locations: tuple[str, ...]  # as expand_tars returns them
    words = f"tars; images are members ending in {image_suffixes()}"

    def __len__(self) -> int:
        return len(self.locations)

    def images(self, number: int, portion: int, num_portions: int) -> Iterator[tuple[int, bytes | None]]:
        return read_images(self.locations[number], portion, num_portions)


def is_stream(uri: str) -> bool:
    """Return whether a source can only be read front to back: "pipe:" and a command that writes a tar."""
    return uri.startswith(_PIPE)


def expand_tars(uri: str) -> tuple[str, ...]:
    """Return the tars that a path or a brace pattern names: absolute paths of files that exist, URLs, or pipes.

    Raises UsageError or NotFoundError for a pattern that cannot work, and SourceError if the URI is not a tar.
    """
    if is_stream(uri):
        try:
            return tuple(braceexpand(uri))
        except ValueError as error:
            raise UsageError(f"{uri} is not a pattern ({error}); write it as pipe:cat {{000..127}}.tar") from error
    if not TarShards().recognises(uri):
        raise SourceError(
            f"{uri} has its images in files of their own, and data.shuffle_buffer is for images that lie together, as "
            f"in tars; omit it from the recipe"
        )
    return tuple(expand_pattern(uri).locations)


def read_images(tar: str, portion: int = 0, num_portions: int = 1) -> Iterator[tuple[int, bytes | None]]:
    """Yield every num_portions-th image of a tar, starting at image `portion`, with its place among the images.

    tar: one of those that `expand_tars` returns. The image is None if it, or all that follows damage, cannot be read.
    Raises SourceError if the tar cannot be opened or read to its end, or if its command fails.
    """
    opened: AbstractContextManager[BinaryIO]
    try:
        if is_stream(tar):
            opened = _piped(tar)
        else:
            root = common_root([tar])
            opened = open_to_read(root).open(tar.removeprefix(root))
        with opened as file:
            yield from _images(file, portion, num_portions)
    except OSError as error:
        name = tar
        fix = "restore it or correct its permissions"
        if is_stream(tar):
            fix = "run the command by hand to see why, and correct it"
        elif is_remote(tar):
            name = tar.partition("?")[0]
            fix = "check your credentials and the network"
        reason = error.strerror or error
        raise SourceError(f"{name} cannot be read ({reason}); {fix}, then continue with --resume") from error


@contextmanager
def _piped(command: str) -> Iterator[BinaryIO]:
    """Open the output of a command; raises OSError if it fails, which may show only once all output has been read."""
    pipe: Any = gopen(command, "rb")
    try:
        yield pipe.stream
        while pipe.stream.read(1 << 20):
            pass
        pipe.close()
    except OSError as error:
        raise OSError(errno.EIO, f"exit code {pipe.proc.wait()}", command) from error
    finally:
        pipe.proc.kill()  # otherwise closing would wait for a command that is still running
        with suppress(OSError):
            pipe.close()


def _images(file: BinaryIO, portion: int, num_portions: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield every k-th image of a tar with its place among the images; None if it, or what follows, is unreadable."""
    index = 0
    # tarfile raises ValueError for a malformed number in an extended header.
    with suppress(tarfile.TarError, ValueError), tarfile.open(fileobj=file, mode="r|*", encoding="utf-8") as tar:
        while (header := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # otherwise the headers of a large tar fill memory
            # As in an index, a link counts as an image, but as one that cannot be read.
            is_hidden = os.path.basename(header.name).startswith(".")
            is_file_or_link = header.isreg() or header.issym() or header.islnk()
            if is_hidden or not is_file_or_link or not is_image_name(header.name):
                continue
            if index % num_portions == portion:
                data = None
                if header.isreg() and not header.issparse():
                    member = tar.extractfile(header)
                    assert member is not None
                    data = member.read()
                yield index, data
            index += 1
        if _ends_in_zeros(tar):
            return
    yield index, None


def _ends_in_zeros(tar: tarfile.TarFile) -> bool:
    """Return whether the list of members ended where the tar ends: tarfile stops silently at a damaged header."""
    rest: Any = tar.fileobj
    block = rest.read(tarfile.BLOCKSIZE)  # the second of the two that end a tar
    if len(block) < tarfile.BLOCKSIZE:
        return False
    while block and not block.strip(b"\0"):
        block = rest.read(1 << 20)
    return not block
