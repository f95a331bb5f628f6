"""The absolute error of pixels."""

from torch import Tensor

from tcae_cli.losses.reconstruction import LoadNetwork, Term


class AbsoluteError(Term):
    """The mean absolute error of pixels in [0, 1], as in RAE (arXiv:2510.11690)."""

    def __init__(self, setting: float, load_network: LoadNetwork) -> None:
        self.weight = setting

    def __call__(self, decoded: Tensor, original: Tensor) -> Tensor:
        return (decoded - original).abs().mean() / 2


TERM = AbsoluteError
