"""The setting of an evaluation: what was asked, what is evaluated, and what the metrics share.

Axes: b images, d width of features.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tcae_cli.evaluation.candidates import Pairs
from tcae_cli.evaluation.networks import NETWORKS
from tcae_cli.evaluation.reference import Reference, read_statistics
from tcae_cli.evaluation.subject import Subject
from tcae_cli.metrics.latent import LatentSums
from tcae_cli.reports.evaluation import EvalRequest
from tcae_cli.reports.progress import Progress


@dataclass(frozen=True)
class Setting:
    """What every metric of an evaluation is given: it is loaded or computed once, whichever metrics ask for it."""

    request: EvalRequest
    subject: Subject
    device: torch.device
    progress: Progress
    references: dict[str, Reference] = field(default_factory=dict, init=False)  # of the originals, by network
    _networks: dict[str, Any] = field(default_factory=dict, init=False)
    _latent_sums: list[LatentSums] = field(default_factory=list, init=False)  # of each candidate, once asked for

    @property
    def num_images(self) -> int:
        """How many images are to be looked at."""
        return len(self.subject.originals.rows) if self.subject.originals else 0

    def network(self, name: str) -> Any:
        """Return the network of NETWORKS on the device. Raises WeightsError without its weights."""
        if name not in self._networks:
            self._networks[name] = NETWORKS[name](self.request.weights.get(name)).to(self.device)
        return self._networks[name]

    def features(self, network: str, batch: Pairs) -> Tensor:
        """Return a network's features of the reconstructions, [b, d], float32."""
        if network not in batch.features:
            batch.features[network] = self.network(network)(batch.decoded)
        return batch.features[network]

    def reference(self, network: str) -> Reference:
        """Return the statistics of a network's features of the originals, which all candidates are compared with."""
        if network not in self.references:
            self.references[network] = Reference(self.network(network))
        return self.references[network]

    def given_reference(self, network: str) -> Reference | None:
        """Return the statistics in the file of --reference; None without that option. Raises as read_statistics."""
        path = self.request.reference
        if path is None:
            return None
        module = self.network(network)
        return Reference(module, read_statistics(path, module.width))

    def latent_sums(self) -> list[LatentSums]:
        """Return the sums over each candidate's latents, which count every batch once a metric has asked for them."""
        if not self._latent_sums:
            self._latent_sums.extend(LatentSums.zero(card.latent_channels) for card in self.subject.cards)
        return self._latent_sums

    def add(self, number: int, batch: Pairs) -> None:
        """Count a batch of a candidate into what metrics share."""
        if self._latent_sums:
            assert batch.encoded is not None
            self._latent_sums[number].add(batch.encoded.latents)

    def tensors(self) -> list[Tensor]:
        """Return the tensors of it that are summed over ranks."""
        return [tensor for sums in self._latent_sums for tensor in sums.tensors()]
