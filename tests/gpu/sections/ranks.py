"""A launch of one rank by torchrun: copied parameters (DDP), compiled, and sharded ones (FSDP2) with checkpointing."""

import json
import math
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tcae_cli.jobs.train import train
from tcae_cli.recipe.schema import Recipe
from tests.gpu.findings import Findings, Setting
from tests.gpu.sections.train import InterruptAfter, InterruptedRun, full_objective, log_of, note_peak, request_of

_NEVER = "train.checkpoint_every=1000"


def run(setting: Setting, findings: Findings) -> None:
    """Let torchrun start this file with one rank."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=1", "--rdzv-backend=c10d"]
    command += ["--rdzv-endpoint=localhost:0", "-m", __name__, json.dumps(asdict(setting), default=str)]
    done = subprocess.run([*command, str(findings.path)])
    findings.check("exit code of torchrun", done.returncode, "0", done.returncode == 0)


def main(setting: Setting, findings: Findings) -> None:
    """Train on this rank: a launch of one rank has a process group only where somebody makes it."""
    setting.prepare()
    if setting.device == "cuda":
        torch.cuda.set_device(0)
    dist.init_process_group("nccl" if setting.device == "cuda" else "gloo")
    copied = ["train.compile=true", "train.sharded=false"]
    _train(setting, findings, "B, copied, compiled", full_objective(setting, *_settings(), *copied))
    sharded = ["train.checkpointing=true", "train.sharded=true", *setting.choose(["model.preset=L"], [])]
    _train(setting, findings, "L, sharded, with checkpointing", full_objective(setting, *_settings(), *sharded))
    dist.destroy_process_group()


def _settings() -> list[str]:
    return ["train.steps=1000", _NEVER, "train.sample_every=1000", "train.log_every=1"]


def _train(setting: Setting, findings: Findings, name: str, chosen: Recipe) -> None:
    """Train for a few steps, and stop before the state, which takes gigabytes, is written."""
    out = setting.folder / name.replace(", ", "-")
    steps = setting.choose(6, 2)
    if setting.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with suppress(InterruptedRun):
        train(request_of(setting, chosen, out), InterruptAfter(steps))
    lines = log_of(out)
    is_finite = len(lines) == steps and all(math.isfinite(line["loss"]) for line in lines)
    findings.check(f"{name}, losses", "finite" if is_finite else "not finite", "finite", is_finite)
    findings.note(f"{name}, images/s", max(line["images_per_s"] for line in lines), "")
    note_peak(setting, findings, f"{name}, peak of GPU memory, GiB", _expected_gib(name))


def _expected_gib(name: str) -> str:
    return "about 33 for 32 images of L" if name.startswith("L") else "about 62 for 32 images of B"


if __name__ == "__main__":
    fields: dict[str, Any] = json.loads(sys.argv[1])
    main(Setting(**{**fields, "folder": Path(fields["folder"])}), Findings(Path(sys.argv[2])))
