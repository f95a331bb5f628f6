"""Commits a shard by a small record, which is created last. A shard without a record counts as missing.

A shard that is reopened, because images are appended or failed ones are tried again, keeps its record: its ok rows stay
ok. While its files are replaced the record also names the new ones, so that each file may be either.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from tcae_cli.errors import StoreError
from tcae_cli.reports.failure import Failure
from tcae_cli.runtime.checksums import crc32c_of_json
from tcae_cli.runtime.folder import Folder
from tcae_cli.store.layout import PRIVATE_FOLDER
from tcae_cli.store.spec import StoreSpec

RECORDS_FOLDER = f"{PRIVATE_FOLDER}/commits"

_RECORD_NAME = re.compile(rf"{re.escape(RECORDS_FOLDER)}/(\d{{6,}})\.json")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRecord(_Part):
    """A file of the store as it was committed."""

    size: int  # bytes
    crc32c: int


class ShardRecord(_Part):
    """The commit of one shard."""

    shard: int
    first_row: int
    num_rows: int  # fewer than the shard has, once more rows were appended
    num_ok: int
    num_failed: int
    num_again: int = 0  # images encoded once more in float32, since their latents were not finite
    num_clipped: dict[str, int] = {}  # of each int8 array of latents: values beyond what its scale holds
    files: dict[str, FileRecord]  # by name inside the store
    failures: list[Failure]
    statistics: dict[str, dict[str, Any]] | None  # of each latent array, LatentMoments of ok rows; None: there are none
    reopened: bool = False  # its failed rows are to be tried again
    replacing: dict[str, FileRecord] = {}  # the files that take the place of `files`
    crc32c: int | None = None  # of the record as canonical JSON without it; None in format version 1

    @property
    def failures_to_retry(self) -> list[Failure]:
        """The failures of rows that may hold an image some day."""
        return [failure for failure in self.failures if failure.counts]

    def fits(self, sizes: Mapping[str, int]) -> bool:
        """Return whether all its files exist with the size of the committed file or of the one that replaces it."""
        return all(
            sizes.get(name) in {file.size, self.replacing.get(name, file).size} for name, file in self.files.items()
        )

    def is_committed(self, spec: StoreSpec) -> bool:
        """Return whether the shard needs no more work."""
        return not self.reopened and not self.replacing and self.num_rows == len(spec.rows_of_shard(self.shard))


def record_name(shard: int) -> str:
    """Return the name of the file of a shard's record."""
    return f"{RECORDS_FOLDER}/{shard:06d}.json"


def record_file(spec: StoreSpec, record: ShardRecord) -> dict[str, bytes]:
    """Return the file that commits a shard of a store, as its bytes by its name."""
    content = record.model_dump(mode="json", exclude={"crc32c"})
    if spec.has_checksums:
        content["crc32c"] = crc32c_of_json(content)
    return {record_name(record.shard): json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()}


def write_record(folder: Folder, spec: StoreSpec, record: ShardRecord) -> None:
    """Commit a shard, all files of which have been written."""
    folder.write(record_file(spec, record))


def read_records(
    folder: Folder, shards: Sequence[int], sizes: Mapping[str, int]
) -> Iterator[tuple[int, ShardRecord | None]]:
    """Yield each shard with its record; None if it has none, or a file of it has another size than was committed.

    `sizes` holds the sizes of the store's files in bytes, as `folder.sizes()` returns them.
    """
    for shard, data in zip(shards, folder.read_many([record_name(shard) for shard in shards]), strict=True):
        record = parse_record(folder, shard, data) if data is not None else None
        yield shard, record if record and record.fits(sizes) else None


def file_sizes(folder: Folder, spec: StoreSpec) -> dict[str, int]:
    """Return the sizes of a store's files in bytes; where a server lists none, those that the shards' records say."""
    if folder.can_list:
        return folder.sizes()
    records = read_unchecked(folder, range(spec.num_shards))
    return {name: file.size for record in records for name, file in record.files.items()}


def read_unchecked(folder: Folder, shards: Sequence[int]) -> list[ShardRecord]:
    """Return the records of those of these shards that have one, whatever has become of their files."""
    names = [record_name(shard) for shard in shards]
    found = zip(shards, folder.read_many(names), strict=True)
    return [parse_record(folder, shard, data) for shard, data in found if data is not None]


def shards_of_records(names: Iterable[str]) -> set[int]:
    """Return the shards whose records are among files of these names."""
    return {int(found[1]) for name in names if (found := _RECORD_NAME.fullmatch(name))}


def parse_record(folder: Folder, shard: int, data: bytes) -> ShardRecord:
    """Return the record in a file's bytes. Raises StoreError if it is damaged."""
    try:
        record = ShardRecord.model_validate_json(data)
        if record.crc32c is not None:
            content = json.loads(data)
            if content.pop("crc32c") != crc32c_of_json(content):
                raise ValueError("it does not match its CRC-32C")
        return record
    except ValueError as error:  # pydantic's own among them
        raise StoreError(
            f"{folder.uri}/{record_name(shard)} is damaged; remove it and repeat: its shard is then encoded again"
        ) from error
