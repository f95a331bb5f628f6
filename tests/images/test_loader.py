"""Batches of pixels: in order, padded, with holes, the same from any number of workers, whatever the files are."""

import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import blake2b
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from select import PIPE_BUF

import numpy as np
import pytest
import torch

from tcae_cli.errors import ImageError, SourceError
from tcae_cli.images import batch as image_batch
from tcae_cli.images.batch import Decoder
from tcae_cli.images.image_file import decode_image
from tcae_cli.images.loader import BatchRows, ImageBatch, Reading, load_batches, load_rows
from tcae_cli.images.transform import Transform, resize_and_crop
from tcae_cli.images.watchdog import RowNotes
from tcae_cli.reports.failure import Failure
from tcae_cli.sources.scan import open_source

BATCHES = [BatchRows(range(0, 3)), BatchRows(range(3, 5)), BatchRows(range(5, 8), (5, 7))]
BAD_ROW, GONE_ROW = 3, 4


@pytest.fixture
def source(make_folder, png, tmp_path):
    """Eight images, of which one is no image and one went away after indexing."""
    files = {f"{row}.png": png(40 + row, 60, seed=row) for row in range(8)}
    folder = make_folder({**files, f"{BAD_ROW}.png": b"oops"})
    source = open_source(str(folder), tmp_path / "index")
    (folder / f"{GONE_ROW}.png").unlink()
    return source


def load(source, num_workers: int, sizes=(32,), batches=BATCHES) -> list[ImageBatch]:
    transform = Transform(tuple((size, size) for size in sizes), "torch")
    return list(load_batches(source, batches, transform, Reading(3, num_workers)))


def test_batches_come_in_order_and_padded(source):
    first, second, third = load(source, num_workers=0)
    assert [batch.rows for batch in (first, second, third)] == [batch.rows for batch in BATCHES]
    for batch in (first, second, third):
        assert batch.images[0].shape == (3, 3, 32, 32) and batch.images[0].dtype == torch.uint8
    assert not second.images[0][2].any()
    assert second.original_sizes.shape == (2, 2) and second.crops[0].shape == (2, 4)


def test_a_slot_holds_its_row(source):
    batch = load(source, num_workers=0)[0]
    for slot, row in enumerate(batch.rows):
        data = source.read(row)
        expected = resize_and_crop(decode_image(data), (32, 32), "torch")
        assert torch.equal(batch.images[0][slot], expected.pixels)
        assert tuple(batch.original_sizes[slot]) == (40 + row, 60) and tuple(batch.crops[0][slot]) == expected.crop
        assert int(batch.content_hashes[slot]).to_bytes(8, "little") == blake2b(data, digest_size=8).digest()
    assert not batch.failures and batch.decode_s > 0


def test_rows_not_asked_for_leave_their_slots_zero(source):
    with_hole = load(source, num_workers=0)[2]
    whole = load(source, num_workers=0, batches=[BatchRows(range(5, 8))])[0]
    assert with_hole.rows == whole.rows and with_hole.todo == [5, 7] and with_hole.slots() == [0, 2]
    assert torch.equal(with_hole.images[0][[0, 2]], whole.images[0][[0, 2]]) and not with_hole.images[0][1].any()
    assert with_hole.content_hashes[1] == 0 and not with_hole.crops[0][1].any() and not with_hole.failures


def test_a_batch_of_which_nothing_is_asked_is_zero(source):
    (batch,) = load(source, num_workers=0, batches=[BatchRows(range(0, 3), ())])
    assert batch.todo == [] and batch.slots() == [] and not batch.images[0].any() and not batch.failures


def test_every_size_comes_from_one_decode(source, monkeypatch):
    decoded = []
    decode = image_batch.decode_scaled
    monkeypatch.setattr(image_batch, "decode_scaled", lambda data, least: decoded.append(data) or decode(data, least))
    batch = load(source, num_workers=0, sizes=(32, 16), batches=BATCHES[:1])[0]
    assert len(decoded) == 3
    for images, crops, size in zip(batch.images, batch.crops, (32, 16), strict=True):
        alone = load(source, num_workers=0, sizes=(size,), batches=BATCHES[:1])[0]
        assert torch.equal(images, alone.images[0]) and np.array_equal(crops, alone.crops[0])


def test_a_bad_image_costs_its_row_and_no_other(source):
    _, second, third = load(source, num_workers=0)
    assert second.failures == {
        BAD_ROW: Failure(BAD_ROW, source.key(BAD_ROW), "decode", "not an image that can be read (4 bytes)"),
        GONE_ROW: Failure(GONE_ROW, source.key(GONE_ROW), "read", "No such file or directory"),
    }
    assert not second.images[0].any() and second.content_hashes[1] == 0
    assert second.content_hashes[0] != 0  # it was read
    assert third.images[0][0].any() and not third.failures


