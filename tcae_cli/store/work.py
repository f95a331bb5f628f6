"""Gives a process the shards to encode, one after another: those of a plan, or those that its launch shares.

A store of buckets is several stores, whose shards are taken one store after the other.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from tcae_cli.reports.progress import Progress
from tcae_cli.runtime.local_folder import no_check
from tcae_cli.store.claims import (
    Claim,
    claim_shard,
    claimed_again,
    holders,
    latest_claims,
    shut_out,
    withdraw_mixed,
)
from tcae_cli.store.lease import Lease
from tcae_cli.store.record import RECORDS_FOLDER, read_unchecked, record_name, shards_of_records
from tcae_cli.store.shares import Shares
from tcae_cli.store.writer import ShardPlan, StoreWriter

_FIRST_LOOK_S, _LOOK_EVERY_S = 0.05, 2.0  # of a rank that waits for the others to commit their last shards


class Work(Protocol):
    """Gives shards of one store to encode."""

    num_rows: int  # of this process's own shards
    num_done: int  # of these, rows that were committed before

    def take_own(self) -> ShardPlan | None:
        """Return a shard of this process's own that it may encode; None if there is none left."""

    def take_of_others(self, *, is_idle: bool) -> ShardPlan | None:
        """Return a shard of another rank that this process may encode; None if there is none at the moment.

        is_idle: all shards that this process has taken have been committed or given up.
        """

    def is_done(self) -> bool:
        """Return whether all shards are committed, as far as is known."""

    def is_reopened(self) -> bool:
        """Return whether a shard that was committed turned out to have to be encoded again."""


class AllWork:
    """The work of a process on all stores of a run: the buckets of one, or a store by itself."""

    def __init__(self, works: Sequence[Work], check: Callable[[], None] = no_check) -> None:
        self._works = works
        self._check = check  # raises if this process must no longer write
        self.num_rows = sum(work.num_rows for work in works)
        self.num_done = sum(work.num_done for work in works)

    def take(self, *, is_idle: bool = False) -> ShardPlan | None:
        """Return a shard that this process may encode, its own before those of others; None if there is none now."""
        for store, work in enumerate(self._works):
            if plan := work.take_own():
                return replace(plan, store=store)
        for store, work in enumerate(self._works):
            if plan := work.take_of_others(is_idle=is_idle):
                return replace(plan, store=store)
        return None

    def wait(self) -> ShardPlan | None:
        """Return a shard as soon as there is one; None once all shards are committed.

        To be called when all shards that were taken have been committed or given up.
        """
        pause_s = _FIRST_LOOK_S
        while not all(work.is_done() for work in self._works):
            if plan := self.take(is_idle=True):
                return plan
            self._check()
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LOOK_EVERY_S)
        return None

    def is_reopened(self) -> bool:
        """Return whether a shard that was committed turned out to have to be encoded again."""
        found = [work.is_reopened() for work in self._works]  # each withdraws the records of its own
        return any(found)


class PlannedWork:
    """The Work of a process that is alone in its launch."""

    def __init__(self, writer: StoreWriter, shards: Sequence[int]) -> None:
        plans = writer.plan(shards)
        self.num_rows, self.num_done = _rows(writer, shards, plans)
        self._plans = deque(plans)

    def take_own(self) -> ShardPlan | None:
        return self._plans.popleft() if self._plans else None

    def take_of_others(self, *, is_idle: bool) -> ShardPlan | None:
        return None

    def is_done(self) -> bool:
        return not self._plans

    def is_reopened(self) -> bool:
        return False


