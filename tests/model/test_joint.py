"""The gradients of the two forward passes of training: which objective reaches which parameters."""

import pytest
import torch
from torch import Tensor

from tcae_cli.model.joint import Crops, JointModel, Teacher, places_of_masked
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.schema import ModelSpec, SelfDistillationSpec

SPEC = {"image_size": 64, "patch_size": 8, "latent_channels": 8, "width": 32, "depths": (1, 1), "num_heads": 2}
HEADS = SelfDistillationSpec(num_prototypes=12, head_width=16, head_bottleneck=8)
IMAGES, LOCALS = 2, 3


def model(**spec) -> JointModel:
    torch.manual_seed(0)
    joint = JointModel(TCAE(ModelSpec(**SPEC | spec)), HEADS)
    torch.nn.init.normal_(joint.mask_vector, std=0.02)
    return joint


def views(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape))) * 2 - 1


def crops(keep: Tensor | None = None, *, staged: bool = True) -> Crops:
    masks = torch.zeros(IMAGES, 2, 3, 3, dtype=torch.bool)
    masks[0, 0, 1:, :2] = masks[1, 1, 0, 0] = True
    masked = places_of_masked(masks, staged=staged)
    return Crops(views(IMAGES, 2, 3, 48, 48), views(IMAGES, LOCALS, 3, 16, 16), masks, masked, keep)


def reached(joint: JointModel) -> set[str]:
    parts = ("autoencoder.encoder", "autoencoder.to_latents", "autoencoder.from_latents", "autoencoder.decoder")
    with_gradient = {name for name, p in joint.named_parameters() if p.grad is not None and p.grad.any()}
    return {part for part in (*parts, "head", "mask_vector") if any(name.startswith(part) for name in with_gradient)}


def test_self_distillation_reaches_trunk_head_and_mask_vector_and_no_bottleneck():
    joint = model()
    student = joint(views(IMAGES, 3, 64, 64), crops())[1]
    (student.class_tokens.square().sum() + student.masked_patches.square().sum()).backward()

    assert reached(joint) == {"autoencoder.encoder", "head", "mask_vector"}


def test_reconstruction_reaches_the_autoencoder_alone():
    joint = model()
    joint(views(IMAGES, 3, 64, 64), crops())[0].images.square().sum().backward()

    assert reached(joint) == {
        "autoencoder.encoder",
        "autoencoder.to_latents",
        "autoencoder.from_latents",
        "autoencoder.decoder",
    }


def test_decoding_again_gives_the_same_images_and_reaches_the_decoder_alone():
    joint = model()
    reconstruction, _ = joint(views(IMAGES, 3, 64, 64), None, decoder_again=True)
    reconstruction.images_for_decoder.square().sum().backward()

    assert torch.equal(reconstruction.images_for_decoder, reconstruction.images)
    assert reached(joint) == {"autoencoder.from_latents", "autoencoder.decoder"}


def test_class_tokens_come_from_global_then_local_crops():
    joint = model()
    student = joint(views(IMAGES, 3, 64, 64), crops())[1]
    encoder = joint.autoencoder.encoder
    local = joint.head(encoder(crops().local_crops[1, 2][None])[0])[0]

    assert student.class_tokens.shape == (IMAGES, 2 + LOCALS, HEADS.num_prototypes)
    torch.testing.assert_close(student.class_tokens[1, 2 + 2], local)


@pytest.mark.parametrize("staged", [True, False])
def test_masked_patches_come_from_the_masked_cells_of_the_last_grid_in_order(staged):
    joint, seen = model(staged=staged), crops(staged=staged)
    student = joint(views(IMAGES, 3, 64, 64), seen)[1]
    fine = seen.masks[1, 1].repeat_interleave(2, 0).repeat_interleave(2, 1)
    _, tokens = joint.autoencoder.encoder(seen.global_crops[1, 1][None], fine[None], joint.mask_vector)
    last = tokens[0, 0, 0] if staged else tokens[0, 1, 1]

    assert len(student.masked_patches) == 5 * (1 if staged else 4)
    torch.testing.assert_close(student.masked_patches[-1], joint.head(last))


def test_what_is_masked_is_not_seen():
    joint, seen = model(), crops()
    before = joint(views(IMAGES, 3, 64, 64), seen)[1].class_tokens
    changed = seen.global_crops.clone()
    changed[0, 0, :, 16:, :32] += 0.5  # the masked cells of the first crop
    after = joint(views(IMAGES, 3, 64, 64), seen._replace(global_crops=changed))[1].class_tokens

    assert torch.equal(before, after)
    changed[0, 0, :, :16, 32:] += 0.5
    assert not torch.equal(before, joint(views(IMAGES, 3, 64, 64), seen._replace(global_crops=changed))[1].class_tokens)


def test_a_dropped_branch_adds_nothing_and_a_kept_one_is_scaled():
    joint, blocks = model(), 2
    dropped = torch.zeros(IMAGES, 2 + LOCALS, blocks, 2)
    encoder = joint.autoencoder.encoder
    image = crops().global_crops[:1, 0]
    skipped = encoder(image, keep=dropped[:1, 0])[0]
    unchanged = encoder.norm(encoder.class_token[0])

    torch.testing.assert_close(skipped, unchanged)  # without blocks the class token is what it was
    torch.testing.assert_close(encoder(image, keep=dropped[:1, 0] + 1)[0], encoder(image)[0])
    student = joint(views(IMAGES, 3, 64, 64), crops(keep=dropped))[1]
    torch.testing.assert_close(student.class_tokens[0, 0], student.class_tokens[1, 4])


def test_the_teacher_sees_the_crops_whole():
    joint = model()
    teacher = Teacher(joint.autoencoder.encoder, joint.head)(crops().global_crops)
    class_token, patches = joint.autoencoder.encoder(crops().global_crops[1, 0][None])

    torch.testing.assert_close(teacher.class_tokens[1, 0], joint.head(class_token)[0])
    torch.testing.assert_close(teacher.patches[1, 0], joint.head(patches)[0].flatten(0, 1))
    torch.testing.assert_close(teacher.features[1, 0], class_token[0])


def test_the_last_layer_has_rows_of_length_one():
    joint = model()
    tokens = views(4, SPEC["width"])
    with torch.no_grad():
        before = joint.head(tokens)
        joint.head.prototypes.mul_(torch.rand(HEADS.num_prototypes, 1) + 0.5)

    torch.testing.assert_close(joint.head(tokens), before)
    assert before.abs().max() <= 1


def test_checkpointing_changes_no_gradient():
    plain, saving = model(), model()
    for stack in ("fine_blocks", "coarse_blocks"):
        for half in (saving.autoencoder.encoder, saving.autoencoder.decoder):
            getattr(half, stack).checkpointing = True
    for joint in (plain, saving):
        reconstruction, student = joint(views(IMAGES, 3, 64, 64), crops())
        (reconstruction.images.square().mean() + student.class_tokens.square().mean()).backward()

    for ours, theirs in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
