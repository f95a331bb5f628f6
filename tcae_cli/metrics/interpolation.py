"""Interpolated FID: each latent's neighbours, one of them drawn, and the latent halfway to it.

Axes: q queries, m references, d width of a flattened latent, k neighbours.
Source: Xu et al. (arXiv:2603.05630). Where the paper is silent, as its authors' ifid.py does (github.com/tongdaxu/
Making-rFID-Predictive-of-Diffusion-gFID): latents are on the decoder's own scale, and flattened for everything.
"""

import torch
from torch import Tensor

_NEARLY_PARALLEL = 1e-6  # sine of the angle below which the arc is taken to be straight


class NearestNeighbours:
    """The k references most cosine-similar to each query, of blocks that are given one after another.

    A query's own row is no neighbour of it, another row with the same values is. Of equally similar references those
    with lower rows are kept, in whichever order and blocks they come. Memory: the queries, q*k and one block.
    """

    def __init__(self, queries: Tensor, rows: Tensor, num_neighbours: int) -> None:
        """queries: [q, d], float32; rows: [q], int64, each query's own among the references, on the same device."""
        self.queries, self._query_rows = queries, rows
        self._query_norms = torch.linalg.vector_norm(queries, dim=1)[:, None]
        shape = (len(queries), num_neighbours)
        self._rows = rows.new_full(shape, -1)
        self._similarities = queries.new_full(shape, -torch.inf)
        self._distances = queries.new_full(shape, torch.inf)

    def add(self, references: Tensor, rows: Tensor) -> None:
        """Compare with more references: [m, d], float32; rows: [m], int64, not negative, each given once."""
        products = self.queries @ references.T
        norms = torch.linalg.vector_norm(references, dim=1)
        lengths = self._query_norms * norms
        similarities = torch.where(lengths > 0, products / lengths, 0)
        similarities = similarities.masked_fill(rows == self._query_rows[:, None], -torch.inf)
        squares = self._query_norms.square() + norms.square() - 2 * products
        distances = squares.clamp_min(0) / references.shape[1]
        self._keep_best(similarities, rows.expand_as(products), distances)

    def _keep_best(self, similarities: Tensor, rows: Tensor, distances: Tensor) -> None:
        similarities = torch.cat([self._similarities, similarities], dim=1)
        rows = torch.cat([self._rows, rows], dim=1)
        distances = torch.cat([self._distances, distances], dim=1)
        num_kept = self._rows.shape[1]
        # topk does not say which of equals it takes: those above the k-th are in, and of its equals the lower rows,
        # where -1 is a place that is still empty.
        last = similarities.topk(num_kept, dim=1).values[:, -1:]
        turn = torch.where(similarities > last, -2, rows).masked_fill(similarities < last, torch.iinfo(rows.dtype).max)
        best = turn.topk(num_kept, dim=1, largest=False).indices
        self._similarities = similarities.gather(1, best)
        self._rows, self._distances = rows.gather(1, best), distances.gather(1, best)

    def rows(self) -> Tensor:
        """Return the neighbours' rows, ascending, [q, k], int64; -1 first for each that is lacking to k.

        They are not in the order of similarity: what is drawn from them should not depend on the last bit of one.
        """
        return self._rows.sort(dim=1).values

    def distances(self) -> Tensor:
        """Return their mean squared distances over d, [q, k], float32, in the same order; infinite for rows of -1."""
        return self._distances.gather(1, self._rows.argsort(dim=1))


def draw(distances: Tensor, uniform: Tensor) -> Tensor:
    """Return the neighbour that each query gets, [q], int64 in [0, k): with probability softmax(-distance).

    distances: [q, k], mean squared distances, one finite; uniform: [q], numbers in [0, 1) that decide.
    """
    up_to_each = distances.double().neg().softmax(dim=1).cumsum(dim=1)
    index = torch.searchsorted(up_to_each, uniform.double()[:, None], right=True)[:, 0]
    return index.clamp_max(distances.shape[1] - 1)  # the sum of all may round to less than 1


def slerp(one: Tensor, other: Tensor, alpha: float) -> Tensor:
    """Return the point a share alpha of the way along the arc from one direction to the other, not normalised.

    one, other: [..., d], float. The way is straight where they are parallel, opposite, or one of them is zero. The
    computation is in float64, the result in the dtype of `one`. Source: Shoemake, "Animating rotation with quaternion
    curves", 1985.
    """
    first, second = one.double(), other.double()
    norms = first.norm(dim=-1, keepdim=True) * second.norm(dim=-1, keepdim=True)
    cosine = (first * second).sum(dim=-1, keepdim=True) / norms
    angle = torch.where(norms > 0, cosine, 1).clamp(-1, 1).acos()
    is_arc = angle.sin() > _NEARLY_PARALLEL
    sine = angle.sin().where(is_arc, 1)
    of_first = torch.where(is_arc, ((1 - alpha) * angle).sin() / sine, 1 - alpha)
    of_second = torch.where(is_arc, (alpha * angle).sin() / sine, alpha)
    return (of_first * first + of_second * second).to(one.dtype)
