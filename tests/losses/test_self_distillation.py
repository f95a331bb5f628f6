"""iBOT's losses equal plain loops over images, crops and tokens."""

import math

import pytest
import torch
from torch import Tensor

from tcae_cli.losses.self_distillation import (
    center_after,
    class_token_loss,
    entropy,
    masked_patch_loss,
    teacher_probabilities,
)

IMAGES, LOCALS, TOKENS, PROTOTYPES = 3, 4, 6, 5
STUDENT_TEMP, TEACHER_TEMP = 0.1, 0.05


def logits(*shape: int) -> Tensor:
    return torch.rand(*shape, PROTOTYPES, generator=torch.Generator().manual_seed(sum(shape))) * 2 - 1


def cross_entropy(teacher: Tensor, student: Tensor) -> float:
    """Return the loss of one token from the definition: -sum over prototypes of p log q."""
    weights = [math.exp(float(value) / STUDENT_TEMP) for value in student]
    return -sum(float(p) * math.log(w / sum(weights)) for p, w in zip(teacher, weights, strict=True))


def test_the_teacher_is_centred_and_sharpened():
    raw, center = logits(2), logits(1)[0]
    expected = [[math.exp(float(x - c) / TEACHER_TEMP) for x, c in zip(row, center, strict=True)] for row in raw]
    expected = torch.tensor([[value / sum(row) for value in row] for row in expected])

    torch.testing.assert_close(teacher_probabilities(raw, center, TEACHER_TEMP), expected)


def test_the_class_token_loss_pairs_each_view_with_the_other_global_crops_alone():
    student, teacher = logits(IMAGES, 2 + LOCALS), logits(IMAGES, 2).softmax(-1)
    pairs = [(q, v) for q in range(2) for v in range(2 + LOCALS) if q != v]
    terms = [cross_entropy(teacher[b, q], student[b, v]) for b in range(IMAGES) for q, v in pairs]

    assert len(pairs) == 2 + 2 * LOCALS
    assert float(class_token_loss(student, teacher, STUDENT_TEMP)) == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_the_masked_patch_loss_is_of_the_same_crop_and_its_masked_tokens_alone():
    masks = torch.zeros(IMAGES, 2, TOKENS, dtype=torch.bool)
    masks[0, 0, [1, 4]] = masks[1, 1, :5] = masks[2, 0, 3] = True  # three crops have no masked token
    student, teacher = logits(IMAGES, 2, TOKENS), logits(2, IMAGES, TOKENS).softmax(-1).unflatten(0, (2, 1))
    teacher = teacher.reshape(IMAGES, 2, TOKENS, PROTOTYPES)
    total = 0.0
    for b in range(IMAGES):
        for q in range(2):
            masked = [n for n in range(TOKENS) if masks[b, q, n]]
            total += sum(cross_entropy(teacher[b, q, n], student[b, q, n]) for n in masked) / max(1, len(masked))

    places = masks.flatten().nonzero()[:, 0]
    loss = masked_patch_loss(student[masks], teacher[masks], masks, places, STUDENT_TEMP)
    assert float(loss) == pytest.approx(total / (2 * IMAGES), rel=1e-5)


def test_a_batch_without_masks_has_no_patch_loss_but_a_gradient_of_zero():
    student = logits(0).requires_grad_()
    masks, places = torch.zeros(IMAGES, 2, TOKENS, dtype=torch.bool), torch.zeros(0, dtype=torch.int64)
    masked_patch_loss(student, logits(0), masks, places, STUDENT_TEMP).backward()

    assert student.grad is not None


def test_losses_start_near_the_logarithm_of_the_number_of_prototypes():
    uniform = torch.full((IMAGES, 2, PROTOTYPES), 1 / PROTOTYPES)

    loss = class_token_loss(torch.zeros(IMAGES, 2, PROTOTYPES), uniform, STUDENT_TEMP)
    assert float(loss) == pytest.approx(math.log(PROTOTYPES))
    assert float(entropy(uniform)) == pytest.approx(math.log(PROTOTYPES))
    assert float(entropy(torch.eye(PROTOTYPES))) == 0


def test_the_centre_follows_the_mean_logits():
    center, mean = logits(1)[0], logits(2)[0]

    torch.testing.assert_close(center_after(center, mean, 0.9), 0.9 * center + 0.1 * mean)
