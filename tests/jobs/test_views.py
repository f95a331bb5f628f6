"""Several views of each image, from one decode of it: mirrored, and of more than one size."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tcae_cli.autoencoders.by_name import load_autoencoder
from tcae_cli.errors import UsageError
from tcae_cli.images import batch as image_batch
from tcae_cli.images.transform import to_uint8
from tcae_cli.jobs.decode import decode_store
from tcae_cli.reports.decode import DecodeRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.store.reader import LatentStore

from ..store_contents import arrays_of, failures_of, open_plainly

VIEWS = ["latents", "latents_flip", "latents_96", "latents_96_flip"]


@pytest.fixture
def squares(photos: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The photographs as PNG files of 96 x 96 pixels, and as files that are their mirror images."""
    folders = tmp_path / "squares", tmp_path / "mirrored"
    for path in sorted(photos.rglob("*.jpg")):
        with Image.open(path) as picture:
            square = picture.resize((96, 96))
        for folder, image in zip(folders, (square, square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)), strict=True):
            (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
            image.save(folder / path.parent.name / f"{path.stem}.png")
    return folders


def test_the_mirrored_view_is_what_mirrored_files_give_to_the_bit(squares, tmp_path, encode):
    images, mirrored = squares
    encode(images, tmp_path / "store.zarr", flip=True, sizes=(64, 96))
    encode(mirrored, tmp_path / "mirrored.zarr", flip=True, sizes=(64, 96))

    for view, other in zip(VIEWS, ("latents_flip", "latents", "latents_96_flip", "latents_96"), strict=True):
        latents = LatentStore(tmp_path / "store.zarr", view).latents(range(24))
        assert np.array_equal(latents, LatentStore(tmp_path / "mirrored.zarr", other).latents(range(24))), view
        assert np.isfinite(latents).all()
    one, other = (LatentStore(tmp_path / "store.zarr", view).latents(range(24)) for view in VIEWS[:2])
    assert not np.array_equal(one, other[..., ::-1])  # the mirrored image's latents are not its latents mirrored


def test_two_sizes_give_what_two_stores_of_one_size_give(photos, tmp_path, encode):
    encode(photos, tmp_path / "both.zarr", sizes=(64, 96), flip=True, dtype="float32")
    encode(photos, tmp_path / "64.zarr", sizes=(64,), flip=True, dtype="float32")
    encode(photos, tmp_path / "96.zarr", sizes=(96,), flip=True, dtype="float32")

    both, small, large = (arrays_of(tmp_path / f"{name}.zarr") for name in ("both", "64", "96"))
    assert both["latents"].shape == (24, 8, 2, 2) and both["latents_96"].shape == (24, 8, 3, 3)
    for name, values in both.items():
        if "crop" in name or "latents" in name:
            alone = large[name.replace("_96", "")] if "_96" in name else small[name]
            assert values.dtype == alone.dtype and values.tobytes() == alone.tobytes(), name
    assert {"crop_96", "latents_96_flip", "statistics/latents_96/channel_mean"} <= both.keys()


def test_each_image_is_decoded_once_for_all_its_views(photos, tmp_path, encode, monkeypatch):
    files, decode = [], image_batch.decode_scaled
    monkeypatch.setattr(image_batch, "decode_scaled", lambda data, least: (files.append(data), decode(data, least))[1])
    encode(photos, tmp_path / "store.zarr", sizes=(64, 96), flip=True)

    assert sorted(files) == sorted(path.read_bytes() for path in photos.rglob("*.jpg"))


def test_an_image_that_fails_is_missing_from_every_view(photos, tmp_path, encode):
    source = shutil.copytree(photos, tmp_path / "photos")
    (source / "thing/0.jpg").write_bytes(b"")
    encode(source, tmp_path / "store.zarr", sizes=(64, 96), flip=True)

    assert failures_of(tmp_path / "store.zarr") == [(16, "thing/0.jpg", "decode", "the file is empty")]
    for view in VIEWS:
        assert np.flatnonzero(np.isnan(open_plainly(tmp_path / "store.zarr")[view][:]).all((1, 2, 3))).tolist() == [16]


@pytest.mark.parametrize(("view", "size"), [("latents_flip", 64), ("latents_96", 96), ("latents_96_flip", 96)])
def test_decode_writes_the_images_of_the_view_asked_for(photos, tmp_path, encode, small_checkpoint, view, size):
    encode(photos, tmp_path / "store.zarr", sizes=(64, 96), flip=True)
    request = DecodeRequest(store=str(tmp_path / "store.zarr"), out_dir=tmp_path / "out", view=view, device="cpu")
    assert decode_store(request, Silent()).num_written == 24

    latents = LatentStore(tmp_path / "store.zarr", view).latents([8])
    with torch.inference_mode():
        expected = load_autoencoder(str(small_checkpoint)).decode(torch.from_numpy(latents).float())
    with Image.open(tmp_path / "out" / "person" / "0.jpg.png") as picture:
        pixels = np.array(picture).astype(int)
    assert pixels.shape == (size, size, 3)
    assert np.abs(pixels - to_uint8(expected)[0].permute(1, 2, 0).numpy()).max() <= 1  # batches round otherwise


def test_a_view_the_store_does_not_have_is_named_with_those_it_has(photos, tmp_path, encode):
    encode(photos, tmp_path / "store.zarr", sizes=(64, 96))
    request = DecodeRequest(store=str(tmp_path / "store.zarr"), out_dir=tmp_path / "out", view="latents_flip")
    with pytest.raises(UsageError, match=r"store\.zarr has no view latents_flip; it has latents, latents_96$"):
        decode_store(request, Silent())
