"""Interpolated FID: a store's latents halfway to a similar one, decoded. Nothing is encoded again.

Axes: b queries of a batch, c channels, h w positions, d = c * h * w, n queries.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tcae_cli.errors import StoreError
from tcae_cli.evaluation.metrics.feature_distance import FeatureDistance
from tcae_cli.evaluation.metrics.figure import Figure
from tcae_cli.evaluation.metrics.metric import LATENTS, STORE
from tcae_cli.evaluation.metrics.rfid import INCEPTION_WORDS
from tcae_cli.evaluation.subject import Subject
from tcae_cli.evaluation.viewer import Seen, Viewer
from tcae_cli.images.partition import batches_of_rows
from tcae_cli.metrics.interpolation import NearestNeighbours, draw, slerp
from tcae_cli.reports.progress import Progress
from tcae_cli.runtime import distributed
from tcae_cli.runtime.device import exact_float32
from tcae_cli.runtime.process_group import add_over_ranks
from tcae_cli.store.reader import LatentStore

_NUM_NEIGHBOURS = 10
_HALFWAY = 0.5
_QUERY_BYTES = 2**30  # of float32 latents that one pass over the store finds the neighbours of
_BLOCK_BYTES, _BLOCK_ROWS = 2**26, 4096  # of the store at a time, float32; whichever is less


class IFid(FeatureDistance):
    """The FID of decoded interpolations between a store's latents against the originals (arXiv:2603.05630)."""

    name = "ifid"
    figures = (Figure("ifid", more_is_better=False),)
    needs = (LATENTS, STORE)
    network = "inception"
    counts_batches = False
    protocol = (
        f"{INCEPTION_WORDS}; each latent halfway (slerp) to one of its 10 most similar in the store, decoded; seed 0"
    )

    @classmethod
    def refusal(cls, subject: Subject) -> str | None:
        unmet = super().refusal(subject)
        if unmet is None and subject.store is not None and len(subject.store.ok_rows) < 2:
            return "ifid goes from one latent to another, and the store has one; encode more images"
        return unmet

    def after_images(self, viewer: Viewer, seen: Seen) -> None:
        """Count the decoded interpolations of all images that were seen; every candidate decodes the same latents."""
        subject = self.setting.subject
        assert subject.store is not None and subject.store_rows is not None
        interpolation = Interpolation(subject.store, viewer.device, viewer.batch_size, viewer.progress)
        queries = subject.store_rows[seen.good.numpy() == 1].tolist()
        network = self.setting.network(self.network)
        for latents in interpolation.batches(queries, distributed.rank(), distributed.world_size()):
            for model, sums in zip(subject.models, self._sums, strict=True):
                sums.add(network(model.decode(latents, refuse_non_finite=True)))
        add_over_ranks(self.tensors())


@dataclass(frozen=True)
class Interpolation:
    """Goes from latents of a store to similar ones."""

    store: LatentStore
    device: torch.device
    batch_size: int
    progress: Progress
    seed: int = 0

    def batches(self, queries: Sequence[int], rank: int, world_size: int) -> Iterator[Tensor]:
        """Yield this rank's batches of latents [b, c, h, w], float32, on the device, whose FID is the interpolated FID.

        Each is halfway (slerp) from a query to one of the 10 rows of the store most similar to it, itself excepted, or
        to one of all others if they are fewer. Batch i goes to rank i mod world_size, so no latent depends on the
        number of ranks. queries: ok rows. Raises StoreError if no two rows are ok. Source: see
        metrics/interpolation.py.
        """
        if len(self.store.ok_rows) < 2:
            raise StoreError(
                f"{self.store.folder.uri} has latents of {len(self.store.ok_rows)} images, ifid needs two to go from "
                f"one to the other; encode more images into it"
            )
        size = self.batch_size
        # Every rank draws every query's number, so that it stays the same whoever has the query.
        uniform = torch.rand(len(queries), generator=torch.Generator().manual_seed(self.seed), dtype=torch.float64)
        own = batches_of_rows(0, len(queries), size)[rank::world_size]
        batches_a_pass = max(1, _QUERY_BYTES // (size * self._row_bytes()))
        num_done = 0  # by all ranks
        for start in range(0, len(own), batches_a_pass):
            in_pass = own[start : start + batches_a_pass]
            found = self._find_neighbours([[int(queries[place]) for place in batch] for batch in in_pass])

            self.progress.start("interpolate", len(queries), done=num_done)
            for batch, neighbours in zip(in_pass, found, strict=True):
                yield self._go_halfway(neighbours, uniform[batch.start : batch.stop].to(self.device))
                num_together = min(world_size * size, len(queries) - num_done)
                self.progress.advance(num_together)
                num_done += num_together

    def _find_neighbours(self, batches: list[list[int]]) -> list[NearestNeighbours]:
        """Return the neighbours of each batch of rows, found in one pass over the store."""
        # Batch by batch: products of one shape have the same last bit however many batches a rank has.
        found = [
            NearestNeighbours(self._read(rows), torch.tensor(rows).to(self.device), _NUM_NEIGHBOURS) for rows in batches
        ]
        ok_rows = self.store.ok_rows
        num_together = max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // self._row_bytes()))
        self.progress.start("find neighbours", len(ok_rows))
        with exact_float32():
            for start in range(0, len(ok_rows), num_together):
                rows = ok_rows[start : start + num_together]
                references = self._read(rows.tolist())
                for neighbours in found:
                    neighbours.add(references, torch.from_numpy(rows).to(self.device))
                self.progress.advance(len(rows))
        return found

    def _go_halfway(self, neighbours: NearestNeighbours, uniform: Tensor) -> Tensor:
        """Return the latents between each query and the neighbour that its number in [0, 1) draws; uniform: [b]."""
        index = draw(neighbours.distances(), uniform)
        rows = neighbours.rows().gather(1, index[:, None])[:, 0]
        latents = slerp(neighbours.queries, self._read(rows.tolist()), _HALFWAY)
        return latents.unflatten(1, self.store.sample_shape)

    def _read(self, rows: list[int]) -> Tensor:
        """Return flattened latents [b, d], float32, on the device."""
        return torch.from_numpy(self.store.latents(rows).astype(np.float32)).flatten(1).to(self.device)

    def _row_bytes(self) -> int:
        return 4 * int(np.prod(self.store.sample_shape))
