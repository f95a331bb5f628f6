"""`--decode`: a store says how its large JPEGs were decoded, and all that reads them decodes them in that way."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tcae_cli.images import batch as image_batch
from tcae_cli.jobs.decode import decode_store
from tcae_cli.jobs.evaluate import evaluate
from tcae_cli.reports.decode import DecodeRequest
from tcae_cli.reports.evaluation import EvalRequest
from tcae_cli.reports.progress import Silent

from ..pictures import photograph
from ..store_contents import arrays_of, assert_same_store, attributes_of, refused
from .test_verify import verify

NUM_ROWS = 20  # two shards
SIZE = (303, 405)  # of each photograph: at 64 pixels, drafts have half of it


@pytest.fixture(scope="session")
def large(tmp_path_factory) -> Path:
    """Twenty photographs, JPEG, a little different in size."""
    folder = tmp_path_factory.mktemp("large")
    for number in range(NUM_ROWS):
        photograph(SIZE[0] + number, SIZE[1], first=number).save(folder / f"{number:02d}.jpg", quality=92)
    return folder


@pytest.fixture(scope="session")
def stores(large, encode, tmp_path_factory) -> dict[str, Path]:
    """A whole store of each kind."""
    folder = tmp_path_factory.mktemp("stores")
    for decode in ("draft", "full"):
        encode(large, folder / decode, decode=decode)
    return {decode: folder / decode for decode in ("draft", "full")}


@pytest.fixture
def least_sides(monkeypatch) -> set[int]:
    """The least short sides that images of 3,000 x 4,000 pixels would have been decoded at."""
    asked = set()
    decode = image_batch.decode_scaled
    monkeypatch.setattr(
        image_batch, "decode_scaled", lambda data, least: (asked.add(least(3000, 4000)), decode(data, least))[1]
    )
    return asked


def test_a_new_store_is_of_drafts_and_says_so(large, stores, tmp_path, encode):
    encode(large, tmp_path / "new.zarr")
    assert attributes_of(tmp_path / "new.zarr")["transform"] == {"resize": "torch", "decode": "draft"}
    assert attributes_of(stores["full"])["transform"] == {"resize": "torch", "decode": "full"}
    assert_same_store(tmp_path / "new.zarr", stores["draft"])


def test_drafts_differ_from_full_images_in_their_latents_and_little(stores):
    draft, full = (arrays_of(stores[decode]) for decode in ("draft", "full"))
    distance = np.abs(draft["latents"].astype(float) - full["latents"])
    assert 0 < distance.mean() < 0.02 * full["latents"].astype(float).std()
    for name in ("original_size", "crop", "content_hash", "keys"):
        assert (draft[name] == full[name]).all(), name
    assert draft["original_size"].tolist() == [[SIZE[0] + number, SIZE[1]] for number in range(NUM_ROWS)]


@pytest.mark.parametrize(("begun", "asked"), [("draft", "full"), ("full", "draft")])
def test_another_way_to_decode_is_refused(large, stores, encode, begun, asked):
    assert refused(encode, large, stores[begun], decode=asked) == (
        f"{stores[begun]} cannot be continued: it was made with --decode {begun}, not {asked}; "
        f"repeat the command it was made with, or encode into another store"
    )


@pytest.mark.parametrize("begun", ["draft", "full"])
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_without_the_option_a_store_is_continued_as_it_was_begun(
    large, stores, tmp_path, encode, encode_as_ranks, begun, num_ranks
):
    encode(large, tmp_path / "store.zarr", decode=begun, num_parts=2, part=0)
    reports = encode_as_ranks(num_ranks, large, tmp_path / "store.zarr", num_parts=2, part=1)
    assert sum(report.num_encoded_now for report in reports) > 0
    assert_same_store(tmp_path / "store.zarr", stores[begun])


def test_rows_are_appended_as_the_store_was_begun(large, stores, tmp_path, encode):
    source = shutil.copytree(large, tmp_path / "photos")
    (source / "19.jpg").unlink()
    encode(source, tmp_path / "store.zarr", decode="full")
    shutil.copy(large / "19.jpg", source)
    encode(source, tmp_path / "store.zarr", append=True)
    latents = [arrays_of(path)["latents"][19] for path in (tmp_path / "store.zarr", stores["full"], stores["draft"])]
    assert np.array_equal(latents[0], latents[1]) and not np.array_equal(latents[0], latents[2])


def test_a_part_that_asks_for_another_way_than_the_first_is_refused(large, tmp_path, encode):
    encode(large, tmp_path / "store.zarr", num_parts=2, part=0)
    said = refused(encode, large, tmp_path / "store.zarr", num_parts=2, part=1, decode="full")
    assert "it was made with --decode draft, not full" in said


def test_of_several_views_the_largest_decides(large, stores, tmp_path, encode):
    encode(large, tmp_path / "store.zarr", sizes=(64, 128))  # 128 needs more than half of each photograph
    assert np.array_equal(arrays_of(tmp_path / "store.zarr")["latents"], arrays_of(stores["full"])["latents"])


def test_adm_crops_are_of_full_images(large, tmp_path, encode):
    encode(large, tmp_path / "store.zarr", resize="adm")
    encode(large, tmp_path / "full.zarr", resize="adm", decode="full")
    assert attributes_of(tmp_path / "store.zarr")["transform"] == {"resize": "adm", "decode": "full"}
    assert_same_store(tmp_path / "store.zarr", tmp_path / "full.zarr")


def test_drafts_for_adm_crops_are_wrong_use(large, tmp_path, tcae):
    code, _, stderr = tcae("encode-dataset", large, tmp_path / "store.zarr", "--resize", "adm", "--decode", "draft")
    assert code == 2
    assert "--resize adm always decodes images in full; omit --decode draft, or use --resize torch\n" in stderr
    assert not (tmp_path / "store.zarr").exists()


@pytest.mark.parametrize(("decode", "least_side"), [("draft", 128), ("full", 3000)])
def test_what_encodes_or_shows_a_stores_images_decodes_them_as_the_store_does(
    large, tmp_path, encode, least_sides, decode, least_side
):
    encode(large, tmp_path / "store.zarr", decode=decode, dtype="int8")  # with a sample to find the scales
    verify(tmp_path / "store.zarr", 4, picture=tmp_path / "seen.png")
    decode_store(DecodeRequest(store=str(tmp_path / "store.zarr"), out_dir=tmp_path / "out", grid=4), Silent())
    assert least_sides == {least_side}


def test_latents_encoded_now_for_comparison_are_those_of_a_store_of_drafts(stores, tmp_path):
    report = verify(stores["draft"], NUM_ROWS, picture=tmp_path / "seen.png")
    assert len(report.sample) == NUM_ROWS
    assert all(row["psnr"] == pytest.approx(row["psnr_fresh"], abs=0.01) for row in report.sample)


@pytest.mark.parametrize("of_store", [False, True])
def test_an_evaluation_decodes_in_full(large, stores, small_checkpoint, least_sides, of_store):
    what = {"store": str(stores["draft"])} if of_store else {"models": (str(small_checkpoint),)}
    request = EvalRequest(metrics=("psnr",), data=str(large), num_workers=0, device="cpu", **what)
    evaluate(request, Silent())
    assert least_sides == {3000}
