"""One tar front to back, from a file, a remote store or a command's output, and the patterns that name many.

webdataset's gopen runs the commands of pipe:, but tars are read here: its own reader ends a damaged one quietly.
"""

import errno
import os
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from braceexpand import braceexpand
from webdataset.gopen import gopen

from tcae_cli.errors import SourceError, UsageError
from tcae_cli.runtime.remote import is_remote
from tcae_cli.sources.index import is_image_name
from tcae_cli.sources.storage import Storage, common_root
from tcae_cli.sources.tar import expand_pattern

_PIPE = "pipe:"


def is_stream(uri: str) -> bool:
    """Whether a source can only be read front to back: "pipe:" and a command that writes a tar."""
    return uri.startswith(_PIPE)


def expand_tars(uri: str) -> tuple[str, ...]:
    """The tars that one tar or a brace pattern names: absolute paths of files that exist, URLs, or pipes.

    Raises UsageError or NotFoundError for a pattern that cannot work, SourceError if this is no tar.
    """
    if is_stream(uri):
        try:
            return tuple(braceexpand(uri))
        except ValueError as error:
            raise UsageError(f"{uri} is not a pattern ({error}); write it as pipe:cat {{000..127}}.tar") from error
    suffix = PurePosixPath(uri.partition("?")[0] if is_remote(uri) else uri).suffix.lower()
    if suffix != ".tar" or os.path.isdir(uri):
        raise SourceError(f"{uri} is no tar, and data.shuffle_buffer is for tars; leave it out of the recipe")
    return tuple(expand_pattern(uri))


def read_images(tar: str, part: int = 0, num_parts: int = 1) -> Iterator[tuple[int, bytes | None]]:
    """Every num_parts-th image of a tar, from image `part` on, with its place among the images.

    tar: one of those that `expand_tars` gives. None where an image, or all that follows a damage, cannot be read.
    Raises SourceError if the tar cannot be opened or read any more, or its command fails.
    """
    try:
        with _opened(tar) as file:
            yield from _images(file, part, num_parts)
    except OSError as error:
        raise SourceError(_unreadable(tar, error)) from error


def _opened(tar: str) -> AbstractContextManager[BinaryIO]:
    if is_stream(tar):
        return _piped(tar)
    root = common_root([tar])
    return Storage(root).open(tar.removeprefix(root))


@contextmanager
def _piped(command: str) -> Iterator[BinaryIO]:
    """What a command writes; raises OSError if it fails, which may be known only after all of it has been read."""
    pipe: Any = gopen(command, "rb")
    try:
        yield pipe.stream
        while pipe.stream.read(1 << 20):
            pass
        pipe.close()
    except OSError as error:
        raise OSError(errno.EIO, f"exit code {pipe.proc.wait()}", command) from error
    finally:
        pipe.proc.kill()  # or closing would wait for one that is not done
        with suppress(OSError):
            pipe.close()


def _images(file: BinaryIO, part: int, num_parts: int) -> Iterator[tuple[int, bytes | None]]:
    """Every k-th image of a tar with its place among the images; None where it, or what follows, cannot be read."""
    index = 0
    # ValueError: numbers in extended headers that are none.
    with suppress(tarfile.TarError, ValueError), tarfile.open(fileobj=file, mode="r|*", encoding="utf-8") as tar:
        while (header := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # or the headers of a large tar fill the memory
            if not _is_image(header):
                continue
            if index % num_parts == part:
                yield index, _data(tar, header)
            index += 1
        if _ends_in_zeros(tar):
            return
    yield index, None


def _is_image(header: tarfile.TarInfo) -> bool:
    """As in an index: a link counts, as one that cannot be read."""
    is_hidden = os.path.basename(header.name).startswith(".")
    return is_image_name(header.name) and not is_hidden and (header.isreg() or header.issym() or header.islnk())


def _data(tar: tarfile.TarFile, header: tarfile.TarInfo) -> bytes | None:
    if not header.isreg() or header.issparse():
        return None
    file = tar.extractfile(header)
    assert file is not None
    return file.read()


def _ends_in_zeros(tar: tarfile.TarFile) -> bool:
    """Whether the list of members ended where the tar does: tarfile stops without a word at a damaged header."""
    rest: Any = tar.fileobj
    block = rest.read(tarfile.BLOCKSIZE)  # the second of the two that end a tar
    if len(block) < tarfile.BLOCKSIZE:
        return False
    while block and not block.strip(b"\0"):
        block = rest.read(1 << 20)
    return not block


def _unreadable(tar: str, error: OSError) -> str:
    name, fix = tar, "put it back or correct its permissions"
    if is_stream(tar):
        fix = "run the command by hand to see why, and correct it"
    elif is_remote(tar):
        name, fix = tar.partition("?")[0], "check your credentials and the network"
    return f"{name} cannot be read ({error.strerror or error}); {fix}, then go on with --resume"
