"""iBOT's projection head, from tokens to logits over prototypes.

Axes: d width, k prototypes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcae_cli.model.layers import init_weights
from tcae_cli.recipe.schema import SelfDistillationSpec


class ProjectionHead(nn.Module):
    """Three linear layers with GELU map a token to the unit sphere; its logits are the cosines with the prototypes.

    Class and patch tokens share the head. iBOT's weight-normalised last layer, whose gain stays 1, equals one with
    normalised rows. Source: iBOT (arXiv:2111.07832), section 3.3.
    """

    def __init__(self, width: int, spec: SelfDistillationSpec) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, spec.head_width),
            nn.GELU(),
            nn.Linear(spec.head_width, spec.head_width),
            nn.GELU(),
            nn.Linear(spec.head_width, spec.head_bottleneck),
        )
        self.prototypes = nn.Parameter(torch.empty(spec.num_prototypes, spec.head_bottleneck))
        nn.init.trunc_normal_(self.prototypes, std=0.02)
        self.apply(init_weights)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits [..., k], in [-1, 1], of normalised tokens [..., d]."""
        return F.linear(F.normalize(self.mlp(tokens), dim=-1), F.normalize(self.prototypes, dim=-1))
