"""Describes the export of a store of buckets: an export of each bucket, in a folder that has the bucket's name."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tcae_cli.exports import provenance
from tcae_cli.exports.lock import only_run
from tcae_cli.exports.provenance import Provenance
from tcae_cli.store.handle import StoreHandle

_OF_ALL = ("format", "view", "encoder", "values", "scale", "generator", "posterior", "tool_versions", "complete")


@contextmanager
def around_buckets(folder: Path, root: StoreHandle, abouts: Mapping[str, Provenance]) -> Iterator[None]:
    """Let a folder state what all exports below it hold: incomplete while they are written, complete afterwards.

    abouts: the provenance of each bucket's export, by the bucket's name. Raises UsageError if the folder holds another
    export or something else, DiskError if another process is writing it.
    """
    first = next(iter(abouts.values()))
    about = {name: first[name] for name in _OF_ALL if name in first} | {
        "store": root.folder.uri,
        "num_rows": sum(each["num_rows"] for each in abouts.values()),
        "source": root.spec.source.model_dump(include={"uri", "fingerprint", "count"}),
        "statistics": {**root.attributes["statistics"][first["view"]], "of": "raw"},
        "buckets": list(abouts),
    }
    provenance.is_complete(folder, about)  # refused before a lock is created
    with only_run(folder, folder):
        provenance.begin(folder, about)
        yield
        provenance.complete(folder, about)
