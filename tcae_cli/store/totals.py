"""Adds up the records of a store's shards, and of its buckets."""

from dataclasses import dataclass, field

from tcae_cli.reports.failure import Failure
from tcae_cli.store.record import ShardRecord
from tcae_cli.store.spec import deviations_of
from tcae_cli.store.statistics import LatentMoments


@dataclass
class Totals:
    """Sums over the records of shards."""

    num_shards: int = 0
    num_ok: int = 0
    num_failed: int = 0  # those that stood for lost parts of tars that have been repaired among them
    num_again: int = 0
    num_clipped: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    moments: dict[str, LatentMoments] = field(default_factory=dict)  # of each latent array with ok rows

    @property
    def num_repaired(self) -> int:
        """The rows that stood for lost parts of tars, and no longer count as failed."""
        return sum(failure.is_repaired for failure in self.failures)

    @property
    def num_too_small(self) -> int:
        """The rows of images that --min-size leaves out."""
        return sum(failure.is_too_small for failure in self.failures)

    @property
    def num_counted(self) -> int:
        """The rows that count as failed."""
        return sum(failure.counts for failure in self.failures)

    def add(self, record: ShardRecord) -> None:
        """Add the record of a shard. Shards must be added in order, so that every process gets the same bits."""
        self.merge(
            Totals(
                num_shards=1,
                num_ok=record.num_ok,
                num_failed=record.num_failed,
                num_again=record.num_again,
                num_clipped=record.num_clipped,
                failures=record.failures,
                moments=_moments_of(record),
            )
        )

    def merge(self, other: "Totals") -> None:
        """Add the sums over other records: those of the next bucket, for one."""
        self.num_shards += other.num_shards
        self.failures += other.failures
        self.num_ok += other.num_ok
        self.num_failed += other.num_failed
        self.num_again += other.num_again
        for view, count in other.num_clipped.items():
            self.num_clipped[view] = self.num_clipped.get(view, 0) + count
        for view, moments in other.moments.items():
            before = self.moments.get(view)
            self.moments[view] = before.merge(moments) if before else moments


def _moments_of(record: ShardRecord) -> dict[str, LatentMoments]:
    """Return the moments of each latent array; those of a view with a posterior are of latents drawn from it."""
    stored = {array: LatentMoments.from_json(data) for array, data in (record.statistics or {}).items()}
    return {
        array: moments.spread_by(stored[deviations_of(array)]) if deviations_of(array) in stored else moments
        for array, moments in stored.items()
    }
