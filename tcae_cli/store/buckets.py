"""Treats a store of buckets as one store, and each bucket as the store it is.

The root is reopened before its buckets and completed after them: under a complete root all buckets are complete.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import blake2b

from tcae_cli.errors import StoreError, UsageError
from tcae_cli.runtime.folder import Folder, open_folder
from tcae_cli.runtime.remote import is_remote
from tcae_cli.store.bucket_spec import bucket_spec
from tcae_cli.store.commit import (
    append_rows,
    can_read_tables,
    complete,
    finalise,
    forget_finish,
    is_whole,
    nodes_of,
    reopen,
    reopen_unless_whole,
    statistics_files,
    totals_of,
)
from tcae_cli.store.handle import StoreHandle, create_store, find_store, fit_arrays
from tcae_cli.store.layout import BUCKETS, ROOT, bucket_folder
from tcae_cli.store.metadata import group_file, parse_metadata, sealed_names
from tcae_cli.store.record import RECORDS_FOLDER
from tcae_cli.store.spec import SourceIdentity, StoreSpec
from tcae_cli.store.totals import Totals
from tcae_cli.store.update import (
    CHANGED,
    Described,
    changes_of,
    copied_nodes,
    make_current,
    prepare_update,
    updated_arrays,
)


def stores_of(store: StoreHandle) -> dict[str, StoreHandle]:
    """Return the stores that hold the rows: the buckets of a store that has any, by name, or "" and the store itself.

    Raises StoreError if a bucket is missing.
    """
    if store.spec.buckets is None:
        return {"": store}
    return {name: StoreHandle(_folder(store, name)) for name in store.spec.buckets.names}


def existing_stores(store: StoreHandle) -> dict[str, StoreHandle]:
    """Return the same, without buckets that cannot be opened: those of a creation that was killed, for one."""
    if store.spec.buckets is None:
        return {"": store}
    found = {}
    for name in store.spec.buckets.names:
        with suppress(StoreError):
            found[name] = StoreHandle(_folder(store, name))
    return found


def whole_of(folder: Folder) -> StoreHandle | None:
    """Return the store that the one in this folder is a bucket of, None if it is none."""
    uri = (folder.uri if is_remote(folder.uri) else os.path.abspath(folder.uri)).rstrip("/")
    whole, _, name = uri.rpartition(f"/{BUCKETS}/")
    try:
        root = find_store(open_folder(whole)) if whole else None
    except StoreError:  # something else
        return None
    return root if root and root.spec.buckets and name in root.spec.buckets.names else None


def refuse_a_bucket(folder: Folder) -> None:
    """Raise UsageError if a store is in this folder that is a bucket of another: its rows change with all others."""
    if root := whole_of(folder):
        raise UsageError(f"{folder.uri} is a bucket of {root.folder.uri}; name {root.folder.uri}")


def make_buckets(root: StoreHandle, counts: Mapping[str, int]) -> None:
    """Let the buckets of a store hold as many rows as are counted for each, in this order; new ones are created.

    A bucket that has lost files is reopened, and one that was removed is made anew.
    """
    assert root.spec.buckets
    names = list(counts)
    if names != root.spec.buckets.names:
        buckets = root.spec.buckets.model_copy(update={"names": names})
        reopen(root, buckets=buckets.model_dump(mode="json"))
    if not root.is_complete:
        forget_finish(root)
    for name, count in counts.items():
        _make_bucket(root, name, bucket_identity(root.spec, name, count))
    tables = [f"{node}/{ROOT}" for node in root.consolidated if node.partition("/")[0] == "statistics"]
    if root.is_complete and not (tables and can_read_tables(root, tables)):
        reopen(root)


def restore_buckets(root: StoreHandle) -> None:
    """Give the buckets of a store whose zarr.json is gone or damaged the copy that the root has, where it has one."""
    names = root.spec.buckets.names if root.spec.buckets else []
    existing = existing_stores(root)
    for name in (name for name in names if name not in existing):
        folder, copy = _folder(root, name), root.consolidated.get(bucket_folder(name))
        if copy and folder.sizes():
            attributes = copy["attributes"] | {"complete": False, "statistics": None}
            folder.write({ROOT: group_file(attributes, sealed_names(copy))})


def _make_bucket(root: StoreHandle, name: str, identity: SourceIdentity) -> None:
    folder, spec = _folder(root, name), bucket_spec(root.spec, name, identity)
    try:
        bucket = find_store(folder)
    except StoreError as error:
        raise StoreError(
            f"{folder.uri}/{ROOT} is missing or damaged; remove {folder.uri} and repeat, which encodes its images again"
        ) from error
    if bucket is None:
        reopen(root)
        folder.make()
        create_store(folder, spec)
        return
    _follow(root.spec, name, bucket)
    if root.is_complete and not (is_whole(bucket) and bucket.spec.source == identity):
        reopen(root)
    batch_size = min(root.spec.compute.batch_size, bucket.spec.rows_per_shard)
    compute = root.spec.compute.model_copy(update={"batch_size": batch_size})
    if compute != bucket.spec.compute and not folder.sizes(RECORDS_FOLDER):
        bucket.write_root(compute=compute.model_dump(mode="json"))
    reopen_unless_whole(bucket)
    if bucket.spec.source != identity:
        append_rows(bucket, identity)
    bucket.refresh()  # rows that another part has appended meanwhile must not be taken away
    fit_arrays(bucket)


def finish(store: StoreHandle) -> bool:
    """Complete a store, after its buckets if it has any; return as finalise does."""
    if store.spec.buckets is None:
        return finalise(store)
    store.refresh()
    generation, totals = store.generation, Totals()
    below: dict[str, bytes] = {f"{BUCKETS}/{ROOT}": group_file({}, ())}
    for name, bucket in stores_of(store).items():
        finalise(bucket)
        bucket.refresh()
        of_bucket = totals_of(bucket) if bucket.is_complete else None
        if of_bucket is None:
            return False
        totals.merge(of_bucket)
        below |= {f"{bucket_folder(name)}/{file}": data for file, data in _nodes_and_root(bucket).items()}
    return complete(store, generation, totals, statistics_files(store.spec, totals), below)


def update_metadata(
    root: StoreHandle, new: StoreSpec, described: Mapping[str, Described], check: Callable[[], None]
) -> None:
    """Give a store, or all its buckets, the labels and captions of its source; killed at any instant, all or none.

    new: the root's, as updated_spec returns it; the index that it names has been published. described: the rows of each
    store, by name. check: raises if this process must no longer write; no other process may write meanwhile.
    """
    stores = existing_stores(root)
    specs = {name: _updated(new, name, store) for name, store in stores.items()}
    for name, store in stores.items():
        prepare_update(store, specs[name], described[name])
    check()
    if root.spec.buckets:
        copies = copied_nodes(root)
        if copies:
            for name, store in stores.items():
                below = {ROOT: store.root_file({}, **changes_of(specs[name])), **updated_arrays(store, specs[name])}
                copies |= {f"{bucket_folder(name)}/{file}": data for file, data in below.items()}
        root.write_root(copies, **changes_of(new))
    for name, store in stores.items():
        make_current(store, specs[name])


def complete_update(root: StoreHandle) -> None:
    """Let the buckets follow the root, whose labels and captions were updated by a process that was killed."""
    for name, store in existing_stores(root).items():
        _follow(root.spec, name, store)


def _follow(root: StoreSpec, name: str, store: StoreHandle) -> None:
    if store.spec.metadata_updates != root.metadata_updates:
        make_current(store, _updated(root, name, store))


def _updated(root: StoreSpec, name: str, store: StoreHandle) -> StoreSpec:
    """Return the spec of a bucket after an update of the root, whose own spec by the name "" is all of it."""
    if root.buckets is None:
        return root
    changes = {key: getattr(root, key) for key in CHANGED}
    return store.spec.model_copy(update=changes | {"source": bucket_identity(root, name, store.spec.num_rows)})


def _nodes_and_root(bucket: StoreHandle) -> dict[str, bytes]:
    """Return the zarr.json of a bucket's group, without the copies that it has itself, and those below it."""
    root = parse_metadata(bucket.folder.read(ROOT))
    return {ROOT: group_file(root["attributes"], sealed_names(root)), **nodes_of(bucket)}


def _folder(root: StoreHandle, name: str) -> Folder:
    return root.folder.below(bucket_folder(name))


def bucket_identity(root: StoreSpec, name: str, count: int) -> SourceIdentity:
    """Return the identity of the part of a store's source that becomes the rows of a bucket."""
    part = blake2b(f"{root.source.fingerprint} {name} {count}".encode(), digest_size=16)
    return root.source.model_copy(update={"count": count, "fingerprint": part.hexdigest()})
