import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from torch import nn

from tcae_cli.autoencoders.by_name import load_autoencoder
from tcae_cli.errors import SourceError
from tcae_cli.jobs.evaluate import evaluate
from tcae_cli.reports.evaluation import EvalRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.sources.scan import open_source
from tcae_cli.training.validation import Validation

from ..small_recipes import recipe

CPU = torch.device("cpu")
SIZE = 64  # of the small recipes' model
GAP = 4  # pixels between the pictures of a grid


class Copying(nn.Module):
    """An autoencoder that returns its input, and remembers it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, images):
        self.seen.append(images)
        return images


class Inverting(nn.Module):
    """An autoencoder that returns negatives."""

    def forward(self, images):
        return -images


class Quadrants(nn.Module):
    """Stands for the Inception with twelve features of uint8 images, the means of their quadrants, instead of 2,048."""

    def forward(self, images):
        assert images.dtype == torch.uint8
        return nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)


def validation(source, inception=None, name="val", settings=None):
    return Validation(source, settings or recipe(), CPU, inception, name)


@pytest.fixture
def numbered(tmp_path):
    """600 images, each in a colour that encodes its number."""
    folder = tmp_path / "numbered"
    folder.mkdir()
    for number in range(600):
        colour = (number % 256, number // 256, 0)
        Image.new("RGB", (SIZE, SIZE), colour).save(folder / f"{number:03d}.png")
    return open_source(str(folder), tmp_path / "index")


@pytest.fixture
def source(photos, tmp_path):
    return open_source(str(photos), tmp_path / "index")


def numbers_seen(model):
    colours = torch.cat(model.seen)[:, :2, 0, 0].add(1).mul(127.5).round().int().tolist()
    return [red + 256 * green for red, green in colours]


def with_bad_files(photos, folder, num_bad):
    for path in sorted(photos.rglob("*.jpg")):
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / path.parent.name / path.name).write_bytes(path.read_bytes())
    for path in sorted(folder.rglob("*.jpg"))[:num_bad]:
        path.write_bytes(b"not an image")
    return folder


def test_figures_are_those_of_tcae_eval(source, photos, small_checkpoint):
    request = EvalRequest(
        data=str(photos), metrics=("psnr", "ssim"), models=(str(small_checkpoint),), num_workers=0, device="cpu"
    )
    expected = evaluate(request, Silent()).evaluations[0].values

    figures = validation(source).figures(load_autoencoder(str(small_checkpoint)))

    assert figures == pytest.approx({"val_psnr": expected["psnr"], "val_ssim": expected["ssim"]}, rel=1e-5)


def test_matrix_products_are_in_the_recipes_precision(source):
    class Product(nn.Module):
        def forward(self, images):
            self.product = images.flatten(1) @ images.flatten(1).T
            return images

    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        model = Product()
        validation(source, settings=recipe(train={"precision": precision})).figures(model)
        assert model.product.dtype == dtype


def test_figures_bear_the_name_of_what_they_are_measured_on(source):
    assert validation(source, name="train").figures(Inverting()).keys() == {"train_psnr", "train_ssim"}


@pytest.mark.parametrize("size", [4, 8])
def test_images_smaller_than_the_window_of_ssim_have_a_psnr_alone(source, size):
    model = {"image_size": size, "patch_size": 2, "downsampling": 4}
    figures = validation(source, settings=recipe(model=model)).figures(Inverting())
    assert figures.keys() == {"val_psnr"}


def test_256_images_spread_evenly_are_seen_and_the_eight_drawn_are_spread_too(numbered, tmp_path):
    model, drawn = Copying(), Copying()
    measured = validation(numbered)

    measured.figures(model)
    measured.draw(drawn, tmp_path / "grid.png")

    numbers = sorted(numbers_seen(model))
    assert len(set(numbers)) == 256 and numbers[0] == 0
    assert set(np.diff([*numbers, 600])) == {2, 3}
    assert np.diff(sorted(numbers_seen(drawn))).tolist() == pytest.approx([600 / 8] * 7, abs=1)


def test_images_are_decoded_once(photos, tmp_path):
    folder = with_bad_files(photos, tmp_path / "photos", num_bad=0)
    measured = validation(open_source(str(folder), tmp_path / "index"))
    before = measured.figures(Inverting())
    for path in folder.rglob("*.jpg"):
        path.unlink()

    assert measured.figures(Inverting()) == before


def test_images_too_large_to_keep_are_read_each_time(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("tcae_cli.training.validation._KEPT_BYTES", 24 * 3 * SIZE**2 - 1)
    folder = with_bad_files(photos, tmp_path / "photos", num_bad=0)
    measured = validation(open_source(str(folder), tmp_path / "index"))
    assert measured.figures(Inverting()) == measured.figures(Inverting())
    for path in folder.rglob("*.jpg"):
        path.unlink()

    with pytest.raises(SourceError, match="none of the 24 images for validation can be read; give oth"):
        measured.figures(Inverting())
    with pytest.raises(SourceError, match="none of the 24 images"):
        measured.draw(Inverting(), tmp_path / "grid.png")


def test_unreadable_images_are_left_out(photos, tmp_path):
    folder = with_bad_files(photos, tmp_path / "photos", num_bad=9)
    model = Copying()
    validation(open_source(str(folder), tmp_path / "index")).figures(model)

    assert sum(map(len, model.seen)) == 15
    assert not any(torch.equal(image, torch.full_like(image, -1)) for image in torch.cat(model.seen))


def test_a_source_of_nothing_readable_is_refused_at_the_start(photos, tmp_path):
    folder = with_bad_files(photos, tmp_path / "photos", num_bad=24)

    with pytest.raises(SourceError) as refused:
        validation(open_source(str(folder), tmp_path / "index"))
    assert str(refused.value) == (f"{folder}: none of the 24 images for validation can be read; give others with --val")


def test_rfid_is_the_frechet_distance_of_originals_and_reconstructions_each_time(source):
    measured, originals = validation(source, Quadrants()), Copying()
    assert measured.figures(originals)["val_rfid"] == pytest.approx(0, abs=1e-6)

    pixels = torch.cat(originals.seen).add(1).mul(127.5).round().to(torch.uint8)
    one, other = (Quadrants()(images).double().numpy() for images in (pixels, 255 - pixels))
    first, second = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    means = np.square(one.mean(0) - other.mean(0)).sum()
    expected = means + np.trace(first + second - 2 * sqrtm(first @ second).real)

    assert expected > 1
    for _ in range(2):
        assert measured.figures(Inverting())["val_rfid"] == pytest.approx(expected, rel=1e-5)


def test_one_image_has_no_rfid(photos, tmp_path):
    folder = with_bad_files(photos, tmp_path / "photos", num_bad=23)
    measured = validation(open_source(str(folder), tmp_path / "index"), Quadrants())

    assert measured.figures(Inverting()).keys() == {"val_psnr", "val_ssim"}


def test_the_picture_shows_eight_originals_above_their_reconstructions(source, tmp_path):
    path = tmp_path / "reconstructions" / "step-0000010.png"
    validation(source).draw(Inverting(), path)

    with Image.open(io.BytesIO(path.read_bytes())) as picture:
        sheet = np.array(picture)
    assert sheet.shape == (GAP + 2 * (SIZE + GAP), GAP + 8 * (SIZE + GAP), 3)
    above, below = sheet[GAP : GAP + SIZE], sheet[SIZE + 2 * GAP : 2 * (SIZE + GAP)]
    for left in range(GAP, sheet.shape[1], SIZE + GAP):
        original, negative = above[:, left : left + SIZE], below[:, left : left + SIZE]
        assert original.std() > 5
        assert (negative == 255 - original).all()
