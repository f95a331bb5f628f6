"""The optimisers of a recipe."""

import torch
from torch import nn
from torch.optim import Optimizer

from tcae_cli.recipe.schema import OptimizerSpec


def build_optimizers(model: nn.Module, spec: OptimizerSpec) -> list[Optimizer]:
    """AdamW over the parameters that need gradients; with `muon`, Muon takes the weight matrices from it.

    Weight decay falls on matrices and kernels only. Muon's updates are scaled to AdamW's, so that one
    learning rate serves both (Liu et al., arXiv:2502.16982, section 2.2).
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    matrices = (
        [p for name, p in trained.items() if p.ndim == 2 and name.endswith("weight")] if spec.name == "muon" else []
    )
    taken = {id(p) for p in matrices}
    rest = [p for p in trained.values() if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": spec.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizers: list[Optimizer] = [torch.optim.AdamW(groups, lr=spec.lr, betas=spec.betas, fused=True)]
    if matrices:
        muon = torch.optim.Muon(matrices, lr=spec.lr, weight_decay=spec.weight_decay, adjust_lr_fn="match_rms_adamw")
        optimizers.append(muon)
    return optimizers
