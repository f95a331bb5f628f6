"""Gives each shard to one rank of a launch at a time, by claims: small files that are created exclusively.

A rank claims a shard before it begins it. Where the lease of that rank has ended, another creates the claim with the
next number; the latest claim of a shard counts, and a rank whose claim is not the latest must not write the shard.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tcae_cli.errors import DiskError
from tcae_cli.runtime.checksums import crc32c_of
from tcae_cli.runtime.folder import Folder
from tcae_cli.store.layout import PRIVATE_FOLDER, shard_file
from tcae_cli.store.record import FileRecord, ShardRecord, read_unchecked, record_name
from tcae_cli.store.spec import StoreSpec

_FOLDER = f"{PRIVATE_FOLDER}/claims"
_NAME = re.compile(rf"{re.escape(_FOLDER)}/(\d+)\.(\d+)\.json")  # shard, number of the claim
_REMOVED_TOGETHER = 64


class ClaimLost(Exception):
    """Raised where another rank has taken over the shard that this rank is about to write."""


@dataclass(frozen=True)
class Holder:
    """The process that made a claim."""

    member: str  # its place in the launch, as its lease names it
    owner: str  # its name, which marks its temporary files


@dataclass(frozen=True)
class Claim:
    """The right of this process to write one shard."""

    folder: Folder
    shard: int
    number: int  # of the claim: 0 for the first of a shard

    def check(self) -> None:
        """Raise ClaimLost unless this is the latest claim of the shard."""
        mine, later = self.folder.read_many([_name(self.shard, self.number), _name(self.shard, self.number + 1)])
        if _holder(mine).owner != self.folder.owner or later is not None:
            raise ClaimLost(f"another rank has taken over shard {self.shard}")

    def give_back(self) -> None:
        """Remove the claim of a shard that needs no work."""
        self.folder.remove([_name(self.shard, self.number)])


@contextmanager
def naming_lost_claims(claim: Claim | None) -> Iterator[None]:
    """Turn a DiskError into ClaimLost where the shard was taken over: that rank removes this one's temporary files."""
    try:
        yield
    except DiskError:
        if claim:
            claim.check()
        raise


def claim_shard(folder: Folder, member: str, shard: int, number: int) -> Claim | None:
    """Claim a shard under the next number of a claim; return None if another process has done so first."""
    content = json.dumps({"member": member, "owner": folder.owner}).encode()
    return Claim(folder, shard, number) if folder.create(_name(shard, number), content) else None


def latest_claims(folder: Folder) -> dict[int, int]:
    """Return the number of the latest claim of every shard that has been claimed."""
    latest: dict[int, int] = {}
    for shard, number in _claims_among(folder.sizes(_FOLDER)):
        latest[shard] = max(number, latest.get(shard, 0))
    return latest


def holders(folder: Folder, claims: Sequence[tuple[int, int]]) -> list[Holder]:
    """Return the holders of claims, each given by its shard and number."""
    return [_holder(data) for data in folder.read_many([_name(shard, number) for shard, number in claims])]


def shut_out(spec: StoreSpec, claim: Claim) -> None:
    """Remove what the earlier holders of a shard have written and not published: they cannot publish it after that.

    Of a file that they wrote before this claim was made, the temporary file is removed here; before they publish one
    that they wrote after that, they find this claim.
    """
    names = [shard_file(spec, array, claim.shard) for array in (*spec.latent_arrays, *spec.side_arrays)]
    earlier = [(claim.shard, number) for number in range(claim.number)]
    for owner in {holder.owner for holder in holders(claim.folder, earlier)}:
        claim.folder.discard_parts(owner, [*names, record_name(claim.shard)])


def claimed_again(folder: Folder) -> set[int]:
    """Return the shards that were claimed more than once."""
    return {shard for shard, number in latest_claims(folder).items() if number}


def withdraw_mixed(folder: Folder, shards: Sequence[int]) -> bool:
    """Remove the records of these shards that do not fit their files, and return whether there are any.

    Such a shard is encoded again. Where it was claimed more than once, the files of one rank may have come under the
    record of another: where an object store keeps an upload that began before, for one.
    """
    mixed = [record for record in read_unchecked(folder, shards) if not _fits_its_files(folder, record)]
    folder.remove([record_name(record.shard) for record in mixed])
    return bool(mixed)


def clear_claims(folder: Folder, shards: Sequence[int], live_owners: Callable[[], set[str]]) -> None:
    """Remove the claims on these shards that an earlier launch left, once their records are known to fit their files.

    Shards that a live process has claimed keep their claims: this rank may have been started again within its launch.
    """
    found = [claim for claim in _claims_among(folder.sizes(_FOLDER)) if claim[0] in shards]
    if not found:
        return
    owners = live_owners()
    held = zip(found, holders(folder, found), strict=True)
    kept = {shard for (shard, _), holder in held if holder.owner in owners}
    left = [claim for claim in found if claim[0] not in kept]
    withdraw_mixed(folder, sorted({shard for shard, number in left if number}))
    _remove(folder, left)


def remove_claims(folder: Folder) -> None:
    """Remove all claims of a store that is complete."""
    _remove(folder, _claims_among(folder.sizes(_FOLDER)))


def _remove(folder: Folder, found: Sequence[tuple[int, int]]) -> None:
    claims = [_name(*claim) for claim in found]
    together = [claims[start : start + _REMOVED_TOGETHER] for start in range(0, len(claims), _REMOVED_TOGETHER)]
    for _ in folder.in_order(folder.remove, together):
        pass


def _name(shard: int, number: int) -> str:
    return f"{_FOLDER}/{shard:06d}.{number}.json"


def _claims_among(names: Iterable[str]) -> list[tuple[int, int]]:
    """Return the shard and the number of each claim among the names of files."""
    return [(int(found[1]), int(found[2])) for name in names if (found := _NAME.fullmatch(name))]


def _holder(data: bytes | None) -> Holder:
    """Return the holder that a claim's file names; one that no process has if it is gone or damaged."""
    try:
        content: Mapping[str, str] = json.loads(data or b"")
        return Holder(str(content["member"]), str(content["owner"]))
    except (ValueError, KeyError, TypeError):
        return Holder("", "")


def _fits_its_files(folder: Folder, record: ShardRecord) -> bool:
    found = zip(record.files.items(), folder.read_many(list(record.files)), strict=True)
    for (name, file), data in found:
        is_now = FileRecord(size=len(data), crc32c=crc32c_of(data)) if data is not None else None
        if is_now not in (file, record.replacing.get(name, file)):
            return False
    return True
