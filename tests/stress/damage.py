"""Damages files in every way that disks, copies and editors do, and looks at what each reader makes of them."""

import io
import os
import random
import shutil
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import s3fs
import torch

from tcae_cli.cli import _run
from tcae_cli.errors import TcaeError

Reader = Callable[[Any], Any]  # of the file, folder or URI that holds the damage; returns the values that it reads
_TOKENS = (b"0", b"-1", b"9" * 30, b"null", b"true", b"[]", b"{}", b'""', b'"x"', b"1e999", b"../..", b"\0")


def _flip_bits(data: bytearray, draw: random.Random) -> bytes:
    for _ in range(draw.choice((1, 1, 2, 8))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


def _replace(data: bytearray, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    data[start : start + draw.choice((1, 4, 64))] = draw.randbytes(draw.choice((1, 4, 64)))
    return bytes(data)


def _put_a_token(data: bytearray, draw: random.Random) -> bytes:
    """Put something in place of a word or number, as a text editor might."""
    start = draw.randrange(len(data))
    stop = start
    while stop < len(data) and (data[stop : stop + 1].isalnum() or data[stop] in b"._-+"):
        stop += 1
    data[start:stop] = draw.choice(_TOKENS)
    return bytes(data)


def _cut(data: bytearray, draw: random.Random) -> bytes:
    return bytes(data[: draw.randrange(len(data))])


def _lose_a_piece(data: bytearray, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    del data[start : start + draw.choice((1, 16, 512))]
    return bytes(data)


def _append(data: bytearray, draw: random.Random) -> bytes:
    return bytes(data) + draw.randbytes(draw.choice((1, 8, 512)))


def _zero_a_block(data: bytearray, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    data[start:] = bytes(len(data) - start)
    return bytes(data)


def _empty(data: bytearray, draw: random.Random) -> bytes:
    return b""


_CHANGES = (_flip_bits, _flip_bits, _replace, _put_a_token, _cut, _lose_a_piece, _append, _zero_a_block, _empty)


class Files(Protocol):
    """The files that are damaged, by name."""

    where: Any  # what readers are given

    def names(self) -> Sequence[str]: ...
    def read(self, name: str) -> bytes: ...
    def write(self, name: str, data: bytes) -> None: ...
    def remove(self, name: str) -> None: ...
    def make_folder(self, name: str) -> None: ...


@dataclass(frozen=True)
class LocalFiles:
    """One file, or those of a folder."""

    where: Path

    def names(self) -> list[str]:
        if self.where.is_file():
            return ["."]
        return sorted(str(path.relative_to(self.where)) for path in self.where.rglob("*") if path.is_file())

    def read(self, name: str) -> bytes:
        return (self.where / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        if (self.where / name).is_dir():
            shutil.rmtree(self.where / name)
        (self.where / name).write_bytes(data)

    def remove(self, name: str) -> None:
        (self.where / name).unlink()

    def make_folder(self, name: str) -> None:
        (self.where / name).mkdir()


@dataclass(frozen=True)
class Objects:
    """Those of a bucket below a URI."""

    where: str

    def names(self) -> list[str]:
        found = s3fs.S3FileSystem(use_listings_cache=False).find(self.where)
        return sorted(os.path.relpath(f"s3://{path}", self.where) for path in found)

    def read(self, name: str) -> bytes:
        data: bytes = s3fs.S3FileSystem().cat_file(f"{self.where}/{name}")
        return data

    def write(self, name: str, data: bytes) -> None:
        files = s3fs.S3FileSystem(use_listings_cache=False)
        if below := [path for path in files.find(f"{self.where}/{name}") if path.endswith("/inside")]:
            files.rm_file(below[0])
        files.pipe_file(f"{self.where}/{name}", data)

    def remove(self, name: str) -> None:
        s3fs.S3FileSystem().rm_file(f"{self.where}/{name}")

    def make_folder(self, name: str) -> None:
        s3fs.S3FileSystem().pipe_file(f"{self.where}/{name}/inside", b"")


@contextmanager
def damaged(files: Files, name: str, draw: random.Random) -> Iterator[str]:
    """Damage a file, yield how, and put it back."""
    before = files.read(name)
    kind = draw.randrange(len(_CHANGES) + 2)
    if kind < len(_CHANGES):
        change = _CHANGES[kind]
        how = change.__name__.strip("_")
        files.write(name, change(bytearray(before), draw) if before else draw.randbytes(9))
    else:
        how = "a folder in its place" if kind == len(_CHANGES) else "removed"
        files.remove(name)
        if kind == len(_CHANGES):
            files.make_folder(name)
    try:
        yield how
    finally:
        files.write(name, before)


@dataclass
class Fuzz:
    """Damages files in turn, and gathers what readers do wrong."""

    files: Files
    readers: Mapping[str, Reader]
    draw: random.Random
    is_exact: bool  # whether values are right or an error names the place; otherwise only tracebacks are wrong
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._right = {name: _frozen(read(self.files.where)) for name, read in self.readers.items()}

    def run(self, times: int) -> None:
        """Damage a file that is drawn anew, so many times; one that has not been drawn comes first."""
        names = self.files.names()
        left: list[str] = []
        for _ in range(times):
            left = left or self.draw.sample(names, len(names))
            name = left.pop()
            with damaged(self.files, name, self.draw) as how:
                for reader, read in self.readers.items():
                    if words := self._look(reader, read):
                        self.wrong.append(f"{name}, {how}: {reader} {words}")

    def _look(self, name: str, read: Reader) -> str | None:
        """Return what a reader does wrong with the damage; None if nothing."""
        try:
            found = _frozen(read(self.files.where))
        except TcaeError as error:
            sentence = str(error)
            if not sentence or "\n" in sentence or "Traceback" in sentence:
                return f"says {sentence!r}"
            is_named = os.path.basename(self.files.where) in sentence
            return None if is_named or not self.is_exact else f"names no file: {sentence}"
        except Exception as error:  # noqa: BLE001
            trace = traceback.extract_tb(error.__traceback__)
            where = [frame for frame in trace if "tcae_cli" in frame.filename][-1]
            return f"raises {error!r:.200} at {where.filename}:{where.lineno}"
        return "reads other values" if self.is_exact and found != self._right[name] else None


def command(*arguments: Any) -> str:
    """Run a command in this process and return what it prints. Raises TcaeError with its sentence if it fails."""
    out, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(errors), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        exit_code = _run([str(each) for each in arguments])
    if exit_code:
        said = [line for line in errors.getvalue().splitlines() if line.startswith("Error: ")]
        raise TcaeError(" ".join(said) or out.getvalue().replace("\n", "; "))
    return out.getvalue()


def _frozen(value: Any) -> Any:
    """Return a value as one that == compares."""
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tolist() if value.dtype == object else value.tobytes()
    if isinstance(value, Mapping):
        return {key: _frozen(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_frozen(each) for each in value]
    return value
