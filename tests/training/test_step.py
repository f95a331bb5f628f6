"""A step of training equals the same step written out plainly."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tcae_cli.images.transform import to_float
from tcae_cli.losses.patchgan import PatchGan
from tcae_cli.losses.reconstruction import ReconstructionLoss
from tcae_cli.losses.self_distillation import class_token_loss, masked_patch_loss, teacher_probabilities
from tcae_cli.model.joint import JointModel, Teacher
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.schema import Recipe
from tcae_cli.runtime.device import to_device
from tcae_cli.training.ema import averaged_copy
from tcae_cli.training.optim import build_discriminator_optimizer, build_optimizers
from tcae_cli.training.state import Centers, TrainingState
from tcae_cli.training.step import Trainer, training_step
from tcae_cli.training.views.crops import TrainingBatch

MODEL = {"image_size": 64, "patch_size": 8, "latent_channels": 8, "width": 32, "depths": [1, 1], "num_heads": 2}
HEADS = {"num_prototypes": 12, "head_width": 16, "head_bottleneck": 8, "num_local_crops": 1}
CROPS = {"global_size": 48, "local_size": 16, "drop_path": 0.0, "frozen_last_layer": 0.0}
GAME = {"discriminator": "patchgan", "discriminator_start": 0.0, "generator_start": 0.0}
CPU = torch.device("cpu")
aten = torch.ops.aten


def recipe(**sections) -> Recipe:
    settings = {
        "model": MODEL,
        "loss": {"perceptual": None, "self_distillation": HEADS | CROPS},
        "optimizer": {"lr": 1e-3, "warmup": 0.0, "clip_norm": 1e9, "decoder_clip_norm": 1e9},
        "train": {"steps": 10, "batch_size": 4, "precision": "fp32"},
    }
    for name, values in sections.items():
        settings[name] = {**settings[name], **values}
    return Recipe.model_validate(settings)


def state_of(recipe: Recipe) -> TrainingState:
    torch.manual_seed(0)
    spec, adversarial = recipe.loss.self_distillation, recipe.loss.adversarial
    model = JointModel(TCAE(recipe.model), spec)
    state = TrainingState(model, model, averaged_copy(model.autoencoder), build_optimizers(model, recipe.optimizer))
    if spec is not None:
        for parameter in model.head.parameters():  # or so narrow a head would make points of almost no length
            torch.nn.init.normal_(parameter, std=0.3)
        state.teacher = Teacher(averaged_copy(model.autoencoder.encoder), averaged_copy(model.head))
        for parameter in state.teacher.parameters():  # so that it can be told from the student
            parameter.data.mul_(1.01)
        state.centers = Centers(torch.full((12,), 0.01), torch.full((12,), -0.02))
    if adversarial is not None:
        state.discriminator = PatchGan().eval()
        state.discriminator_optimizer = build_discriminator_optimizer(state.discriminator, recipe.optimizer, 1e-3)
    return state


def random(*shape: int) -> Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.uint8)


def batch() -> TrainingBatch:
    masks = torch.zeros(4, 2, 3, 3, dtype=torch.bool)
    masks[0, 0, 1:, :2] = masks[1, 1, 0, 0] = masks[3, 0, 2, 2] = True
    samples = torch.arange(40, 44)
    return TrainingBatch(samples, random(4, 3, 64, 64), random(4, 2, 3, 48, 48), random(4, 1, 3, 16, 16), masks)


def no_network(name: str):
    raise AssertionError(f"the recipe has no perceptual distance, yet it loads {name}")


def step(recipe: Recipe, state: TrainingState, **options) -> dict[str, Tensor]:
    return training_step(Trainer(recipe, CPU, ReconstructionLoss(recipe.loss, no_network)), state, batch(), **options)


def plain_objectives(recipe: Recipe, state: TrainingState, seen: TrainingBatch) -> tuple[Tensor, Tensor]:
    """Return both losses, computed with none of the step's own code except the losses."""
    spec, model = recipe.loss.self_distillation, state.model
    encoder, head = model.autoencoder.encoder, model.head
    images = to_float(seen.images)
    reconstruction = (model.autoencoder(images) - images).abs().mean() / 2
    global_crops, local_crops = to_float(seen.global_crops), to_float(seen.local_crops)
    student, targets, patch_student, patch_targets = [], [], [], []
    for number in range(2):
        fine = F.interpolate(seen.masks[:, number][:, None].float(), scale_factor=2)[:, 0].bool()
        class_token, patches = encoder(global_crops[:, number], fine, model.mask_vector)
        student.append(head(class_token))
        patch_student.append(head(patches).flatten(1, 2))
        with torch.no_grad():
            class_token, patches = state.teacher.encoder(global_crops[:, number])
            targets.append(teacher_probabilities(state.teacher.head(class_token), state.centers.class_token, 0.04))
            patch_logits = state.teacher.head(patches).flatten(1, 2)
            patch_targets.append(teacher_probabilities(patch_logits, state.centers.patch, 0.04))
    student.append(head(encoder(local_crops[:, 0])[0]))
    masks = seen.masks.flatten(2)
    places = masks.flatten().nonzero()[:, 0]
    student_patches, teacher_patches = torch.stack(patch_student, 1)[masks], torch.stack(patch_targets, 1)[masks]
    distillation = class_token_loss(
        torch.stack(student, 1), torch.stack(targets, 1), spec.student_temp
    ) + masked_patch_loss(student_patches, teacher_patches, masks, places, spec.student_temp)
    return reconstruction, distillation


