"""How soon work begins: what a command takes beyond its imports, and a large model beyond its file."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tcae_cli.autoencoders.by_name import load_autoencoder
from tcae_cli.autoencoders.checkpoint import LatentStatistics, ModelDescription, save_checkpoint
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.presets import PRESETS
from tcae_cli.recipe.schema import ModelSpec

_RUNS = 5  # of each, alternating

# Everything that the command imports, and nothing else.
_IMPORTS = (
    "import rich.progress, tcae_cli.cli, tcae_cli.jobs.encode, tcae_cli.terminal.show, tcae_cli.terminal.progress"
)


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def test_encoding_one_image_takes_a_second_beyond_its_imports(images, tmp_path, show):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.png").write_bytes(next(path for path in images.rglob("*.png")).read_bytes())
    imports, whole = [], []
    for run in range(_RUNS):
        imports.append(seconds([sys.executable, "-c", _IMPORTS]))
        encode = ["encode-dataset", str(tmp_path / "one"), str(tmp_path / f"{run}.zarr"), "--workers", "0"]
        whole.append(seconds([sys.executable, "-m", "tcae_cli", *encode, "--device", "cpu"]))
    import_s, whole_s = statistics.median(imports), statistics.median(whole)
    show(f"imports {import_s:.2f} s, one image {whole_s:.2f} s: {whole_s - import_s:.2f} s more")
    assert whole_s - import_s <= 1


@pytest.fixture
def large_model(tmp_path) -> Path:
    """A checkpoint of the preset L, 2.7 GB."""
    spec = ModelSpec(**PRESETS["L"], patch_size=8, latent_channels=128)
    with torch.device("meta"):
        tensors = TCAE(spec).state_dict()
    statistics_of_latents = LatentStatistics(mean=[0.0] * 128, std=[1.0] * 128, num_images=1)
    description = ModelDescription(spec=spec, statistics=statistics_of_latents, recipe={}, step=0)
    filled = {name: torch.full(tensor.shape, 0.01) for name, tensor in tensors.items()}
    save_checkpoint(tmp_path / "large.safetensors", filled, description)
    return tmp_path / "large.safetensors"


def test_a_large_model_opens_at_the_speed_of_its_file(large_model, show):
    reads, loads = [], []
    for _ in range(_RUNS):
        started = time.perf_counter()
        large_model.read_bytes()
        reads.append(time.perf_counter() - started)
        started = time.perf_counter()
        model = load_autoencoder(str(large_model))
        loads.append(time.perf_counter() - started)
    read_s, load_s = statistics.median(reads), statistics.median(loads)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    show(f"{millions:.0f} M parameters: file read in {read_s:.2f} s, model opened in {load_s:.2f} s")
    assert load_s <= 2 * read_s
