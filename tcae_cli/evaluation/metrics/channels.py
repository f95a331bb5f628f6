"""Measures the channels of latents: how many are dead or dominant, how far they spread, how smooth they are."""

from tcae_cli.evaluation.metrics.figure import Figure
from tcae_cli.evaluation.metrics.metric import LATENTS, Metric
from tcae_cli.evaluation.setting import Setting

_count = "{:,.0f}".format


class OfLatents(Metric):
    """A metric that follows from the sums over latents, which all such metrics share."""

    needs = (LATENTS,)

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._sums = setting.latent_sums()

    def curves(self, number: int) -> dict[str, list[float]]:
        return self._sums[number].curves()


class Channels(OfLatents):
    """The numbers of dead and of dominant channels, the smallest, median and largest standard deviation of a channel,
    and the correlation of neighbouring positions, as a mean over the channels that are not dead.
    """

    name = "channels"
    figures = (
        Figure("dead-channels", unit="channels", format=_count),
        Figure("dominant-channels", unit="channels", format=_count),
        Figure("channel-std-min"),
        Figure("channel-std-median"),
        Figure("channel-std-max"),
        Figure("spatial-correlation"),
    )
    protocol = "over all positions; dead: deviation up to 1/100 of the median's, dominant: variance over 10 times it"

    def values(self, number: int) -> dict[str, float]:
        return self._sums[number].figures()