def gradients(state: TrainingState) -> dict[str, Tensor]:
    return {name: p.grad for name, p in state.model.named_parameters()}


def test_the_gradient_is_that_of_alpha_times_reconstruction_plus_ibot():
    wanted = recipe()
    state = state_of(wanted)
    plain = copy.deepcopy(state)
    reconstruction, distillation = plain_objectives(wanted, plain, batch())
    (0.1 * reconstruction + distillation).backward()
    reconstruction, distillation = reconstruction.detach(), distillation.detach()

    terms = step(wanted, state)

    assert float(terms["l1"]) == pytest.approx(float(reconstruction))
    assert float(terms["class_token"] + terms["masked_patch"]) == pytest.approx(float(distillation))
    assert float(terms["loss"]) == pytest.approx(float(0.1 * reconstruction + distillation))
    for name, expected in gradients(plain).items():
        torch.testing.assert_close(gradients(state)[name], expected, rtol=1e-4, atol=1e-7, msg=name)


def test_the_cosine_between_both_objectives_is_taken_at_the_last_encoder_block():
    wanted = recipe()
    state = state_of(wanted)
    block = state.model.autoencoder.encoder.coarse_blocks[-1].parameters
    flat = [
        torch.cat([g.flatten() for g in torch.autograd.grad(objective, list(block()))])
        for objective in plain_objectives(wanted, state, batch())
    ]

    terms = step(wanted, state, compare=True)
    assert float(terms["gradient_cosine"]) == pytest.approx(float(F.cosine_similarity(*flat, dim=0)), abs=1e-5)


def test_teacher_and_centres_follow_after_the_update():
    wanted = recipe()
    state = state_of(wanted)
    before = copy.deepcopy(state)
    step(wanted, state)

    for ours, teacher, student in zip(
        state.teacher.encoder.parameters(),
        before.teacher.encoder.parameters(),
        state.model.autoencoder.encoder.parameters(),
        strict=True,
    ):
        torch.testing.assert_close(ours, 0.996 * teacher + 0.004 * student)
        assert ours.grad is None and not ours.requires_grad
    logits = before.teacher(to_float(batch().global_crops))
    for name, seen in (("class_token", logits.class_tokens), ("patch", logits.patches)):
        expected = 0.9 * getattr(before.centers, name) + 0.1 * seen.flatten(0, -2).mean(dim=0)
        torch.testing.assert_close(getattr(state.centers, name), expected)


def test_the_spread_is_that_of_the_teachers_unit_features():
    wanted = recipe()
    state = state_of(wanted)
    features = F.normalize(state.teacher(to_float(batch().global_crops)).features, dim=-1).flatten(0, 1)

    assert float(step(wanted, state)["feature_spread"]) == pytest.approx(float(features.std(0, False).mean()), rel=1e-4)


def test_prototypes_stay_at_first_and_move_later():
    wanted = recipe(loss={"self_distillation": {**HEADS, **CROPS, "frozen_last_layer": 0.1}})
    state = state_of(wanted)
    before = state.model.head.prototypes.clone()
    step(wanted, state)
    assert torch.equal(state.model.head.prototypes, before)

    step(wanted, state)
    assert not torch.equal(state.model.head.prototypes, before)


def test_parts_of_a_batch_add_up_to_the_whole():
    whole, parts = (recipe(train={"accumulate": accumulate}) for accumulate in (1, 2))
    states = [state_of(whole), state_of(parts)]
    terms = [step(one, state) for one, state in zip((whole, parts), states, strict=True)]

    for name in terms[0]:
        torch.testing.assert_close(terms[0][name], terms[1][name], rtol=1e-4, atol=1e-6, msg=name)
    for name, gradient in gradients(states[0]).items():
        torch.testing.assert_close(gradient, gradients(states[1])[name], rtol=1e-4, atol=1e-6, msg=name)
    torch.testing.assert_close(states[0].centers.patch, states[1].centers.patch)


