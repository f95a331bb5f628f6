"""Finetuning of the decoder alone, with a PatchGAN: the encoder's hash and its latents stay as they are."""

import math
from dataclasses import replace

import torch

from tcae_cli.autoencoders.runner import load_runner
from tcae_cli.autoencoders.tcae import read_header
from tcae_cli.jobs.train import train
from tcae_cli.reports.progress import Silent
from tests.gpu.findings import Findings, Setting
from tests.gpu.inputs import random_model, recipe
from tests.gpu.sections.model import random_pixels
from tests.gpu.sections.train import log_of, note_peak, request_of


def run(setting: Setting, findings: Findings) -> None:
    """Finetune the random model for a few steps of imagenet512-finetune."""
    parent = random_model(setting)
    chosen = recipe(
        setting,
        "imagenet512-finetune",
        f"model.image_size={setting.choose(512, 128)}",
        "loss.adversarial.discriminator=patchgan",
        "loss.adversarial.generator_start=0.0",
        f"train.batch_size={setting.choose(8, 2)}",
        f"train.steps={setting.choose(10, 2)}",
        "train.log_every=1",
        parent=read_header(str(parent)).spec,
    )
    out = setting.folder / "finetune"
    train(replace(request_of(setting, chosen, out), parent=str(parent), freeze_encoder=True), Silent())

    lines = log_of(out)
    is_finite = all(math.isfinite(line["loss"]) for line in lines)
    findings.check("losses", "finite" if is_finite else "not finite", "finite", is_finite)
    findings.note("images/s at 512 px", max(line["images_per_s"] for line in lines))
    note_peak(setting, findings, "peak of GPU memory, GiB")
    before, after = (read_header(str(name)) for name in (parent, out))
    same = before.encoder_hash == after.encoder_hash
    findings.check("hash of the encoder", "as before" if same else "another", "as before", same)
    learnt = before.decoder_hash != after.decoder_hash
    findings.check("hash of the decoder", "another" if learnt else "as before", "another", learnt)
    device = torch.device(setting.device)
    latents = [load_runner(str(name), device, "fp32").encode(random_pixels(setting)) for name in (parent, out)]
    same = torch.equal(*latents)
    findings.check("latents", "equal" if same else "different", "equal", same)
