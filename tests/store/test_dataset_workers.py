"""Worker processes, threads and ranks that read one LatentDataset; none hangs after its parent has read (P14)."""

import subprocess
import sys
import threading
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, SequentialSampler

from tcae_cli import LatentDataset

from .test_dataset import int8_with_flip

NUM_EPOCHS = 100
TIME_LIMIT_S = 120  # a hang fails; without one each takes seconds

SCRIPT = """
import itertools, os, signal, sys

import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from tcae_cli import LatentDataset


def read_in_the_parent(dataset):
    # With threads of OpenMP, threads that are still reading, and open files.
    torch.set_num_threads(2)
    torch.ones(2**20).add_(1)
    for _ in range(3):
        dataset[range(len(dataset))]
    batches = dataset.batches(itertools.repeat(range(len(dataset))), prefetch=2)
    next(batches)
    return batches


def epochs(loader, dataset, count):
    expected = sorted(dataset[range(len(dataset))]["key"])
    for _ in range(count):
        keys = []
        for batch in loader:
            assert batch["latents"].isfinite().all()
            keys += batch["key"]
        assert sorted(keys) == expected, keys


def main(path, method, num_workers, num_epochs, in_memory):
    dataset = LatentDataset(path, fields=("latents", "label", "key"), in_memory=in_memory)
    reading = read_in_the_parent(dataset)
    loader = DataLoader(
        dataset, 8, shuffle=True, num_workers=num_workers, persistent_workers=True, multiprocessing_context=method
    )
    epochs(loader, dataset, num_epochs)
    next(reading)
    print("every row", num_epochs, "times")


def in_a_bare_fork(path):
    dataset = LatentDataset(path)
    reading = read_in_the_parent(dataset)
    child = os.fork()
    if not child:
        signal.alarm(20)
        dataset[list(range(len(dataset))) * 40]
        os._exit(7)
    assert os.waitpid(child, 0)[1] == 7 << 8
    print("the child has read")


if __name__ == "__main__":
    path, method, num_workers, num_epochs, in_memory = sys.argv[1:]
    if method == "bare fork":
        in_a_bare_fork(path)
    else:
        main(path, method, int(num_workers), int(num_epochs), in_memory == "True")
"""


@pytest.fixture
def run(tmp_path, make_store):
    """Runs the script on a store of 37 rows, for so long at most; gives what it printed."""

    def run_script(method: str, num_workers: int = 0, num_epochs: int = 0, in_memory: bool = False) -> str:
        store, script = make_store(failed={0, 17, 39}), Path(tmp_path / "workers.py")
        script.write_text(SCRIPT)
        command = [sys.executable, script, store, method, str(num_workers), str(num_epochs), str(in_memory)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT_S)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run_script


# A spawned worker inherits nothing that more of them could share, and takes seconds to start.
@pytest.mark.parametrize(("method", "num_workers"), [("fork", 8), ("spawn", 1)])
def test_workers_read_100_epochs_after_the_parent_has_read(run, method, num_workers):
    assert run(method, num_workers, NUM_EPOCHS) == "every row 100 times\n"


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_workers_share_a_store_in_memory(run, method):
    assert run(method, 2, 5, in_memory=True) == "every row 5 times\n"


def test_a_process_forked_by_hand_reads_too(run):
    assert run("bare fork") == "the child has read\n"


def test_workers_draw_different_flips_and_the_same_ones_again(make_store):
    dataset = LatentDataset(make_store(**int8_with_flip()), random_flip=True)

    def one_epoch(seed):
        generator = torch.Generator().manual_seed(seed)
        loader = DataLoader(dataset, 12, num_workers=2, generator=generator)
        return torch.cat([batch["latents"] for batch in loader])

    assert torch.equal(one_epoch(0), one_epoch(0))
    assert not torch.equal(one_epoch(0), one_epoch(1))


def test_both_ways_of_a_dataloader_and_threads_give_the_same_batches(make_store):
    dataset = LatentDataset(make_store(), fields=("latents", "label", "key"))
    batches = BatchSampler(SequentialSampler(dataset), 16, drop_last=False)

    ways = [DataLoader(dataset, 16), DataLoader(dataset, sampler=batches, batch_size=None), dataset.batches(batches)]
    for batch, *others in zip(*ways, strict=True):
        for other in others:
            assert other["key"] == batch["key"] and torch.equal(other["label"], batch["label"])
            assert torch.equal(other["latents"], batch["latents"])


def test_a_worker_makes_its_batches_where_the_trainer_sees_them(make_store):
    dataset = LatentDataset(make_store())
    batches = BatchSampler(SequentialSampler(dataset), 16, drop_last=False)

    loader = DataLoader(dataset, sampler=batches, batch_size=None, num_workers=1, collate_fn=is_shared)
    assert list(loader) == [True] * 3
    assert not is_shared(dataset[[0, 1]])


def is_shared(batch: dict) -> bool:
    return batch["latents"].is_shared()


def test_threads_read_ahead_no_more_than_was_asked_and_end_when_closed(make_store):
    dataset, taken = LatentDataset(make_store()), []

    def indices():
        for number in range(1000):
            taken.append(number)
            yield [number % 40] * 8

    before = threading.active_count()
    batches = dataset.batches(indices(), num_threads=3, prefetch=5)
    for _ in range(10):
        next(batches)
    assert len(taken) == 15 and threading.active_count() > before
    batches.close()
    assert threading.active_count() == before and len(taken) == 15


def test_threads_draw_the_flips_that_the_seed_says_whichever_is_first(make_store):
    dataset = LatentDataset(make_store(**int8_with_flip()), random_flip=True)

    def epoch(num_threads):
        torch.manual_seed(0)
        batches = BatchSampler(RandomSampler(dataset), 2, drop_last=False)
        return torch.cat([batch["latents"] for batch in dataset.batches(batches, num_threads)])

    assert torch.equal(epoch(1), epoch(8))


def test_ranks_share_the_rows_with_torchs_sampler(make_store):
    dataset = LatentDataset(make_store(failed={3}), fields=("latents", "key"))  # 39 rows

    keys = []
    for rank in range(3):
        loader = DataLoader(dataset, 4, sampler=DistributedSampler(dataset, num_replicas=3, rank=rank, seed=1))
        keys.append([key for batch in loader for key in batch["key"]])
    assert [len(of_rank) for of_rank in keys] == [13, 13, 13]
    assert sorted(chain.from_iterable(keys)) == sorted(f"a/{row}.jpg" for row in range(40) if row != 3)
