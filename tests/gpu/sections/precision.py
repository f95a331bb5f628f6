"""That float32 means float32 on a GPU, and that int8 stores are made there as on the CPU."""

from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch

from tcae_cli.jobs.encode import encode_dataset
from tcae_cli.recipe.choices import LatentDtype
from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.store.reader import LatentStore
from tests.gpu.findings import Findings, Setting, relative_error
from tests.gpu.inputs import few_images, image_size, random_model


def run(setting: Setting, findings: Findings) -> None:
    """Encode a few images in float32 on the device and on the CPU, into stores of float32 and of int8."""
    here, on_cpu = (
        _encode(setting, str(random_model(setting)), device, "float32") for device in (setting.device, "cpu")
    )
    error = relative_error(*(torch.from_numpy(_values(store)) for store in (here, on_cpu)))
    expected = "at most 1e-4; TF32 gives about 1e-3"
    findings.check("float32 latents, relative error against the CPU", error, expected, error <= 1e-4)

    here, on_cpu = (_encode(setting, "tcae-tiny", device, "int8") for device in (setting.device, "cpu"))
    ranges = [store.spec.quantisation for store in (here, on_cpu)]
    scales = [torch.tensor(each.scale["latents"]) for each in ranges if each]
    error = relative_error(*scales)
    findings.check("int8 scales, relative error against the CPU", error, "at most 1e-4", error <= 1e-4)
    steps = np.abs(_values(here, raw=True).astype(int) - _values(on_cpu, raw=True))
    findings.check("int8 values, largest difference", int(steps.max()), "at most 1 step", steps.max() <= 1)
    findings.check(
        "int8 values, share that differs", float((steps > 0).mean()), "at most 1 %", (steps > 0).mean() <= 0.01
    )
    if ranges[0]:
        findings.note("int8, relative error of the rounding", ranges[0].relative_rmse["latents"], "about 0.01")


def _encode(setting: Setting, model: str, device: str, dtype: LatentDtype) -> LatentStore:
    store = Path(mkdtemp(dir=setting.folder)) / "latents.zarr"
    request = EncodeRequest(
        source=str(few_images(setting)),
        store=str(store),
        model=model,
        sizes=(image_size(setting),),
        device=device,
        precision="fp32",
        dtype=dtype,
        batch_size=4,
        num_workers=0,
        compile=False,
    )
    encode_dataset(request, Silent())
    return LatentStore(store)


def _values(store: LatentStore, *, raw: bool = False) -> np.ndarray:
    rows = range(len(store))
    return store.stored(rows) if raw else store.latents(rows)
