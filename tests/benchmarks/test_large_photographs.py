"""How much faster large photographs are encoded when they are decoded at a smaller scale."""

from pathlib import Path
from statistics import median

import pytest
import torch

from tcae_cli.images.image_file import decode_image, decode_scaled
from tcae_cli.images.transform import Transform, resize_and_crop
from tcae_cli.jobs.encode import encode_dataset
from tcae_cli.metrics.image import psnr
from tcae_cli.model.tcae import TCAE
from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.reports.progress import Silent

from ..pictures import photograph

NUM_PHOTOGRAPHS, RUNS = 16, 5


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """A folder of JPEG files of 12 megapixels."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(NUM_PHOTOGRAPHS):
        photograph(3000, 4000, first=number).save(folder / f"{number}.jpg", quality=92)
    return folder


def seconds(photographs: Path, store: Path, decode: str) -> float:
    request = EncodeRequest(
        source=str(photographs), store=str(store), device="cpu", num_workers=1, batch_size=1, decode=decode
    )
    report = encode_dataset(request, Silent())
    assert report.num_ok == NUM_PHOTOGRAPHS
    return report.steady_s


def test_photographs_of_12_megapixels_are_encoded_faster_as_drafts(photographs, tmp_path, show, monkeypatch):
    monkeypatch.setattr(TCAE, "encode", lambda _, pixels: torch.zeros(len(pixels), 128, 8, 8))
    times: dict[str, list[float]] = {"draft": [], "full": []}
    for run in range(RUNS):
        for decode, so_far in times.items():
            so_far.append(seconds(photographs, tmp_path / f"{decode}-{run}", decode))

    draft_s, full_s = median(times["draft"]), median(times["full"])
    rates = ", ".join(f"{decode} {(NUM_PHOTOGRAPHS - 1) / median(times[decode]):.1f} images/s" for decode in times)
    show(f"{rates}, a worker: {full_s / draft_s:.2f} times as fast; {closeness(photographs):.1f} dB")
    assert full_s >= 2.5 * draft_s


def closeness(photographs: Path) -> float:
    """The PSNR of a view of a draft against that of the full image, in dB."""
    data, transform = (photographs / "0.jpg").read_bytes(), Transform.square(256, "torch", "draft")
    pixels, original_size = decode_scaled(data, transform.least_side)
    shape = (256, 256)
    views = resize_and_crop(pixels, shape, "torch", original_size), resize_and_crop(decode_image(data), shape, "torch")
    draft, full = (view.pixels[None] / 255 for view in views)
    return float(psnr(full, draft))
