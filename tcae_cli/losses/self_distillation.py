"""iBOT's two losses, its centres, and the entropy of the teacher.

Axes: b images, q global crops (2), v views (global, then local), n tokens, m masked tokens, k prototypes, d width.
Source: iBOT (arXiv:2111.07832), section 3, and its code, https://github.com/bytedance/ibot.
"""

import torch
from torch import Tensor


def teacher_probabilities(logits: Tensor, center: Tensor, temp: float) -> Tensor:
    """Centre and sharpen logits: return softmax((logits - center) / temp), float32. logits: [..., k]; center: [k]."""
    return ((logits.float() - center) / temp).softmax(dim=-1)


def class_token_loss(student_logits: Tensor, teacher: Tensor, student_temp: float) -> Tensor:
    """Return the cross-entropy of each view's class token against every *other* global crop's, a mean over all pairs.

    student_logits: [b, v, k]. teacher: probabilities [b, q, k] of the global crops, which are the first q views.
    """
    log_student = (student_logits.float() / student_temp).log_softmax(dim=-1)
    cross_entropy = -torch.einsum("bqk,bvk->bqv", teacher, log_student)
    num_global, num_views = cross_entropy.shape[1:]
    # A mask on a GPU would be waited for.
    pairs = [cross_entropy[:, q, v] for q in range(num_global) for v in range(num_views) if q != v]
    return torch.stack(pairs, dim=1).mean()


def masked_patch_loss(
    student_logits: Tensor, teacher: Tensor, masks: Tensor, masked: Tensor, student_temp: float
) -> Tensor:
    """Return the cross-entropy at masked tokens against the same crop's: a mean over its masked tokens, then crops.

    student_logits: [m, k], of the masked tokens in their order. teacher: probabilities [m, k] of the same tokens.
    masks: [b, q, n] bool, with masked, [m] int64, the places of its true values. A crop without any counts as zero.
    """
    log_student = (student_logits.float() / student_temp).log_softmax(dim=-1)
    cross_entropy = -(teacher * log_student).sum(dim=-1)
    masked_in_crop = masks.sum(dim=-1, keepdim=True).clamp(min=1).expand(masks.shape).flatten()[masked]
    return (cross_entropy / masked_in_crop).sum() / masks[..., 0].numel()


def entropy(probabilities: Tensor) -> Tensor:
    """Return the mean entropy of distributions [..., k], in nats; ln k if the teacher distinguishes nothing."""
    return torch.special.entr(probabilities).sum(dim=-1).mean()


def center_after(center: Tensor, batch_mean: Tensor, momentum: float) -> Tensor:
    """Return the updated moving average of the teacher's mean logits, [k]. batch_mean: the mean over all ranks."""
    return momentum * center + (1 - momentum) * batch_mean
