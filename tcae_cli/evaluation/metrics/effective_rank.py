"""The effective rank: how many dimensions of the latent space the latents use."""

from tcae_cli.evaluation.metrics.channels import OfLatents
from tcae_cli.evaluation.metrics.figure import Figure


class EffectiveRank(OfLatents):
    """The effective rank (Roy & Vetterli, EUSIPCO 2007) of the channels over all positions of all latents."""

    name = "effective-rank"
    figures = (Figure("effective-rank", unit="channels", more_is_better=True),)
    protocol = "of the channels, over all positions, centred"

    def values(self, number: int) -> dict[str, float]:
        return {"effective-rank": self._sums[number].effective_rank()}
