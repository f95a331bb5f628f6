"""`tcae info`: describes a store and how far it is, from its root, its records, its index and two small arrays."""

import json
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tcae_cli.errors import StoreError
from tcae_cli.reports.described import EARLIER
from tcae_cli.reports.progress import Progress
from tcae_cli.reports.store import InfoReport, InfoRequest
from tcae_cli.runtime.folder import open_pinned
from tcae_cli.sources.index import SUMMARY_FILE
from tcae_cli.store.buckets import existing_stores
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.layout import index_folder, read_array
from tcae_cli.store.lease import live_leases
from tcae_cli.store.reader import LatentStore
from tcae_cli.store.record import file_sizes, read_records, record_name
from tcae_cli.store.spec import StoreSpec, deviations_of
from tcae_cli.store.statistics import LatentMoments
from tcae_cli.store.totals import Totals

_FAILURES_SHOWN = 5
_GROUPS_SHOWN, _KEYS_SHOWN = 3, 3
_NEARLY_DEAD = 0.01  # of the overall deviation


def describe_store(request: InfoRequest, _: Progress) -> InfoReport:
    """Describe a store without writing to it. Raises StoreError if there is none, or its metadata cannot be read."""
    store = StoreHandle(open_pinned(request.store))
    spec = store.spec
    parts = {name: _Part(each) for name, each in existing_stores(store).items()}
    totals = Totals()
    for part in parts.values():
        totals.merge(part.totals)

    failures = [failure for failure in totals.failures if failure.counts]
    quantisation = spec.quantisation
    return InfoReport(
        store=request.store,
        complete=store.is_complete,
        created_at=spec.created_at,
        tool_versions=spec.tool_versions,
        num_rows=spec.num_rows,
        rows={
            "ok": totals.num_ok,
            "failed": totals.num_counted,
            "pending": spec.num_rows - totals.num_ok - totals.num_failed,
            "encoded_again_in_float32": totals.num_again,
        },
        num_repaired=totals.num_repaired,
        num_too_small=totals.num_too_small,
        num_shards=sum(part.spec.num_shards for part in parts.values()),
        num_shards_committed=sum(part.num_committed for part in parts.values()),
        num_shards_damaged=sum(part.num_damaged for part in parts.values()),
        rows_per_shard=spec.rows_per_shard,
        writers=live_leases(store.folder),
        views={
            name: {"size": view.size, "flip": view.flip, "shape": list(spec.sample_shape(name))}
            for name, view in spec.views.items()
        },
        buckets=[_bucket(name, part, spec) for name, part in parts.items()] if spec.buckets else [],
        dtype=spec.dtype,
        codec=spec.codec,
        encoder=spec.encoder.model_dump(mode="json"),
        generators_take=takes.words if (takes := spec.encoder.generators_take) else None,
        transform=spec.transform.model_dump(mode="json"),
        compute=spec.compute.model_dump(mode="json"),
        source=spec.source.model_dump(mode="json"),
        **_described(store),
        **_bytes(store, list(parts.values()), totals.num_ok),
        failures_by_stage=dict(Counter(failure.stage for failure in failures).most_common()),
        failures=failures[:_FAILURES_SHOWN],
        duplicates=_duplicates([part.uri for part in parts.values()]),
        statistics={view: _statistics(totals.moments[view]) for view in spec.views if view in totals.moments},
        posterior={view: _share_of_posterior(totals.moments, view) for view in spec.views if view in totals.moments}
        if spec.latent.posterior
        else {},
        quantisation=_quantisation(spec, totals),
        psnr_float32=quantisation.psnr_float32 if quantisation else None,
        psnr_int8=quantisation.psnr_int8 if quantisation else None,
    )


class _Part:
    """The committed shards of a store that holds rows: of a bucket, or of a store by itself."""

    def __init__(self, store: StoreHandle) -> None:
        self.uri, self.spec = store.folder.uri, store.spec
        self.sizes = file_sizes(store.folder, store.spec)
        self.totals, self.num_committed, self.num_damaged = Totals(), 0, 0
        for shard, record in read_records(store.folder, range(self.spec.num_shards), self.sizes):
            if record:
                self.totals.add(record)
                self.num_committed += record.is_committed(self.spec)
            else:
                self.num_damaged += record_name(shard) in self.sizes


def _bucket(name: str, part: _Part, root: StoreSpec) -> dict[str, Any]:
    totals, num_rows = part.totals, part.spec.num_rows
    return {
        "name": name,
        "num_rows": num_rows,
        "share": num_rows / root.num_rows,
        "failed": totals.num_counted,
        "pending": num_rows - totals.num_ok - totals.num_failed,
        "shape": list(part.spec.sample_shape()),
    }


