"""Stores of compressed tars that were cut short, or changed after they were read."""

from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from ..pictures import write_tar
from .test_verify import verify


@pytest.fixture(params=["tar.gz", "tar.zst"])
def write(request: pytest.FixtureRequest, photos: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes photographs into the tar of a name; the broken ones keep their size."""

    def write_photos(name: str, broken: Collection[int] = ()) -> Path:
        members = {}
        for number, path in enumerate(sorted(photos.rglob("*.jpg"))):
            data = path.read_bytes()
            members[path.relative_to(photos).as_posix()] = bytes(len(data)) if number in broken else data
        return write_tar(tmp_path / f"{name}.{request.param}", members)

    return write_photos


def test_a_tar_that_was_cut_short_is_completed_once_it_is_copied_again(write, tmp_path, encode):
    source = write("s")
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) * 3 // 4])
    store = tmp_path / "store.zarr"
    before = encode(source, store)
    assert before.num_failed == 1 and 10 < before.num_ok < 21
    assert "breaks off inside this member" in before.failures[0].error
    source.write_bytes(whole)
    after = encode(source, store, retry_failed=True, append=True)
    assert (after.num_encoded_now, after.num_ok) == (24 - before.num_ok, 24)
    assert verify(store, source=str(source)).problems == []


def test_images_with_other_bytes_are_named(write, tmp_path, encode):
    source = write("s")
    store = tmp_path / "store.zarr"
    encode(source, store)
    write("s", broken={7})
    report = verify(store, source=str(source))
    assert len(report.problems) == 1 and report.num_compared == 24
    assert "/7.jpg (row 7) has other bytes than when it was encoded" in report.problems[0]
