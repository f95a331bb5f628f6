"""How much of an image's class a linear layer reads off frozen features, before the bottleneck and after it.

Axes: n images, d width, k learning rates, c classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_RATES = [base * 10.0**power for power in range(-5, -1) for base in (1, 2, 5)] + [0.1]  # 13, as DINOv2's
_EPOCHS = 30
_BATCH_SIZE = 256
_MOMENTUM = 0.9


def probe_accuracy(
    train_features: Tensor, train_labels: Tensor, val_features: Tensor, val_labels: Tensor, *, seed: int = 0
) -> float:
    """Return the share of the validation images that the best of 13 linear probes classifies correctly, in [0, 1].

    features: [n, d], float; labels: [n], int64, from 0. Batch norm without affine, then one linear layer a learning
    rate, by SGD of momentum 0.9 with cosine decay, on the features' device. The rate is chosen on the validation
    images, so probes that learn nothing score a little above chance.
    Source: DINOv2 (arXiv:2304.07193), with the 13 learning rates of github.com/facebookresearch/dinov2,
    dinov2/eval/linear.py.
    """
    num_classes = int(torch.cat([train_labels, val_labels]).max()) + 1
    norm = nn.BatchNorm1d(train_features.shape[1], affine=False).to(train_features.device)
    weight, bias = _train(norm, train_features.float(), train_labels, num_classes, seed)
    with torch.no_grad():
        predicted = _logits(norm.eval()(val_features.float()), weight, bias).argmax(dim=-1)  # [k, n]
    return float((predicted == val_labels).float().mean(dim=1).max())


def structural_loss(before: float, after: float) -> float:
    """Return the share of the probe's accuracy that the bottleneck costs, (A1 - A2) / A1.

    before, after: probe_accuracy of mean patch tokens (A1) and of mean latents (A2). Raises ZeroDivisionError if A1 is
    0. Source: TC-AE (arXiv:2604.07340).
    """
    return (before - after) / before


def _train(norm: nn.Module, features: Tensor, labels: Tensor, num_classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return weights [k, d, c] and biases [k, 1, c]: a head for each rate, all trained side by side."""
    generator = torch.Generator().manual_seed(seed)
    device, rates = features.device, torch.tensor(_RATES, device=features.device)
    first = 0.01 * torch.randn(features.shape[1], num_classes, generator=generator)
    weight = first.to(device).repeat(len(rates), 1, 1).requires_grad_()
    bias = torch.zeros(len(rates), 1, num_classes, device=device, requires_grad=True)
    optimizer = torch.optim.SGD([weight, bias], lr=1.0, momentum=_MOMENTUM)
    batch_size = min(_BATCH_SIZE, len(features))
    steps_an_epoch = len(features) // batch_size
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _EPOCHS * steps_an_epoch)
    for _ in range(_EPOCHS):
        order = torch.randperm(len(features), generator=generator).to(device)
        for rows in order[: steps_an_epoch * batch_size].split(batch_size):
            logits = _logits(norm(features[rows]), weight, bias)
            targets = labels[rows].repeat(len(rates))
            losses = F.cross_entropy(logits.flatten(0, 1), targets, reduction="none").view(len(rates), -1).mean(dim=1)
            optimizer.zero_grad()
            # SGD is linear in the gradient: a loss times its rate, at rate 1, is a step of that rate.
            (losses * rates).sum().backward()
            optimizer.step()
            schedule.step()
    return weight.detach(), bias.detach()


def _logits(normed: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return normed @ weight + bias  # [k, n, c]
