"""Ranks that encode very many rows, each a process whose memory is watched.

Stand-ins: decoding gives an image of one pixel, once the row's entry in the index was read as reading a file does, and
the encoder gives the same latents for every batch, some of their rows random. The index was written before. All the
rest is as it is: model file, batches, rounding, statistics, compression, shards, commits, the finish and the report.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from tcae_cli.images.batch import Decoded, Decoder
from tcae_cli.jobs import encode as encoding
from tcae_cli.jobs.encoder import Encoded, LatentEncoder
from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.sources.index import write_index
from tcae_cli.sources.listing import Container, Entry, Listing
from tcae_cli.sources.source import Source

CAPTION = "a photograph of two people and a dog on a beach in the evening, with a number"
_LOOK_EVERY_S = 0.02


@dataclass(frozen=True)
class Memory:
    """Resident memory in MB: all of it, the process's own, and mapped files."""

    all: float
    own: float
    files: float

    @classmethod
    def now(cls) -> "Memory":
        status = Path("/proc/self/status").read_text()
        found = dict(re.findall(r"^(\w+):\s+(\d+) kB", status, re.MULTILINE))
        return cls(*(int(found[name]) / 1000 for name in ("VmRSS", "RssAnon", "RssFile")))


class Rank(NamedTuple):
    """What a rank has found."""

    num_rows: int  # its own
    settled: Memory  # after the first so many
    largest: Memory  # from then to the end


def encode_in_ranks(
    num_ranks: int, index: Path, store: Path, model: Path, *, size: int, flip: bool, settled_at: int
) -> list[Rank]:
    """Fill a store, in as many processes; memory has settled after so many rows of a rank."""
    settings = {"index": index, "store": store, "model": model, "size": size, "flip": flip, "settled_at": settled_at}
    command = [sys.executable, __file__, json.dumps(settings, default=str)]
    launch = {**os.environ, "WORLD_SIZE": str(num_ranks), "TORCHELASTIC_RUN_ID": "many"}
    ranks = [
        subprocess.Popen(command, stdout=subprocess.PIPE, env={**launch, "RANK": rank, "LOCAL_RANK": rank}, text=True)
        for rank in map(str, range(num_ranks))
    ]
    found = [json.loads(rank.communicate()[0]) for rank in ranks]
    assert not any(rank.returncode for rank in ranks) and any(each["complete"] for each in found)
    return [Rank(each["num_rows"], Memory(**each["settled"]), Memory(**each["largest"])) for each in found]


class Watch(Silent):
    """Looks at the memory of this process all the time, and counts its rows."""

    def __init__(self, settled_at: int) -> None:
        self._settled_at, self.num_rows = settled_at, 0
        self.settled = self.largest = Memory(0, 0, 0)
        threading.Thread(target=self._look, daemon=True).start()

    def advance(self, count: int = 1, failed: int = 0, note: str = "") -> None:
        self.num_rows += count
        if not self.settled.all and self.num_rows >= self._settled_at:
            self.settled = Memory.now()

    def _look(self) -> None:
        while True:
            now = Memory.now()
            if self.settled.all and now.all > self.largest.all:
                self.largest = now
            time.sleep(_LOOK_EVERY_S)


def write_long_index(index: Path, num_rows: int) -> None:
    """An index of images with captions, in tars of 10,000 that are not there."""
    entries = [
        Entry(
            key=f"{row // 10_000:03d}.tar/{row:09d}.jpg",
            size_bytes=100_000 + row % 1000,
            label=row % 1000,
            caption=f"{CAPTION} {row}",
            container=row // 10_000,
            offset=row * 1024,
        )
        for row in range(num_rows)
    ]
    tars = tuple(Container(f"{number:03d}.tar") for number in range(-(-num_rows // 10_000)))
    write_index(index, Listing("many", "/nowhere/", entries, tuple(map(str, range(1000))), tars, kind="tar"))


def decode_nothing(self: Decoder, rows, slots, num_records: int, read=None) -> Decoded:
    records = np.zeros(num_records, self._record_type())
    for row, slot in zip(rows, slots, strict=True):
        source = self.source
        assert (
            not source.problem(row) and source.key(row) and source._containers[row] >= 0 and source._offsets[row] >= 0
        )
        records[slot]["content_hash"] = source.size_bytes(row)
    self.source.release()
    images = [torch.zeros(self.batch_size, 3, 1, 1, dtype=torch.uint8) for _ in self.transform.shapes]
    return Decoded(images, torch.from_numpy(records.view(np.uint8)), 0.0)


@cache
def some_latents(*shape: int) -> torch.Tensor:
    latents = torch.zeros(shape)
    latents[::8] = torch.randn(latents[::8].shape, generator=torch.Generator().manual_seed(0))
    return latents


def encode_nothing(self: LatentEncoder, batch) -> Encoded:
    num_images, views = len(batch.images[0]), self.spec.views
    latents = {name: some_latents(num_images, *self.spec.sample_shape(name)).clone() for name in views}
    return Encoded(batch, latents, 0.0, 0.0)


def main(settings: dict[str, Any]) -> None:
    Decoder.decode = decode_nothing
    LatentEncoder.__call__ = encode_nothing
    encoding.open_store_source = lambda *_: Source(Path(settings["index"]))
    watch = Watch(settings["settled_at"])
    request = EncodeRequest(
        source="many",
        store=settings["store"],
        model=settings["model"],
        device="cpu",
        num_workers=0,
        sizes=(settings["size"],),
        flip=settings["flip"],
    )
    report = encoding.encode_dataset(request, watch)
    memory = {"settled": asdict(watch.settled), "largest": asdict(watch.largest)}
    print(json.dumps({"num_rows": watch.num_rows, "complete": report.complete, **memory}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
