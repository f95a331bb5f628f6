"""Chooses the shard that a rank encodes next: its own first, then those that other ranks have not begun or not ended.

A rank takes the shards of others from the end of their shares, where their owners come last. So a slow rank costs its
own pace alone: the launch ends at most one shard after the moment at which all ranks would end together.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


class View(Protocol):
    """Says what one rank knows about the shards of its launch."""

    def look_again(self) -> None:
        """Bring the knowledge up to date."""

    def is_open(self, shard: int) -> bool:
        """Return whether no rank has begun a shard, and it still has to be encoded."""

    def abandoned(self) -> Iterable[int]:
        """Return the shards that were begun, are not committed, and whose ranks' leases have ended."""


@dataclass(frozen=True)
class Shares:
    """The shards of a launch, as they are shared out among its ranks."""

    shares: Sequence[Sequence[int]]  # of each rank, in the order in which it encodes them
    rank: int
    in_runs: bool = False  # neighbours are best encoded in order by one rank: the source is read in groups

    def next_of_own(self, view: View) -> int | None:
        """Return the rank's own shard to take next; None if none can be taken now.

        What is known of a rank's own shards may be old, since others claim them only at the end: a claim that fails is
        not chosen again.
        """
        return next(filter(view.is_open, self.shares[self.rank]), None)

    def next_of_others(self, view: View, last: int | None = None) -> int | None:
        """Return the shard of another rank to take next; None if none can be taken now. `last` is the one taken before.

        The view looks again before.
        """
        view.look_again()
        if self.in_runs and last is not None and view.is_open(last + 1):
            return last + 1
        # Each rank begins with another one's share, so that they do not all reach for the same shard.
        for share in (*self.shares[self.rank + 1 :], *self.shares[: self.rank]):
            if unbegun := list(filter(view.is_open, share)):
                return _middle_of_longest_run(unbegun) if self.in_runs else unbegun[-1]
        return next(iter(view.abandoned()), None)


def _middle_of_longest_run(shards: Sequence[int]) -> int:
    """Return where to begin in a share that its owner encodes from the front: half of the longest run is left to it."""
    longest: list[int] = []
    run: list[int] = []
    for shard in shards:
        run = [*run, shard] if run and shard == run[-1] + 1 else [shard]
        longest = max(longest, run, key=len)
    return longest[len(longest) // 2]
