"""The cost of an image in a step, against TC-AE's table (arXiv:2604.07340) and against a step that is computed."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tcae_cli.model.joint import Crops, JointModel, Teacher, places_of_masked
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.schema import Recipe
from tcae_cli.runtime.device import peak_flops
from tcae_cli.training.cost import training_flops

MODEL = {"image_size": 64, "patch_size": 8, "latent_channels": 8, "width": 32, "depths": (2, 1), "num_heads": 2}
DISTILLATION = {
    "global_size": 64,
    "local_size": 32,
    "num_local_crops": 3,
    "mask_ratio": (0.25, 0.75),
    "num_prototypes": 64,
    "head_width": 48,
    "head_bottleneck": 16,
}
SHAPES = (1, 3, 64, 64), (1, 2, 3, 64, 64), (1, 3, 3, 32, 32)  # clean view, global crops, local crops


def recipe(model=MODEL, distillation=None, **train) -> Recipe:
    loss = {"perceptual": None, "self_distillation": distillation}
    return Recipe.model_validate({"model": model, "loss": loss, "train": {"steps": 1, "batch_size": 2, **train}})


def flops_of_a_real_step(recipe: Recipe) -> int:
    """Of one image, whose first global crop is masked by half: the mean of what this recipe draws.

    Pixels get a gradient too, which training has no use for: the factor three counts it.
    """
    spec = recipe.loss.self_distillation
    model = JointModel(TCAE(recipe.model), spec)
    teacher = Teacher(TCAE(recipe.model).encoder, JointModel(TCAE(recipe.model), spec).head)
    images, seen, local = (torch.rand(shape, requires_grad=True) for shape in SHAPES)
    masks = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
    masks[0, 0, :2] = True
    masked = places_of_masked(masks, staged=recipe.model.staged)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        with torch.no_grad():
            teacher(seen.detach())
        reconstruction, student = model(images, Crops(seen, local, masks, masked, None))
        (reconstruction.images.sum() + student.class_tokens.sum() + student.masked_patches.sum()).backward()
    return counter.get_total_flops()


def test_reconstruction_by_the_paper_s_model_costs_three_times_its_164_gmacs():
    assert training_flops(recipe({"preset": "B"})) == pytest.approx(3 * 2 * 164.0e9, rel=0.005)


@pytest.mark.parametrize("staged", [True, False])
def test_the_joint_objective_costs_what_a_step_computes(staged):
    joint = recipe({**MODEL, "staged": staged}, DISTILLATION)

    assert training_flops(joint) == flops_of_a_real_step(joint)


def test_computing_blocks_again_to_save_memory_is_no_use_of_the_device():
    assert training_flops(recipe(checkpointing=True)) == training_flops(recipe())


def test_self_distillation_of_the_paper_s_model_costs_more_than_its_reconstruction():
    alone, joint = (training_flops(recipe({"preset": "B"}, spec)) for spec in (None, {}))

    assert 2 * alone < joint < 3 * alone


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
    ],
)
def test_the_peak_of_a_gpu_is_its_datasheet_s(monkeypatch, name, tflops):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)

    assert peak_flops(torch.device("cuda", 0)) == tflops * 1e12


@pytest.mark.parametrize(
    "name", ["Tesla K80", "NVIDIA A100-SXM4-40GB MIG 3g.20gb", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA L400"]
)
def test_no_peak_is_guessed(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)

    assert peak_flops(torch.device("cuda", 0)) is None
    assert peak_flops(torch.device("cpu")) is None
