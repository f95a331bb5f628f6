"""`tcae encode-dataset`: its speed, eager and compiled, and that a killed run continues to the same bytes."""

import os
import signal
from multiprocessing import get_context
from pathlib import Path

import torch

from tcae_cli.jobs.encode import encode_dataset
from tcae_cli.reports.encode import EncodeReport, EncodeRequest
from tcae_cli.reports.progress import Silent
from tcae_cli.store.reader import LatentStore
from tests.gpu.findings import Findings, Setting, relative_error
from tests.gpu.inputs import images, random_model

_EXPECTED = {"eager": "1,000 to 1,450 on an H100", "compiled": "about 2,000 on an H100"}


class _KillHalfway(Silent):
    """A Progress that ends its process, as kill -9 does, once half of the images are committed."""

    def start(self, task: str, total: int, done: int = 0, unit: str = "images") -> None:
        self._left = total / 2

    def advance(self, count: int = 1, failed: int = 0, note: str = "") -> None:
        self._left -= count
        if self._left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


def run(setting: Setting, findings: Findings) -> None:
    """Encode all images, in one run and in one that is killed, eager and compiled."""
    ways = {"eager": False, "compiled": True}
    # The runs to be killed come first: this process cannot be forked once it has used the GPU.
    for way, compiled in ways.items():
        killed = get_context("fork").Process(target=_encode, args=(setting, f"{way}-killed", compiled, _KillHalfway()))
        killed.start()
        killed.join()
        findings.check(f"{way}, signal that ended the run", -(killed.exitcode or 0), "9", killed.exitcode == -9)
    for way, compiled in ways.items():
        report = _encode(setting, f"{way}-killed", compiled, Silent())
        total = report.num_ok
        left = report.num_encoded_now
        findings.check(f"{way}, images left after the kill", left, f"some of {total:,}", 0 < left < total)
        report = _encode(setting, way, compiled, Silent())
        findings.note(f"{way}, images/s", report.num_ok / report.steady_s, _EXPECTED[way])
        findings.note(f"{way}, share of the time that the encoder was busy", _share(report, "encode"), "near 1")
        equal = _contents(setting, way) == _contents(setting, f"{way}-killed")
        findings.check(f"{way}, bytes of the two stores", "equal" if equal else "different", "equal", equal)
    stores = [LatentStore(setting.folder / f"{way}.zarr") for way in ways]
    eager, compiled_too = (torch.from_numpy(store.latents(range(min(64, len(store))))) for store in stores)
    error = relative_error(compiled_too, eager)
    findings.check("compiled, relative distance from eager", error, "at most 0.02", error <= 0.02)


def _encode(setting: Setting, name: str, compiled: bool, progress: Silent) -> EncodeReport:
    request = EncodeRequest(
        source=str(images(setting)),
        store=str(setting.folder / f"{name}.zarr"),
        model=str(random_model(setting)),
        device=setting.device,
        precision="bf16",
        batch_size=setting.choose(64, 8),
        num_workers=setting.choose(None, 0),
        compile=compiled,
    )
    return encode_dataset(request, progress)


def _share(report: EncodeReport, stage: str) -> float:
    return report.stage_seconds[stage] / report.steady_s


def _contents(setting: Setting, name: str) -> dict[Path, bytes]:
    """Return the bytes of a store's arrays, without metadata, which hold the time of creation."""
    store = setting.folder / f"{name}.zarr"
    files = (path for path in store.rglob("*") if path.is_file() and path.name != "zarr.json")
    return {path.relative_to(store): path.read_bytes() for path in files if ".tcae" not in path.parts}
