"""Interpolated FID from a store: latents halfway to a similar one, for a decoder. Nothing is encoded again.

Axes: b queries of a batch, c channels, h w positions, d = c * h * w, n queries.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from tcae_cli.errors import StoreError
from tcae_cli.metrics.interpolation import NearestNeighbours, draw, slerp
from tcae_cli.reports.progress import Progress
from tcae_cli.runtime.device import exact_float32
from tcae_cli.store.reader import LatentStore

_NUM_NEIGHBOURS = 10
_HALFWAY = 0.5
_QUERY_BYTES = 2**30  # of float32 latents that one pass over the store finds the neighbours of
_BLOCK_BYTES, _BLOCK_ROWS = 2**26, 4096  # of the store at a time, float32; whichever is less


def interpolated_latents(
    store: LatentStore,
    queries: Sequence[int],
    *,
    batch_size: int,
    device: torch.device,
    rank: int,
    world_size: int,
    seed: int = 0,
    progress: Progress,
) -> Iterator[Tensor]:
    """This rank's batches of latents [b, c, h, w], float32, on the device; decoded, their FID is the interpolated FID.

    Each is halfway (slerp) from a query to one of the 10 rows of the store most similar to it, itself left out, or to
    one of all others if they are fewer. Batch i goes to rank i mod world_size, so no latent depends on the number of
    ranks. queries: ok rows. Raises StoreError if no two rows are ok. Source: see metrics/interpolation.py.
    """
    if len(store.ok_rows) < 2:
        raise StoreError(
            f"{store.folder.uri} has latents of {len(store.ok_rows)} images, ifid needs two to go from one to the "
            f"other; encode more images into it"
        )
    # Every rank draws every query's number, so that it stays the same whoever has the query.
    uniform = torch.rand(len(queries), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    batches = [range(start, min(start + batch_size, len(queries))) for start in range(0, len(queries), batch_size)]
    own = batches[rank::world_size]
    batches_a_pass = max(1, _QUERY_BYTES // (batch_size * _bytes_of_row(store)))
    num_done = 0  # by all ranks
    for start in range(0, len(own), batches_a_pass):
        in_pass = own[start : start + batches_a_pass]
        rows = [[int(queries[place]) for place in batch] for batch in in_pass]
        found = _find_neighbours(store, rows, device, progress)

        progress.start("interpolate", len(queries), done=num_done)
        for batch, neighbours in zip(in_pass, found, strict=True):
            yield _go_halfway(store, neighbours, uniform[batch.start : batch.stop].to(device))
            num_together = min(world_size * batch_size, len(queries) - num_done)
            progress.advance(num_together)
            num_done += num_together


def _go_halfway(store: LatentStore, neighbours: NearestNeighbours, uniform: Tensor) -> Tensor:
    """From each query to the neighbour its number in [0, 1) draws, [b, c, h, w]; uniform: [b]."""
    index = draw(neighbours.distances(), uniform)
    rows = neighbours.rows().gather(1, index[:, None])[:, 0]
    latents = slerp(neighbours.queries, _read(store, rows.tolist(), uniform.device), _HALFWAY)
    return latents.unflatten(1, store.sample_shape)


def _find_neighbours(
    store: LatentStore, batches: list[list[int]], device: torch.device, progress: Progress
) -> list[NearestNeighbours]:
    """Of each batch of rows, in one pass over the store."""
    ok_rows = store.ok_rows
    # Batch by batch: products of one shape have the same last bit however many batches a rank has.
    found = [
        NearestNeighbours(_read(store, rows, device), torch.tensor(rows).to(device), _NUM_NEIGHBOURS)
        for rows in batches
    ]
    num_together = max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // _bytes_of_row(store)))
    progress.start("find neighbours", len(ok_rows))
    with exact_float32():
        for start in range(0, len(ok_rows), num_together):
            rows = ok_rows[start : start + num_together]
            references = _read(store, rows.tolist(), device)
            for neighbours in found:
                neighbours.add(references, torch.from_numpy(rows).to(device))
            progress.advance(len(rows))
    return found


def _read(store: LatentStore, rows: list[int], device: torch.device) -> Tensor:
    """Flattened latents [b, d], float32."""
    return torch.from_numpy(store.latents(rows).astype(np.float32)).flatten(1).to(device)


def _bytes_of_row(store: LatentStore) -> int:
    return 4 * int(np.prod(store.sample_shape))
