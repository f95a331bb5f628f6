"""Damages files in every way that disks, copies and editors do, and looks at what each reader makes of them."""

import io
import random
import shutil
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tcae_cli.cli import _run
from tcae_cli.errors import TcaeError

Reader = Callable[[Path], Any]  # of the file or folder that holds the damage; returns the values that it reads
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


@contextmanager
def damaged(file: Path, draw: random.Random) -> Iterator[str]:
    """Damage a file, yield how, and put it back."""
    before = file.read_bytes()
    kind = draw.randrange(len(_CHANGES) + 2)
    if kind < len(_CHANGES):
        change = _CHANGES[kind]
        how = change.__name__.strip("_")
        file.write_bytes(change(bytearray(before), draw) if before else draw.randbytes(9))
    else:
        how = "a folder in its place" if kind == len(_CHANGES) else "removed"
        file.unlink()
        if kind == len(_CHANGES):
            file.mkdir()
    try:
        yield how
    finally:
        if file.is_dir():
            shutil.rmtree(file)
        file.write_bytes(before)


@dataclass
class Fuzz:
    """Damages the files of a folder, or one file, in turn, and gathers what readers do wrong."""

    where: Path
    readers: Mapping[str, Reader]
    draw: random.Random
    is_exact: bool  # whether values are right or an error names the place; otherwise only tracebacks are wrong
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._right = {name: _frozen(read(self.where)) for name, read in self.readers.items()}

    def run(self, times: int) -> None:
        """Damage a file that is drawn anew, so many times; one that has not been drawn comes first."""
        files = [self.where] if self.where.is_file() else sorted(p for p in self.where.rglob("*") if p.is_file())
        left: list[Path] = []
        for _ in range(times):
            left = left or self.draw.sample(files, len(files))
            file = left.pop()
            with damaged(file, self.draw) as how:
                name = file.name if file == self.where else file.relative_to(self.where)
                for reader, read in self.readers.items():
                    if words := self._look(reader, read):
                        self.wrong.append(f"{name}, {how}: {reader} {words}")

    def _look(self, name: str, read: Reader) -> str | None:
        """Return what a reader does wrong with the damage; None if nothing."""
        try:
            found = _frozen(read(self.where))
        except TcaeError as error:
            sentence = str(error)
            if not sentence or "\n" in sentence or "Traceback" in sentence:
                return f"says {sentence!r}"
            return None if self.where.name in sentence or not self.is_exact else f"names no file: {sentence}"
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
