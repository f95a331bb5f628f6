"""FD-DINOv2: how far DINOv2's features of reconstructions are from those of the originals."""

from tcae_cli.evaluation.metrics.feature_distance import FeatureDistance
from tcae_cli.evaluation.metrics.figure import Figure
from tcae_cli.evaluation.metrics.metric import PAIRS


class FdDinov2(FeatureDistance):
    """The Frechet distance of reconstructions from their originals in DINOv2's features (arXiv:2306.04675)."""

    name = "fd-dinov2"
    figures = (Figure("fd-dinov2", more_is_better=False),)
    needs = (PAIRS,)
    network = "dinov2"
    protocol = "class token of DINOv2 ViT-L/14, images resized to 224 px (bicubic, antialiased)"
