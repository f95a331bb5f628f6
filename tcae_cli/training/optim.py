"""The optimisers of a recipe, their learning rate and the clipping of gradients."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tcae_cli.model.joint import JointModel
from tcae_cli.recipe.schema import OptimizerSpec
from tcae_cli.training.sharding import whole

_DECODER = ("autoencoder.decoder.", "autoencoder.from_latents.")


def build_optimizers(model: nn.Module, spec: OptimizerSpec) -> list[Optimizer]:
    """Return AdamW over the parameters that need gradients; with `muon`, Muon takes the weight matrices from it.

    Weight decay applies to matrices and kernels only. Muon's updates are scaled to AdamW's, so that one learning rate
    serves both (Liu et al., arXiv:2502.16982, section 2.2).
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


def build_discriminator_optimizer(discriminator: nn.Module, spec: OptimizerSpec, lr: float) -> Optimizer:
    """Return AdamW without weight decay over what the discriminator trains, as in RAE (arXiv:2510.11690)."""
    trained = [p for p in discriminator.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=lr, betas=spec.betas, weight_decay=0.0, fused=True)


def set_learning_rate(optimizers: Iterable[Optimizer], rate: float) -> None:
    """Set the learning rate of every parameter group."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


def clip_gradients(model: JointModel, spec: OptimizerSpec) -> Tensor:
    """Clip encoder and heads to one norm and the decoder to another; return the norm of all before that, a scalar."""
    decoder = [p for name, p in model.named_parameters() if name.startswith(_DECODER)]
    others = [p for name, p in model.named_parameters() if not name.startswith(_DECODER)]
    norms = [
        whole(torch.nn.utils.clip_grad_norm_(parameters, norm))
        for parameters, norm in ((others, spec.clip_norm), (decoder, spec.decoder_clip_norm))
        if any(p.requires_grad for p in parameters)  # a frozen encoder has no gradients
    ]
    return torch.stack(norms).norm()
