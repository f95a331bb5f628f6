"""Worker processes need shared memory and open files: where they are lacking, a sentence says so before any starts."""

import resource

import pytest
import torch

from tcae_cli.errors import DeviceError
from tcae_cli.runtime.shared_memory import prepare_for_workers


@pytest.mark.parametrize("reason", ["Permission denied (13)", "No space left on device (28)"])
def test_shared_memory_that_cannot_be_written_is_named_and_encoding_without_workers_works(
    photos, tmp_path, encode, monkeypatch, reason
):
    def refuse(_: int) -> None:
        raise RuntimeError(f"unable to open shared memory object </torch_1_2_3> in read-write mode: {reason}")

    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", refuse)
    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    with pytest.raises(DeviceError, match=r"\(/dev/shm\) cannot be used \(unable .*\); pass --workers 0, or mount it$"):
        encode(photos, tmp_path / "store.zarr", num_workers=1)
    assert encode(photos, tmp_path / "store.zarr", num_workers=0).num_ok == 24


@pytest.fixture
def limits(monkeypatch) -> list[int]:
    """The soft and the hard limit on open files."""
    limits = [24, 100]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: limits.__setitem__(slice(None), wanted))
    return limits


def test_the_limit_on_open_files_is_raised_as_far_as_it_may(limits):
    prepare_for_workers(2)
    assert limits == [96, 100]


def test_a_limit_on_open_files_that_is_too_low_is_named_with_the_one_that_is_enough(limits):
    with pytest.raises(
        DeviceError, match=r"^decoding in 4 processes takes 128 open files, and only 100 .* ulimit -n 128$"
    ):
        prepare_for_workers(4)
    limits[1] = 128
    prepare_for_workers(4)
    assert limits == [128, 128]
