"""The forward passes of training: the clean view is reconstructed, and student and teacher see the crops.

Axes: b images, v views of an image, g cells of the mask grid along a side, m masked tokens, n tokens, d width,
k prototypes, H W pixels.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from tcae_cli.model.encoder import Encoder
from tcae_cli.model.projection_head import ProjectionHead
from tcae_cli.model.tcae import TCAE
from tcae_cli.recipe.schema import SelfDistillationSpec


class Crops(NamedTuple):
    """The input of self-distillation; crops are in [-1, 1]."""

    global_crops: Tensor  # [b, 2, 3, H, W]
    local_crops: Tensor | None  # [b, v, 3, H, W], smaller
    masks: Tensor  # [b, 2, g, g] bool: true where a global crop is hidden from the student
    masked: Tensor  # [m] int64, as places_of_masked gives them
    keep: Tensor | None  # [b, v, blocks, 2]: drop path's factors of the global crops, then of the local ones


class Reconstruction(NamedTuple):
    """The clean view, encoded and decoded."""

    images: Tensor  # [b, 3, H, W]
    images_for_decoder: Tensor | None  # the same images, but their gradient ends at the latents
    last_tokens: Tensor  # [b, H/p, W/p, d], the input of the decoder's last layer; detached


class StudentLogits(NamedTuple):
    """The student's logits of the crops."""

    class_tokens: Tensor  # [b, v, k], the two global crops first, then the local ones
    masked_patches: Tensor  # [m, k], the masked tokens of the global crops, in their order


class TeacherLogits(NamedTuple):
    """The teacher's logits of the global crops, which it sees without masks."""

    class_tokens: Tensor  # [b, 2, k]
    patches: Tensor  # [b, 2, n, k]
    features: Tensor  # [b, 2, d], class tokens before the head


class JointModel(nn.Module):
    """Autoencoder, projection head and mask vector: everything that the two objectives train.

    The head reads the encoder's normalised tokens before the bottleneck (arXiv:2604.07340, section 3).
    """

    def __init__(self, autoencoder: TCAE, spec: SelfDistillationSpec | None) -> None:
        super().__init__()
        width = autoencoder.spec.width
        self.autoencoder = autoencoder
        self.head = ProjectionHead(width, spec) if spec else None
        self.mask_vector = nn.Parameter(torch.zeros(width)) if spec else None

    def forward(
        self, images: Tensor, crops: Crops | None, decoder_again: bool = False
    ) -> tuple[Reconstruction, StudentLogits | None]:
        """Reconstruct images [b, 3, H, W] in [-1, 1] and compute the student's logits of the crops, if there are any.

        Images, global crops and local crops each have their own forward pass of the trunk.
        decoder_again: decode a second time, from detached latents, unless the encoder is frozen anyway.
        """
        latents = self.autoencoder.encode(images)
        decoded, last_tokens = self.autoencoder.decode_with_last_tokens(latents)
        again = self.autoencoder.decode(latents.detach()) if decoder_again and latents.requires_grad else None
        reconstruction = Reconstruction(decoded, again, last_tokens.detach())
        return reconstruction, None if crops is None else self._student_logits(crops)

    def reconstruct(self, images: Tensor) -> Tensor:
        """Return reconstructions [b, 3, H, W] of images [b, 3, H, W], both in [-1, 1]."""
        decoded: Tensor = self.autoencoder(images)
        return decoded

    def _student_logits(self, crops: Crops) -> StudentLogits:
        encoder, head = self.autoencoder.encoder, self.head
        assert head is not None
        num_images = len(crops.global_crops)
        keep_global = keep_local = None
        if crops.keep is not None:
            keep_global, keep_local = crops.keep[:, :2].flatten(0, 1), crops.keep[:, 2:].flatten(0, 1)
        masks = crops.masks.flatten(0, 1)
        seen = crops.global_crops.flatten(0, 1)
        class_tokens, patches = encoder(seen, doubled(masks), self.mask_vector, keep_global)
        class_logits = [head(class_tokens).unflatten(0, (num_images, 2))]
        if crops.local_crops is not None:
            local_tokens, _ = encoder(crops.local_crops.flatten(0, 1), keep=keep_local)
            class_logits.append(head(local_tokens).unflatten(0, (num_images, -1)))
        return StudentLogits(torch.cat(class_logits, dim=1), head(patches.flatten(0, 2)[crops.masked]))


class Teacher(nn.Module):
    """Trunk and head whose weights are a moving average of the student's; it sees the global crops unmasked."""

    def __init__(self, encoder: Encoder, head: ProjectionHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, global_crops: Tensor) -> TeacherLogits:
        """Return logits and features of global crops [b, 2, 3, H, W] in [-1, 1]."""
        views = global_crops.shape[:2]
        class_tokens, patches = self.encoder(global_crops.flatten(0, 1))
        return TeacherLogits(
            self.head(class_tokens).unflatten(0, views),
            self.head(patches.flatten(1, 2)).unflatten(0, views),
            class_tokens.unflatten(0, views),
        )


def doubled(masks: Tensor) -> Tensor:
    """Return masks [b, g, g] on the grid of the patch embeddings, which is twice as fine: [b, 2g, 2g]."""
    return masks.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)


def places_of_masked(masks: Tensor, *, staged: bool) -> Tensor:
    """Return where the masked tokens stand among the encoder's last tokens of all global crops, [m] int64.

    masks: [b, 2, g, g] bool, on the CPU: a GPU would be waited for, because m depends on the values. The last grid is
    g wide with staged compression, otherwise 2g.
    """
    return on_last_grid(masks, staged=staged).flatten().nonzero().squeeze(1)


def on_last_grid(masks: Tensor, *, staged: bool) -> Tensor:
    """Return masks [b, 2, g, g] on the grid of the encoder's last tokens, [b, 2, n]."""
    last = masks if staged else doubled(masks.flatten(0, 1)).unflatten(0, masks.shape[:2])
    return last.flatten(2)
