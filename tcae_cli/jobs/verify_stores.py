"""Checks the arrays, shards and tables of a store, or of each of its buckets."""

import os
from dataclasses import dataclass, field

import numpy as np

from tcae_cli.jobs.pipeline import Stage, run_pipeline
from tcae_cli.jobs.verification import Verification
from tcae_cli.store.buckets import existing_stores
from tcae_cli.store.check_shard import ShardCheck, ShardChecker
from tcae_cli.store.check_tables import check_arrays, check_tables
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.layout import bucket_folder
from tcae_cli.store.record import record_name
from tcae_cli.store.totals import Totals

_MOST_THREADS = 4  # each holds a file of a shard
_SEED = 0


@dataclass
class CheckedShards:
    """The shards that were checked, added up in their order."""

    totals: Totals = field(default_factory=Totals)
    num_files: int = 0
    num_bytes: int = 0
    damaged: list[int] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)  # ok rows whose image's hash is known
    hashes: list[np.ndarray] = field(default_factory=list)
    sound_rows: list[np.ndarray] = field(default_factory=list)  # those of them in shards without a problem

    def add(self, found: ShardCheck) -> None:
        """Count a shard."""
        if found.problems:
            self.damaged.append(found.shard)
        if found.record:
            self.totals.add(found.record)
        self.num_files += found.num_files
        self.num_bytes += found.num_bytes
        if found.content_hashes is not None:
            rows = np.array(found.ok_rows, np.int64)
            self.rows.append(rows)
            self.hashes.append(found.content_hashes)
            if not found.problems:
                self.sound_rows.append(rows)

    def hashes_of_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows, ascending, [k], int64, and the hashes of their images, [k], uint64."""
        return joined(self.rows, np.int64), joined(self.hashes, np.uint64)

    def draw(self, num_rows: int) -> dict[int, int]:
        """Return some sound rows, ascending and the same ones every time, with the hashes of their images."""
        sound = joined(self.sound_rows, np.int64)
        chosen = np.random.default_rng(_SEED).choice(sound, min(num_rows, len(sound)), replace=False)
        chosen.sort()
        rows, hashes = self.hashes_of_rows()
        return dict(zip(chosen.tolist(), hashes[np.searchsorted(rows, chosen)].tolist(), strict=True))


@dataclass(frozen=True)
class CheckedStore:
    """A store that holds rows, by itself or as a bucket, with what was found."""

    verification: Verification
    shards: CheckedShards


def check_stores(verification: Verification) -> dict[str, CheckedStore]:
    """Check the store, or each of its buckets and what it says of them all, by name."""
    store = verification.store
    if store.spec.buckets is None:
        return {"": _check_store(verification)}
    for problem in check_arrays(store):
        verification.add_problem(problem)
    found = existing_stores(store)
    for name in store.spec.buckets.names:
        if name not in found:
            verification.add_problem(
                f"{bucket_folder(name)} is missing, or its zarr.json is damaged; repeat tcae encode-dataset"
            )
        elif store.is_complete and not found[name].is_complete:
            verification.add_problem(
                f"{bucket_folder(name)} is not complete, though the store is; repeat tcae encode-dataset"
            )
        elif found[name].spec.metadata_updates != store.spec.metadata_updates:
            verification.add_problem(
                f"{bucket_folder(name)} has older labels and captions than the store, whose update was interrupted; "
                f"repeat tcae encode-dataset, which completes it"
            )
    checked = {name: _check_store(verification.of_bucket(name, bucket)) for name, bucket in found.items()}
    totals = Totals()
    for part in checked.values():
        totals.merge(part.shards.totals)
    num_shards = sum(part.verification.store.spec.num_shards for part in checked.values())
    if store.is_complete and len(found) == len(store.spec.buckets.names) and totals.num_shards == num_shards:
        _check_tables(verification, totals)
    return checked


def _check_store(verification: Verification) -> CheckedStore:
    """Check a store that holds rows: its arrays, its shards and, once it is complete, its tables."""
    store = verification.store
    shards = _check_shards(verification)
    if store.is_complete and shards.totals.num_shards == store.spec.num_shards:
        _check_tables(verification, shards.totals)
    return CheckedStore(verification, shards)


def _check_tables(verification: Verification, totals: Totals) -> None:
    # The shards may take hours, in which others append to a store or retry rows.
    store, now = verification.store, StoreHandle(verification.store.folder)
    if now.is_complete and now.generation == store.generation:
        for problem in check_tables(now, totals):
            verification.add_problem(problem)
    else:
        verification.not_checked.append(
            f"{verification.where}the statistics and the failures: the store was reopened meanwhile"
        )


def _check_shards(verification: Verification) -> CheckedShards:
    """Check the arrays' metadata and every shard that has a record, several at a time."""
    spec = verification.store.spec
    array_problems = check_arrays(verification.store)
    for problem in array_problems:
        verification.add_problem(problem)
    checker = ShardChecker(verification.store, with_side_arrays=not array_problems)
    shards = CheckedShards()

    def take(found: ShardCheck) -> None:  # they come in order
        for problem in found.problems:
            verification.add_problem(problem)
        if found.record is None and not found.problems and verification.store.is_complete:
            verification.add_problem(
                f"{record_name(found.shard)} is missing, though the store is complete; repeat tcae encode-dataset"
            )
        shards.add(found)
        verification.progress.advance(len(spec.rows_of_shard(found.shard)))

    verification.progress.start("check", spec.num_rows, unit="rows")
    num_threads = min(_MOST_THREADS, len(os.sched_getaffinity(0)))
    run_pipeline(range(spec.num_shards), [Stage(checker.check, num_threads)], take)
    return shards


def joined(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    """Return arrays of one axis, one after another; of none, an empty one of this dtype."""
    return np.concatenate([np.empty(0, dtype), *parts])