class SharedWork:
    """The Work of one rank of a launch, which claims each shard before it begins it."""

    def __init__(self, writer: StoreWriter, lease: Lease, shares: Shares, progress: Progress) -> None:
        self._writer, self._folder, self._lease = writer, writer.folder, lease
        self._shares, self._progress = shares, progress
        self._own = set(shares.shares[shares.rank])
        self._all = {shard for share in shares.shares for shard in share}
        self._recorded_before = self._recorded()
        own = shares.shares[shares.rank]
        plans = writer.plan(own)
        self.num_rows, self.num_done = _rows(writer, own, plans)
        self._done = self._own - {plan.shard for plan in plans}
        self._claimed: dict[int, int] = {}  # the number of the latest claim that is known of
        self._last: int | None = None
        self._is_idle = False  # nothing that this process has taken is under way
        self._has_helped = False

    def take_own(self) -> ShardPlan | None:
        return self._take(lambda: self._shares.next_of_own(self))

    def take_of_others(self, *, is_idle: bool) -> ShardPlan | None:
        if self.is_done():
            return None
        self._is_idle = is_idle
        return self._take(lambda: self._shares.next_of_others(self, self._last))

    def is_done(self) -> bool:
        return self._done >= self._all

    def is_reopened(self) -> bool:
        again = sorted(self._all & claimed_again(self._folder))
        withdraw_mixed(self._folder, again)
        self._done -= set(again) - self._recorded()
        return not self.is_done()

    def look_again(self) -> None:
        self._claimed = latest_claims(self._folder)
        recorded = (self._recorded() & self._all) - self._done
        self._done |= recorded - self._recorded_before
        # A record of an earlier run may be that of a shard that was opened again.
        found = read_unchecked(self._folder, sorted(recorded & self._recorded_before))
        self._done |= {record.shard for record in found if record.is_committed(self._writer.spec)}

    def is_open(self, shard: int) -> bool:
        return shard in self._all and shard not in self._done and shard not in self._claimed

    def abandoned(self) -> Iterable[int]:
        begun = sorted((self._all & self._claimed.keys()) - self._done)
        found = holders(self._folder, [(shard, self._claimed[shard]) for shard in begun])
        ended = {holder: self._has_ended(holder.member, holder.owner) for holder in set(found)}
        return [shard for shard, holder in zip(begun, found, strict=True) if ended[holder]]

    def _take(self, choose: Callable[[], int | None]) -> ShardPlan | None:
        while (shard := choose()) is not None:
            number = self._claimed[shard] + 1 if shard in self._claimed else 0
            claim = claim_shard(self._folder, self._lease.member, shard, number)
            self._claimed[shard] = number
            self._last = shard
            if claim and (plan := self._plan(claim)):
                self._say(claim)
                return plan
        return None

    def _plan(self, claim: Claim) -> ShardPlan | None:
        """Return the plan of a shard that was claimed just now; None if it was committed before that."""
        writer, shard = self._writer, claim.shard
        if claim.number:
            shut_out(writer.spec, claim)
        names = writer.leftovers(shard)
        found = [name for name, data in zip(names, self._folder.read_many(names), strict=True) if data is not None]
        if record_name(shard) in found:
            plan = next(iter(writer.plan([shard])), None)
            if plan is None:
                self._done.add(shard)
                claim.give_back()
                return None
            if plan.record:
                return replace(plan, claim=claim)
        self._folder.remove(found)
        rows = writer.spec.rows_of_shard(shard)
        return ShardPlan(shard, rows, rows, None, claim)

    def _say(self, claim: Claim) -> None:
        if claim.number:
            self._progress.say(f"rank {self._shares.rank} takes over shard {claim.shard} from a rank that has ended")
        elif claim.shard not in self._own and not self._has_helped:
            self._has_helped = True
            self._progress.say(f"rank {self._shares.rank} has done its own shards and takes those of other ranks")

    def _recorded(self) -> set[int]:
        """Return the shards of the store that have a record, whether it is that of a committed shard or not."""
        return shards_of_records(self._folder.sizes(RECORDS_FOLDER))

    def _has_ended(self, member: str, owner: str) -> bool:
        if owner == self._folder.owner:
            return self._is_idle
        return self._lease.has_ended(member, owner)


def _rows(writer: StoreWriter, shards: Sequence[int], plans: Sequence[ShardPlan]) -> tuple[int, int]:
    """Return how many rows shards have, and how many of them are committed."""
    num_rows = sum(len(writer.spec.rows_of_shard(shard)) for shard in shards)
    return num_rows, num_rows - sum(len(plan.todo) for plan in plans)
