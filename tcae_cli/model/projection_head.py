"""iBOT's projection head: tokens to logits over prototypes.

Axes: d width, k prototypes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcae_cli.model.layers import init_weights
from tcae_cli.recipe.schema import SelfDistillationSpec


class ProjectionHead(nn.Module):
    """Three linear layers with GELU, a point on the unit sphere, and its cosine with each prototype.

    Shared by class and patch tokens. A weight-normalised last layer whose gain stays 1 is one with normalised rows.
    Source: iBOT (arXiv:2111.07832), section 3.3; TCAE.md section 3.
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
        """Logits in [-1, 1], [..., k], of normalised tokens [..., d]."""
        return F.linear(F.normalize(self.mlp(tokens), dim=-1), F.normalize(self.prototypes, dim=-1))
