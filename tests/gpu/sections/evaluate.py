"""`tcae eval` and `tcae decode` of the built-in model, on the device against the CPU."""

from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from tcae_cli.images.image_file import decode_image
from tcae_cli.jobs.decode import decode_store
from tcae_cli.jobs.encode import encode_dataset
from tcae_cli.jobs.evaluate import evaluate
from tcae_cli.recipe.choices import Precision
from tcae_cli.reports.decode import DecodeRequest
from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.reports.evaluation import EvalRequest
from tcae_cli.reports.progress import Silent
from tests.gpu.findings import Findings, Setting
from tests.gpu.inputs import few_images

_METRICS = ("psnr", "ssim")


def run(setting: Setting, findings: Findings) -> None:
    """Compare PSNR and SSIM, and the decoded pixels."""
    here, on_cpu = (_evaluate(setting, device) for device in (setting.device, "cpu"))
    for name in _METRICS:
        difference = abs(here[name] - on_cpu[name])
        findings.note(name, here[name])
        findings.check(f"{name}, difference from the CPU", difference, "at most 0.001", difference <= 0.001)

    store = setting.folder / "evaluate.zarr"
    source = str(few_images(setting))
    encode_dataset(EncodeRequest(source=source, store=str(store), device="cpu", num_workers=0), Silent())
    by_cpu = _decode(setting, str(store), "cpu")
    difference = np.abs(_decode(setting, str(store), setting.device, "fp32").astype(int) - by_cpu)
    findings.check("decoded in float32, largest difference", int(difference.max()), "at most 1", difference.max() <= 1)
    difference = np.abs(_decode(setting, str(store), setting.device).astype(int) - by_cpu)
    mean = float(difference.mean())
    findings.check("decoded by default, mean difference", mean, "at most 1, in bf16 on a GPU", mean <= 1)


def _evaluate(setting: Setting, device: str) -> dict[str, float]:
    request = EvalRequest(metrics=_METRICS, models=("tcae-tiny",), data=str(few_images(setting)), device=device)
    return evaluate(request, Silent()).evaluations[0].values


def _decode(setting: Setting, store: str, device: str, precision: Precision | None = None) -> np.ndarray:
    """Return all images of a store, [n, h, w, 3], uint8, as `tcae decode` writes them."""
    out = Path(mkdtemp(dir=setting.folder))
    decode_store(DecodeRequest(store=store, out_dir=out, device=device, precision=precision), Silent())
    return np.stack([decode_image(path.read_bytes()) for path in sorted(out.rglob("*.png"))])