def test_a_long_error_is_cut_and_in_any_script(source, monkeypatch):
    def fail(data: bytes, least_side: object):
        raise ImageError("decode", "é" * 2000 + "\udcff")

    monkeypatch.setattr(image_batch, "decode_scaled", fail)
    batch = load(source, num_workers=0, batches=BATCHES[:1])[0]
    assert batch.failures[0] == Failure(0, source.key(0), "decode", "é" * 500)


def test_workers_give_the_same_batches_and_are_gone_afterwards(source):
    sizes = (32, 16)
    for here, there in zip(load(source, 0, sizes), load(source, 2, sizes), strict=True):
        assert here.rows == there.rows and here.todo == there.todo and here.failures == there.failures
        for ours, theirs in zip(here.images + here.crops, there.images + there.crops, strict=True):
            assert np.array_equal(ours, theirs)
        assert np.array_equal(here.original_sizes, there.original_sizes)
        assert np.array_equal(here.content_hashes, there.content_hashes)
    assert multiprocessing.active_children() == []


def test_workers_are_gone_when_the_iterator_is_closed_early(source):
    batches = load_batches(source, BATCHES * 20, Transform.square(32, "torch"), Reading(3, num_workers=2))
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert multiprocessing.active_children() == []


def test_workers_draw_nothing_from_the_random_numbers_of_the_run(source):
    before = torch.get_rng_state()
    load(source, num_workers=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_error_of_the_program_in_a_worker_is_raised_as_it_is(source):
    with pytest.raises(IndexError, match="Caught IndexError in DataLoader worker process 0"):
        load(source, num_workers=1, batches=[BatchRows(range(7, 10))])
    assert multiprocessing.active_children() == []


def test_batches_that_cannot_be_told_end_the_run_with_their_own_error(source):
    def broken():
        yield BATCHES[0]
        raise SourceError("the list of batches ends here")

    with pytest.raises(SourceError, match="the list of batches ends here"):
        load(source, num_workers=1, batches=broken())
    assert multiprocessing.active_children() == []


def test_rows_in_any_order_are_loaded_in_this_process(source):
    [pixels], hashes, failures = load_rows(source, [6, BAD_ROW, 1], Transform.square(32, "torch"))
    whole = load(source, num_workers=0, batches=[BatchRows(range(0, 3)), BatchRows(range(6, 8))])
    assert torch.equal(pixels[0], whole[1].images[0][0]) and torch.equal(pixels[2], whole[0].images[0][1])
    assert pixels.shape == (3, 3, 32, 32) and not pixels[1].any()
    assert hashes[0] == whole[1].content_hashes[0] and hashes[2] == whole[0].content_hashes[1]
    reason = "not an image that can be read (4 bytes)"
    assert failures == {BAD_ROW: Failure(BAD_ROW, source.key(BAD_ROW), "decode", reason)}


def test_batches_are_taken_only_a_few_ahead(source):
    taken = 0

    def endless() -> Iterator[BatchRows]:
        nonlocal taken
        while True:
            taken += 1
            yield BATCHES[0]

    batches = load_batches(source, endless(), Transform.square(32, "torch"), Reading(3, num_workers=1))
    for _ in range(20):
        next(batches)
    batches.close()
    assert 20 <= taken <= 24


def test_a_batch_from_a_worker_is_one_write_into_the_pipe_however_many_rows_fail(source, monkeypatch):
    def fail(data: bytes, least_side: object):
        raise ImageError("decode", "damaged" * 1000)

    monkeypatch.setattr(image_batch, "decode_scaled", fail)
    decoder = Decoder(source, 8, Transform(((16, 16), (32, 32), (64, 64)), "torch"), RowNotes(1))
    decoded = decoder[BatchRows(range(8))]
    assert len(ForkingPickler.dumps(decoded)) < PIPE_BUF


PARENT = """
import sys
from pathlib import Path
from tcae_cli.images.loader import BatchRows, Reading, load_batches
from tcae_cli.images.transform import Transform
from tcae_cli.sources.source import Source
import multiprocessing

source = Source(Path(sys.argv[1]))
batches = [BatchRows(range(3))] * 1000
loaded = load_batches(source, batches, Transform.square(32, "torch"), Reading(3, num_workers=2))
next(loaded)
print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
sys.stdin.read()
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_parent_killed_with_kill_9_leaves_no_worker(source):
    command = [sys.executable, "-c", PARENT, str(source.index_dir)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **pipes, text=True) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2 and all(map(is_running, pids))
        parent.kill()
    deadline = time.monotonic() + 10
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, pids))
