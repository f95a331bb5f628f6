"""How fast a trainer gets its batches: a store against other ways to keep the same rows, in the same run.

Warm: batches of 256, shuffled; an epoch is timed in each way, in turn, until the best of each has stood for some
rounds, and that counts: other work on the machine only ever adds time. Worker processes live on from epoch to epoch;
that they fill an empty queue again is in the time. Nothing reads the batches.

Cold: posix_fadvise asks the kernel to drop the files' pages, then one epoch, with workers, from opening the files on,
the start of workers and the listing of folders included; what was read from disks meanwhile says whether it was so. The
disk of a virtual machine may have a cache of its own.
"""

import gc
import json
import os
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler
from torchvision.datasets import DatasetFolder

from tcae_cli import LatentDataset, LatentStream

from .conftest import NUM_ROWS, Kept

BATCH_SIZE = 256
NUM_ROUNDS, MOST_ROUNDS = 3, 10  # without a better time, and at most
NUM_WORKERS, COLD_ROUNDS = 2, 2


class MappedArray(Dataset):
    """A .npy file mapped into memory, normalised; a batch is indexed at once."""

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / "index.json").read_text())
        self.array, self.labels = np.load(folder / "latents.npy", mmap_mode="r"), np.array(index["labels"])
        statistics = index["statistics"]
        self.mean, self.std = (torch.tensor(statistics[f"channel_{name}"])[:, None, None] for name in ("mean", "std"))

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        latents = torch.from_numpy(self.array[indices]).float().sub_(self.mean).div_(self.std)
        return latents, torch.from_numpy(self.labels[indices])

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        return list(zip(*self[indices], strict=True))


class SafetensorsFolder(Dataset):
    """What LightningDiT's loader does for each sample: open the file, take a slice, mirrored or not, normalise it."""

    def __init__(self, folder: Path) -> None:
        self.places = []
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt", device="cpu") as file:
                count = file.get_slice("labels").get_shape()[0]
            self.places += [(path, number) for number in range(count)]
        statistics = torch.load(folder / "latents_stats.pt")
        self.mean, self.std = statistics["mean"], statistics["std"]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        path, number = self.places[index]
        with safe_open(path, framework="pt", device="cpu") as file:
            latents = file.get_slice(random.choice(("latents", "latents_flip")))[number : number + 1]
            label = file.get_slice("labels")[number : number + 1]
        return ((latents - self.mean) / self.std).squeeze(0), label.squeeze(0)


Epoch = Callable[[], Iterable[Any]]  # gives the batches of one


def samples(dataset: Dataset, num_workers: int) -> Epoch:
    """The ordinary way: a DataLoader collates the samples of a batch."""
    return loaded(dataset, num_workers, batch_size=BATCH_SIZE, shuffle=True, drop_last=True)


def whole(dataset: Dataset, num_workers: int) -> Epoch:
    """A DataLoader of batches that the dataset makes."""
    return loaded(dataset, num_workers, batch_size=None, sampler=shuffled(dataset))


def loaded(dataset: Dataset, num_workers: int, **options: Any) -> Epoch:
    loader = DataLoader(dataset, num_workers=num_workers, persistent_workers=num_workers > 0, **options)
    return partial(iter, loader)


def threads(dataset: LatentDataset, num_threads: int) -> Epoch:
    return lambda: dataset.batches(shuffled(dataset), num_threads)


def shuffled(dataset: Dataset) -> BatchSampler:
    return BatchSampler(RandomSampler(dataset), BATCH_SIZE, drop_last=True)


def streamed(store: Path, num_workers: int) -> Epoch:
    return loaded(LatentStream(store, batch_size=BATCH_SIZE), num_workers, batch_size=None)


Way = Callable[[Kept, int], Epoch]  # of so many workers, or threads

MAP, ZSTD, NONE, FILES = "memory map", "LatentDataset zstd", "LatentDataset none", ".npy files"
WAYS: dict[str, Way] = {
    MAP: lambda kept, count: samples(MappedArray(kept.npy), count),
    f"{MAP}, whole batches": lambda kept, count: whole(MappedArray(kept.npy), count),
    ZSTD: lambda kept, count: samples(LatentDataset(kept.zstd), count),
    f"{ZSTD}, whole batches": lambda kept, count: whole(LatentDataset(kept.zstd), count),
    NONE: lambda kept, count: samples(LatentDataset(kept.none), count),
    f"{NONE}, whole batches": lambda kept, count: whole(LatentDataset(kept.none), count),
    f"{NONE}, in_memory": lambda kept, count: samples(LatentDataset(kept.none, in_memory=True), count),
    f"{ZSTD}, batches()": lambda kept, count: threads(LatentDataset(kept.zstd), count),
    f"{NONE}, batches()": lambda kept, count: threads(LatentDataset(kept.none), count),
    "LatentStream zstd": lambda kept, count: streamed(kept.zstd, count),
    "LatentStream none": lambda kept, count: streamed(kept.none, count),
    FILES: lambda kept, count: samples(DatasetFolder(str(kept.dc_ae), np.load, (".npy",)), count),
    "safetensors": lambda kept, count: samples(SafetensorsFolder(kept.lightningdit), count),
}
COLD = [name for name in WAYS if "whole" not in name and "memory" not in name.removeprefix(MAP)]


