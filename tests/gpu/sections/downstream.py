"""recipes/downstream/train_dit.py: a generator trains on a store of latents, resumes, and draws images."""

import importlib.util
import math
import sys
from typing import Any

from tcae_cli.jobs.encode import encode_dataset
from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.reports.progress import Silent
from tests.gpu.findings import Findings, Setting
from tests.gpu.inputs import RECIPES, image_size, images
from tests.gpu.sections.train import log_of


def run(setting: Setting, findings: Findings) -> None:
    """Train for half of 200 steps, and resume for the rest; at toy size for 2 and 2."""
    store = setting.folder / "downstream.zarr"
    request = EncodeRequest(
        source=str(images(setting)),
        store=str(store),
        sizes=(image_size(setting),),
        device=setting.device,
        num_workers=setting.choose(None, 0),
        compile=False,
    )
    encode_dataset(request, Silent())
    half = setting.choose(100, 2)
    out = setting.folder / "dit"
    options = [str(store), str(out), f"--device={setting.device}", "--sampling-steps=5", f"--log-every={half}"]
    options += setting.choose([], ["--width=32", "--depth=1", "--heads=2", "--batch-size=8"])
    script = _train_dit()
    script.main.main([*options, f"--steps={half}"], standalone_mode=False)
    script.main.main([*options, f"--steps={2 * half}", "--num-samples=4", "--resume"], standalone_mode=False)

    lines = [line for line in log_of(out) if "loss" in line]
    found = [line["step"] for line in lines]
    findings.check("steps that were logged", str(found), str([half, 2 * half]), found == [half, 2 * half])
    is_finite = all(math.isfinite(line["loss"]) for line in lines)
    findings.check("losses", "finite" if is_finite else "not finite", "finite", is_finite)
    findings.note("loss at the end", lines[-1]["loss"])
    findings.note("images/s", lines[-1]["images_per_s"])
    drawn = len(list((out / "samples").glob("*.png")))
    findings.check("images drawn", drawn, "4", drawn == 4)


def _train_dit() -> Any:
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("train_dit", RECIPES / "downstream" / "train_dit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