def _described(store: StoreHandle) -> dict[str, Any]:
    """Return how many rows have a label and a caption, by the place that states them."""
    (summary,) = store.folder.read_many([f"{index_folder(store.spec)}/{SUMMARY_FILE}"])
    try:
        described = json.loads(summary or b"{}")
        counts = {
            name: {str(place): int(count) for place, count in described[name].items()}
            for name in ("labels_from", "captions_from")
        }
    except (ValueError, LookupError, TypeError, AttributeError):  # of an earlier version, which did not write them
        names = {"labels_from": "labels"} | ({"captions_from": "captions"} if store.spec.has_captions else {})
        counts = {}
        for name, array in names.items():
            with _damage_as_one_sentence(store.folder.uri):
                cells = read_array(store.folder, array)
            count = int((cells >= 0).sum()) if array == "labels" else sum(map(bool, cells))
            counts[name] = {EARLIER: count} if count else {}
    return counts if store.spec.has_captions else counts | {"captions_from": {}}


@contextmanager
def _damage_as_one_sentence(path: str) -> Iterator[None]:
    """Raise StoreError where metadata or chunks turn out to be damaged."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path} is damaged ({error}); tcae verify {path} says where") from error


def _bytes(store: StoreHandle, parts: Sequence[_Part], num_ok: int) -> dict[str, Any]:
    of_parts = sum(sum(part.sizes.values()) for part in parts)
    has_more = store.spec.buckets and store.folder.can_list
    on_disk = sum(store.folder.sizes().values()) if has_more else of_parts
    of_latents, raw, pixels = 0, 0, 0
    for part in parts:
        spec = part.spec
        of_latents += sum(size for name, size in part.sizes.items() if name.rpartition("/c.")[0] in spec.latent_arrays)
        values = sum(int(np.prod(spec.sample_shape(array))) for array in spec.latent_arrays)
        raw += part.totals.num_ok * values * np.dtype(spec.dtype).itemsize
        pixels += part.totals.num_ok * sum(3 * height * width for height, width in spec.shapes)
    return {
        "bytes_on_disk": on_disk,
        "bytes_per_image": on_disk / num_ok if num_ok else None,
        "share_of_raw_latents": of_latents / raw if raw else None,
        "share_of_pixels": on_disk / pixels if pixels else None,
    }


def _duplicates(paths: Sequence[str]) -> dict[str, Any]:
    """Return the groups of ok rows whose images had the same bytes, over all stores at these paths."""
    found: list[tuple[LatentStore, np.ndarray, np.ndarray]] = []
    for path in paths:
        with warnings.catch_warnings(action="ignore"):  # of a store that is not complete
            store = LatentStore(path)
        with _damage_as_one_sentence(path):
            hashes, ok = store.content_hash(), store.ok_rows
            ok = ok[ok < len(hashes)]  # while rows are appended
            found.append((store, ok, hashes[ok]))
    together = np.concatenate([hashes for _, _, hashes in found]) if found else np.empty(0, np.uint64)
    firsts = np.cumsum([0, *(len(ok) for _, ok, _ in found)])

    def key(place: int) -> str:
        number = int(np.searchsorted(firsts, place, side="right")) - 1
        store, ok, _ = found[number]
        with _damage_as_one_sentence(store.folder.uri):
            return store.keys(int(ok[place - firsts[number]]))

    _, first, group, counts = np.unique(together, return_index=True, return_inverse=True, return_counts=True)
    many = np.flatnonzero(counts > 1)
    shown = many[np.argsort(first[many])][:_GROUPS_SHOWN]
    keys = [[key(int(place)) for place in np.flatnonzero(group == number)[:_KEYS_SHOWN]] for number in shown]
    return {"num_groups": len(many), "num_rows": int(counts[many].sum()), "keys": keys}


def _statistics(moments: LatentMoments) -> dict[str, Any]:
    summary, std = moments.summary(), moments.channel.std
    return {
        "mean": summary["mean"],
        "std": summary["std"],
        "channel_std_min": float(std.min()),
        "channel_std_max": float(std.max()),
        "num_channels": len(std),
        "num_nearly_dead": int((std < _NEARLY_DEAD * summary["std"]).sum()),
    }


def _share_of_posterior(moments: Mapping[str, LatentMoments], view: str) -> float:
    """Return the mean of a view's squared deviations over the variance of what is drawn from its posterior."""
    drawn, std = moments[view].summary(), moments[deviations_of(view)].summary()
    return float((std["mean"] ** 2 + std["std"] ** 2) / drawn["std"] ** 2) if drawn["std"] else 0.0


def _quantisation(spec: StoreSpec, totals: Totals) -> dict[str, dict[str, Any]]:
    if spec.quantisation is None:
        return {}
    return {
        view: {
            "scale_min": min(scale),
            "scale_max": max(scale),
            "relative_rmse": spec.quantisation.relative_rmse[view],
            "num_clipped": totals.num_clipped.get(view, 0),
        }
        for view, scale in spec.quantisation.scale.items()
    }