def epoch_seconds(epoch: Epoch) -> float:
    started = time.perf_counter()
    num_batches = sum(1 for _ in epoch())
    seconds = time.perf_counter() - started
    assert num_batches == NUM_ROWS // BATCH_SIZE
    return seconds


def is_settled(all_seconds: Iterable[list[float]]) -> bool:
    """Whether each has had its best for some rounds, within 2 %."""
    best = [(min(seconds), min(seconds[:-NUM_ROUNDS], default=inf)) for seconds in all_seconds]
    num_rounds = max(map(len, all_seconds), default=0)
    return num_rounds >= MOST_ROUNDS or (num_rounds > 0 and all(before <= 1.02 * now for now, before in best))


def measure_warm(kept: Kept) -> dict[tuple[str, int], float]:
    """Images a second by way and number of workers, of files that are in the page cache."""
    pairs = [(name, count) for name in WAYS for count in (0, NUM_WORKERS) if count or "batches()" not in name]
    epochs = {(name, count): WAYS[name](kept, count) for name, count in pairs}
    for epoch in epochs.values():
        epoch_seconds(epoch)  # workers start, indexes are read
    seconds: dict[tuple[str, int], list[float]] = defaultdict(list)
    while not is_settled(seconds.values()):
        for pair, epoch in epochs.items():
            seconds[pair].append(epoch_seconds(epoch))
    return {pair: NUM_ROWS / min(times) for pair, times in seconds.items()}


def measure_cold(kept: Kept) -> dict[str, tuple[float, float]]:
    """Images a second and MB read from the disk, with workers, from opening the files to the end of the first epoch."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(COLD_ROUNDS):
        for name in COLD:
            forget_files(kept.folder)
            started, read = time.perf_counter(), megabytes_read()
            epoch_seconds(WAYS[name](kept, NUM_WORKERS))
            found[name].append((NUM_ROWS / (time.perf_counter() - started), megabytes_read() - read))
    return {name: max(figures) for name, figures in found.items()}


def forget_files(folder: Path) -> None:
    """Ask the kernel to drop their pages; what some process has mapped stays."""
    gc.collect()  # closes maps and workers of the way before
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def megabytes_read() -> float:
    """From disks, by all processes of this machine."""
    pages = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return int(pages["pgpgin"]) * 1024 / 1e6  # counted in KiB


@pytest.fixture(scope="module")
def rates(kept) -> dict[tuple[str, int], float]:
    return measure_warm(kept)


@pytest.fixture(scope="module")
def cold(kept) -> dict[str, tuple[float, float]]:
    return measure_cold(kept)


def test_a_table_of_all_ways(cold, rates, show):
    """Cold first: what the workers of warm loaders have mapped cannot be dropped."""

    def against_map(rate: float, map_rate: float) -> str:
        return f"{rate:8,.0f} {rate / map_rate:5.2f}"

    show(f"images/s, and times a memory map{'0 workers':>20}{f'{NUM_WORKERS} workers':>16}{'cold, read':>26}")
    for name in WAYS:
        figures = [against_map(rates[name, n], rates[MAP, n]) if (name, n) in rates else "" for n in (0, NUM_WORKERS)]
        figures.append(f"{against_map(cold[name][0], cold[MAP][0])} {cold[name][1]:6,.0f} MB" if name in cold else "")
        show("{:<36}{:>16}{:>16}{:>26}".format(name, *figures))
    assert all(rate > 0 for rate in rates.values())


@pytest.mark.parametrize(("name", "least"), [(ZSTD, 0.5), (NONE, 0.9)])
def test_2_workers_give_nearly_what_a_memory_map_gives(rates, show, name, least):
    """Both in whole batches, which is the faster way to read either."""
    share = rates[f"{name}, whole batches", NUM_WORKERS] / rates[f"{MAP}, whole batches", NUM_WORKERS]
    show(f"{name}, {NUM_WORKERS} workers, whole batches: {share:.2f} of a memory map with as many (at least {least})")
    assert share >= least


@pytest.mark.parametrize("is_cold", [False, True], ids=["warm", "cold"])
def test_2_threads_give_5_times_what_a_file_for_each_image_gives_and_more_than_a_memory_map(rates, cold, show, is_cold):
    """Uncompressed, against 2 workers: they move tensors between processes, which alone costs more than all of this."""
    rate_of = {name: cold[name][0] if is_cold else rates[name, NUM_WORKERS] for name in COLD}
    ours, files, mapped = (rate_of[name] for name in (f"{NONE}, batches()", FILES, MAP))
    when = "cold" if is_cold else "warm"
    show(f"{NONE}, batches(), {when}: {ours / files:.1f} times {FILES} (at least 5), {ours / mapped:.2f} of {MAP}")
    assert ours >= 5 * files and ours > mapped


def test_2_threads_that_decompress_give_twice_what_a_file_for_each_image_gives(rates, show):
    """Not 5 times: that would leave two cores 22 us a row, and zstd's decompression alone takes 26."""
    times = rates[f"{ZSTD}, batches()", NUM_WORKERS] / rates[FILES, NUM_WORKERS]
    show(f"{ZSTD}, batches(): {times:.1f} times {FILES} (at least 2)")
    assert times >= 2