class Asked(TorchDispatchMode):
    """Lists the operations whose result depends on values of tensors: a GPU is waited for at each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.of: list[Tensor] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        is_mask = func is aten.index.Tensor and any(t is not None and t.dtype == torch.bool for t in args[1])
        if is_mask or func in (aten.nonzero.default, aten.masked_select.default, aten._local_scalar_dense.default):
            self.of.append(args[0])
        return func(*args, **(kwargs or {}))


def test_a_step_asks_for_no_value_but_the_masks_of_each_micro_batch_which_are_on_the_cpu():
    spec = {**HEADS, **CROPS, "drop_path": 0.1}
    wanted = recipe(loss={"self_distillation": spec, "adversarial": GAME}, train={"accumulate": 2})
    state, seen = state_of(wanted), batch()
    trainer = Trainer(wanted, CPU, ReconstructionLoss(wanted.loss, no_network))
    training_step(trainer, state, seen)  # which makes the optimisers' moments

    with Asked() as asked:
        training_step(trainer, state, seen)

    masks = seen.masks.flatten(1).split(2)
    assert [tensor.flatten().tolist() for tensor in asked.of] == [part.flatten().tolist() for part in masks]


def test_a_gpu_copies_what_a_step_sends_it_from_pinned_memory(monkeypatch):
    sent = []

    class Pinned:
        def to(self, device, *, non_blocking):
            sent.append((str(device), non_blocking))

    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: Pinned())
    to_device(torch.zeros(1), torch.device("cuda", 1))
    assert sent == [("cuda:1", True)]

    class OnTheGpu:
        device = torch.device("cuda", 1)

        def to(self, device, *, non_blocking):
            sent.append("as it is")

    to_device(OnTheGpu(), torch.device("cuda", 1))  # which torch would refuse to pin
    assert sent[1:] == ["as it is"]


def test_drop_path_changes_the_students_view_alone():
    dropping = recipe(loss={"self_distillation": {**HEADS, **CROPS, "drop_path": 0.9}})
    plain, dropped = step(recipe(), state_of(recipe())), step(dropping, state_of(dropping))

    assert plain["l1"] == dropped["l1"] and plain["teacher_entropy"] == dropped["teacher_entropy"]
    assert plain["class_token"] != dropped["class_token"]


def reconstruct_with_game(**game) -> tuple[TrainingState, dict[str, Tensor], Recipe]:
    wanted = recipe(loss={"self_distillation": None, "adversarial": GAME | game})
    state = state_of(wanted)
    return state, step(wanted, state), wanted


def test_the_game_is_balanced_at_the_decoders_last_weight():
    state, terms, _ = reconstruct_with_game(augment=0.0)
    fresh = state_of(recipe(loss={"self_distillation": None, "adversarial": GAME}))
    images, fresh_discriminator = to_float(batch().images), fresh.discriminator
    decoded = fresh.model.autoencoder(images)
    weight = fresh.model.autoencoder.decoder.to_pixels.weight
    reconstruction = (decoded - images).abs().mean() / 2
    game = -fresh_discriminator(decoded).mean()
    norms = [torch.autograd.grad(loss, weight, retain_graph=True)[0].norm() for loss in (reconstruction, game)]
    adaptive = (norms[0] / (norms[1] + 1e-6)).detach()
    (reconstruction + 0.75 * adaptive * game).backward()
    game = game.detach()

    assert float(terms["generator"]) == pytest.approx(float(game), rel=1e-4)
    assert float(terms["adaptive_weight"]) == pytest.approx(float(adaptive), rel=1e-3)
    for name, expected in gradients(fresh).items():
        torch.testing.assert_close(gradients(state)[name], expected, rtol=1e-3, atol=1e-7, msg=name)


def test_within_the_decoders_scope_the_encoder_hears_nothing_of_the_game():
    without = state_of(recipe(loss={"self_distillation": None}))
    step(recipe(loss={"self_distillation": None}), without)
    decoder_alone, _, _ = reconstruct_with_game(scope="decoder")
    everything, _, _ = reconstruct_with_game()

    for name, gradient in gradients(without).items():
        if not name.startswith(("autoencoder.decoder.", "autoencoder.from_latents.")):
            torch.testing.assert_close(gradients(decoder_alone)[name], gradient, rtol=1e-4, atol=1e-8, msg=name)
        elif "k_norm.bias" not in name:  # which attention does not depend on
            assert not torch.allclose(gradients(decoder_alone)[name], gradient, rtol=1e-4, atol=1e-8), name
            expected = gradients(everything)[name]
            torch.testing.assert_close(gradients(decoder_alone)[name], expected, rtol=1e-3, atol=1e-7, msg=name)


def test_the_discriminator_learns_from_its_start_and_the_autoencoder_sees_it_from_its_own():
    game = GAME | {"discriminator_start": 0.1, "generator_start": 0.2}
    wanted = recipe(loss={"self_distillation": None, "adversarial": game})
    state = state_of(wanted)
    before = copy.deepcopy(state.discriminator.state_dict())
    terms = step(wanted, state)
    assert terms.keys().isdisjoint({"discriminator", "generator"})
    assert all(torch.equal(value, before[name]) for name, value in state.discriminator.state_dict().items())

    terms = step(wanted, state)
    assert {"discriminator", "discriminator_accuracy"} <= terms.keys() and "generator" not in terms
    assert not all(torch.equal(value, before[name]) for name, value in state.discriminator.state_dict().items())
    assert {"generator", "adaptive_weight"} <= step(wanted, state).keys()
