"""The pretrained networks that metrics look through, by the name that each has in --weights.

Importing this module imports no network and no torch, so that help stays fast.
"""

from typing import Any

from tcae_cli.runtime.registry import Registry

# Each is a function of the path of a weights file, or of None for the one in torch's hub cache, to a torch module.
NETWORKS: Registry[Any] = Registry(
    {
        "inception": "tcae_cli.features.inception:load_inception",
        "dinov2": "tcae_cli.features.dinov2:load_dinov2",
        "lpips-vgg": "tcae_cli.evaluation.metrics.lpips:load_vgg",
        "lpips-alex": "tcae_cli.evaluation.metrics.lpips:load_alex",
    }
)
