"""The pains, P1 to P15, that users of other caching tools report, and the behaviour of tcae instead."""

import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from tcae_cli import LatentStore, load_autoencoder
from tcae_cli.errors import StoreError
from tcae_cli.jobs.encode import encode_dataset
from tcae_cli.model.tcae import TCAE
from tcae_cli.reports.encode import EncodeReport, EncodeRequest
from tcae_cli.reports.progress import Silent


@pytest.fixture
def encode(small_checkpoint, tmp_path):
    def run(source: Path, store: str = "store.zarr", progress=None, **options) -> EncodeReport:
        settings = {"model": str(small_checkpoint), "device": "cpu", "num_workers": 0, "batch_size": 8} | options
        request = EncodeRequest(source=str(source), store=str(tmp_path / store), **settings)
        return encode_dataset(request, progress or Silent())

    return run


class Interrupting(Silent):
    """Ctrl-C after so many rows."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, count: int = 1, failed: int = 0, note: str = "") -> None:
        self.left -= count
        if self.left <= 0:
            raise KeyboardInterrupt


def test_p1_a_stopped_run_goes_on_and_an_added_image_costs_one_image(many_photos, tmp_path, encode):
    source = shutil.copytree(many_photos, tmp_path / "photos")
    with pytest.raises(KeyboardInterrupt):
        encode(source, progress=Interrupting(100))
    assert 0 < encode(source).num_encoded_now <= 240 - 96 + 16

    shutil.copy(source / "00-0.jpg", source / "new.jpg")
    assert encode(source, append=True).num_encoded_now == 1


def test_p2_a_cache_of_another_encoder_is_not_continued(photos, encode):
    encode(photos)
    with pytest.raises(StoreError, match=r"made with encoder \w{12} .*, not \w{12} \(tcae-tiny\)"):
        encode(photos, model="tcae-tiny", sizes=(64,))


def test_p2_an_edited_image_does_not_keep_its_old_latents_unnoticed(photos, tmp_path, encode):
    source = shutil.copytree(photos, tmp_path / "photos")
    encode(source)
    Image.new("RGB", (96, 72), "red").save(source / "person" / "3.jpg")
    with pytest.raises(StoreError, match=r"1 changed \(person/3\.jpg \([\d,]+ bytes, was [\d,]+\)\)"):
        encode(source)


def test_p3_latents_are_raw_pixels_went_in_from_minus_1_to_1_and_scaling_has_an_exact_inverse(
    tmp_path, encode, small_checkpoint
):
    (tmp_path / "photos").mkdir()
    for name, colour in (("black", 0), ("white", 255)):
        Image.new("RGB", (64, 64), (colour,) * 3).save(tmp_path / "photos" / f"{name}.png")
    encode(tmp_path / "photos", dtype="float32")
    store, model = LatentStore(tmp_path / "store.zarr"), load_autoencoder(str(small_checkpoint))

    pixels = torch.stack([torch.full((3, 64, 64), -1.0), torch.full((3, 64, 64), 1.0)])
    raw = store.latents([0, 1])
    assert np.allclose(raw, model.encode(pixels).numpy(), atol=1e-5)
    assert zarr.open_group(tmp_path / "store.zarr", mode="r").attrs["scaling"] == "none"
    assert np.allclose(store.denormalise(store.normalise(raw)), raw, atol=1e-6)


def test_p4_a_damaged_file_is_named_and_never_read_as_latents(photos, tmp_path, encode):
    encode(photos)
    shard = tmp_path / "store.zarr" / "latents" / "c.0.0.0.0"
    data = bytearray(shard.read_bytes())
    data[40] ^= 0xFF
    shard.write_bytes(data)
    with pytest.raises(StoreError, match=r"c\.0\.0\.0\.0: the latents of row 0 are damaged"):
        LatentStore(tmp_path / "store.zarr").latents([0])


def test_p5_every_image_is_accounted_for(photos, tmp_path, encode):
    source = shutil.copytree(photos, tmp_path / "photos")
    (source / "person" / "3.jpg").write_bytes(b"")
    (source / "thing" / "1.jpg").write_bytes((photos / "thing" / "1.jpg").read_bytes()[:500])
    report = encode(source)

    assert (report.num_rows, report.num_ok, report.num_failed) == (24, 22, 2)
    failures = LatentStore(tmp_path / "store.zarr").failures()
    assert [(failure["path"], failure["stage"]) for failure in failures] == [
        ("person/3.jpg", "decode"),
        ("thing/1.jpg", "decode"),
    ]
    assert (source / "person" / "3.jpg").exists()  # nobody's files are touched


def test_p6_values_that_are_not_finite_are_never_stored(photos, tmp_path, encode, monkeypatch):
    honest = TCAE.encode
    monkeypatch.setattr(TCAE, "encode", lambda self, images: honest(self, images) * float("nan"))
    report = encode(photos)

    assert report.num_failed == 24
    assert "not finite, in float32 either" in report.failures[0].error


def test_p7_a_store_is_no_larger_than_its_latents_and_a_little(many_photos, tmp_path, encode):
    report = encode(many_photos)
    raw_bytes = 240 * 8 * 2 * 2 * 2
    latents_bytes = sum(path.stat().st_size for path in (tmp_path / "store.zarr" / "latents").iterdir())

    assert latents_bytes < raw_bytes + 240 * 32 + 15 * 100 + 4_000  # these latents are tiny; index and codec overhead
    assert report.bytes_on_disk < latents_bytes + 240 * 400 + 120_000


def test_p8_parts_share_the_work_and_no_row_is_done_twice(many_photos, encode):
    reports = [encode(many_photos, num_parts=3, part=part) for part in (2, 0, 1)]

    assert sum(report.num_encoded_now for report in reports) == 240
    assert [report.complete for report in reports] == [False, False, True]


def test_p9_each_row_holds_the_latents_of_the_image_it_names(photos, tmp_path, encode, small_checkpoint):
    encode(photos)
    store, model = LatentStore(tmp_path / "store.zarr"), load_autoencoder(str(small_checkpoint))
    for row, key in enumerate(store.keys(range(24))):
        with Image.open(photos / key) as picture:  # 96 x 72: the short side to 64, the centre of the long
            pixels = np.array(picture.resize((85, 64), Image.Resampling.BICUBIC))[:, 10:74]
        latents = model.encode(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1)
        differences = [np.abs(store.latents([other])[0] - latents[0].numpy()).mean() for other in range(24)]
        assert int(np.argmin(differences)) == row
        assert store.spec.source.class_names[store.labels()[row]] == Path(key).parent.name


def test_p10_a_store_has_few_files_however_many_images(many_photos, tmp_path, encode):
    encode(many_photos)
    store = tmp_path / "store.zarr"
    assert len(list((store / "latents").iterdir())) == 15 + 1  # shards of 16 rows, and the metadata
    assert len([path for path in store.rglob("*") if path.is_file()]) < 240


class Rows(Dataset):
    def __init__(self, store: LatentStore) -> None:
        self.store = store

    def __len__(self) -> int:
        return len(self.store)

    def __getitems__(self, rows: list[int]) -> list[np.ndarray]:
        return list(self.store.latents(rows))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch and Python on fork, in a test that is about fork
@pytest.mark.filterwarnings("ignore:This DataLoader will create 8 worker")
@pytest.mark.parametrize(
    ("start", "num_workers"), [(None, 0), ("fork", 1), ("fork", 8), ("spawn", 1), ("forkserver", 2)]
)
def test_p14_a_store_that_the_parent_has_read_is_read_by_any_workers(photos, tmp_path, encode, start, num_workers):
    encode(photos)
    store = LatentStore(tmp_path / "store.zarr")
    whole = store.latents(range(24))
    assert store.labels().shape == (24,)

    context = multiprocessing.get_context(start) if start else None
    loader = DataLoader(Rows(store), batch_size=4, num_workers=num_workers, multiprocessing_context=context)
    assert np.array_equal(np.concatenate([batch.numpy() for batch in loader]), whole)


def test_p15_equal_names_do_not_collide_and_equal_images_are_found(photos, tmp_path, encode):
    (tmp_path / "photos" / "a").mkdir(parents=True)
    with Image.open(photos / "person" / "0.jpg") as picture:
        picture.save(tmp_path / "photos" / "x.png")
    for name in ("x.jpg", "a/x.jpg"):
        shutil.copy(photos / "person" / "1.jpg", tmp_path / "photos" / name)
    encode(tmp_path / "photos")
    store = LatentStore(tmp_path / "store.zarr")

    assert store.keys(range(3)) == ["a/x.jpg", "x.jpg", "x.png"]
    first, second, third = store.content_hash().tolist()
    assert first == second != third
