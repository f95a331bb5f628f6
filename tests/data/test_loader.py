"""Batches of pixels: in order, padded, the same from any number of workers, whatever the files are."""

import multiprocessing
from hashlib import blake2b

import numpy as np
import pytest
import torch

from tcae_cli.data.image_file import decode_image
from tcae_cli.data.loader import ImageBatch, load_batches
from tcae_cli.data.source import open_source
from tcae_cli.data.transform import resize_and_crop

BATCHES = [[2, 0, 1], [5, 3], [4]]
BAD_ROW, GONE_ROW = 3, 4


@pytest.fixture
def source(make_folder, png, tmp_path):
    """Six images, of which one is no image and one went away after indexing."""
    files = {f"{row}.png": png(40 + row, 60, seed=row) for row in range(6)}
    folder = make_folder({**files, f"{BAD_ROW}.png": b"oops"})
    source = open_source(str(folder), tmp_path / "index")
    (folder / f"{GONE_ROW}.png").unlink()
    return source


def load(source, num_workers: int) -> list[ImageBatch]:
    return list(load_batches(source, BATCHES, batch_size=3, size=32, resize="torch", num_workers=num_workers))


def test_batches_come_in_order_and_padded(source):
    first, second, third = load(source, num_workers=0)
    assert [batch.rows for batch in (first, second, third)] == BATCHES
    assert all(batch.images.shape == (3, 3, 32, 32) and batch.images.dtype == torch.uint8 for batch in (first, third))
    assert not second.images[2].any() and not third.images[1:].any()
    assert second.original_sizes.shape == (2, 2) and second.crops.shape == (2, 4)


def test_a_slot_holds_its_row(source):
    batch = load(source, num_workers=0)[0]
    for slot, row in enumerate(BATCHES[0]):
        data = source.read(row)
        expected = resize_and_crop(decode_image(data), 32, "torch")
        assert torch.equal(batch.images[slot], expected.pixels)
        assert tuple(batch.original_sizes[slot]) == (40 + row, 60) and tuple(batch.crops[slot]) == expected.crop
        assert int(batch.content_hashes[slot]).to_bytes(8, "little") == blake2b(data, digest_size=8).digest()
    assert not batch.failures and batch.decode_s > 0


def test_a_bad_image_costs_its_row_and_no_other(source):
    _, second, third = load(source, num_workers=0)
    assert second.failures == {BAD_ROW: ("decode", "not an image that can be read (4 bytes)")}
    assert not second.images[1].any() and second.images[0].any()
    assert second.content_hashes[1] != 0  # it was read
    assert third.failures == {GONE_ROW: ("read", "No such file or directory")}
    assert third.content_hashes[0] == 0


def test_workers_give_the_same_batches_and_are_gone_afterwards(source):
    for here, there in zip(load(source, num_workers=0), load(source, num_workers=2), strict=True):
        assert here.rows == there.rows and here.failures == there.failures
        assert torch.equal(here.images, there.images)
        for name in ("original_sizes", "crops", "content_hashes"):
            assert np.array_equal(getattr(here, name), getattr(there, name))
    assert multiprocessing.active_children() == []


def test_workers_are_gone_when_the_iterator_is_closed_early(source):
    batches = load_batches(source, BATCHES * 20, batch_size=3, size=32, resize="torch", num_workers=2)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []
