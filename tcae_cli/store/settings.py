"""Defines the settings that a run encodes with, which make a new store or decide whether an existing one continues."""

from dataclasses import dataclass

import numpy as np

from tcae_cli.recipe.choices import MAIN_VIEW, Decode, LatentDtype
from tcae_cli.store.spec import (
    Buckets,
    CompiledOn,
    ComputeSpec,
    EncoderIdentity,
    LatentShape,
    SourceIdentity,
    StoreSpec,
    TransformSpec,
    View,
    rows_per_shard,
    sizes_of,
)


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """The settings a run encodes with: they decide whether it can continue a store, and make a new one."""

    encoder: EncoderIdentity
    transform: TransformSpec  # of a new store
    decode: Decode | None  # the user's choice; None: as the store was begun
    compute: ComputeSpec  # batches do not cross shards, so those of a store may be smaller
    compile: bool | None  # the user's choice; None: as the store was begun
    machine: CompiledOn  # this one, whether anything is compiled or not
    latent: LatentShape
    views: dict[str, View]
    dtype: LatentDtype
    codec: str
    tool_versions: dict[str, str]
    created_at: str  # of a new store: ISO 8601, UTC
    classes_given: bool = False  # of a new store
    buckets: Buckets | None = None  # without names

    def new_store(self, source: SourceIdentity, has_captions: bool) -> StoreSpec:
        """Return the spec of a store that this run makes of a source; int8 still lacks its scales."""
        largest = max(view.height * view.width for view in self.views.values())
        rows = rows_per_shard(source.count, self.latent.channels * largest * np.dtype(self.dtype).itemsize)
        batch_size = min(self.compute.batch_size, rows)
        return StoreSpec(
            encoder=self.encoder,
            transform=self.transform,
            compute=self.compute.model_copy(update={"batch_size": batch_size}),
            latent=self.latent,
            views=self.views,
            source=source,
            dtype=self.dtype,
            codec=self.codec,
            rows_per_shard=rows,
            has_captions=has_captions,
            classes_given=self.classes_given,
            buckets=self.buckets,
            tool_versions=self.tool_versions,
            created_at=self.created_at,
        )

    def compute_of(self, store: StoreSpec, *, has_rows: bool = True) -> ComputeSpec:
        """Return how this run computes the rows of a store, whose batches do not cross shards.

        has_rows: whether the store has rows already, which were compiled, or not, as the store says.
        """
        batch_size = min(self.compute.batch_size, store.rows_per_shard)
        compiled = store.compute.compiled
        if not has_rows:
            is_compiled = self.compile if self.compile is not None else compiled is not None
            compiled = self.machine if is_compiled else None
        return self.compute.model_copy(update={"batch_size": batch_size, "compiled": compiled})

    def differences(self, store: StoreSpec, *, has_rows: bool = True) -> str | None:
        """Return the settings, source aside, that keep this run from continuing a store; None if there are none.

        has_rows: whether the store has rows already; otherwise batch size and compilation may still change.
        """
        encoder, mine = store.encoder, self.encoder
        batch_size = self.compute_of(store).batch_size if has_rows else store.compute.batch_size
        was_compiled = store.compute.compiled is not None
        compiled = self.compile if has_rows and self.compile is not None else was_compiled
        pairs = [
            ("encoder", f"{encoder.hash[:12]} ({encoder.name})", f"{mine.hash[:12]} ({mine.name})"),
            ("--size", " ".join(map(str, store.sizes)), " ".join(map(str, sizes_of(self.views)))),
            ("--buckets", _bucket_words(store.buckets), _bucket_words(self.buckets)),
            ("--flip", _flip_words(store.views), _flip_words(self.views)),
            ("--posterior", *("given" if each.posterior else "absent" for each in (store.latent, self.latent))),
            ("--resize", store.transform.resize, self.transform.resize),
            ("--decode", store.transform.decode, self.decode or store.transform.decode),
            ("--min-size", store.transform.min_size or "none", self.transform.min_size or "none"),
            ("--precision", store.compute.dtype, self.compute.dtype),
            ("--batch-size", store.compute.batch_size, batch_size),
            ("--compile", _on_or_off(was_compiled), _on_or_off(compiled)),
            ("--dtype", store.dtype, self.dtype),
            ("--codec", store.codec, self.codec),
        ]
        if encoder.hash == mine.hash:  # whatever the models are called
            del pairs[0]
        return "; ".join(f"{name} {old}, not {new}" for name, old, new in pairs if old != new) or None


def make_views(sizes: list[int], downsampling: int, flip: bool) -> dict[str, View]:
    """Return the views: `latents` of the first size, `latents_512` of another; with flip also each one's `..._flip`."""
    views: dict[str, View] = {}
    for size in sizes:
        name = f"{MAIN_VIEW}_{size}" if views else MAIN_VIEW
        positions = size // downsampling
        for suffix, mirrored in (("", False), ("_flip", True)) if flip else (("", False),):
            views[name + suffix] = View(size=size, flip=mirrored, height=positions, width=positions)
    return views


def _bucket_words(buckets: Buckets | None) -> str:
    if buckets is None:
        return "absent"
    return f"given with --bucket-step {buckets.step} --max-aspect {buckets.max_aspect:g}"


def _on_or_off(is_on: bool) -> str:
    return "on" if is_on else "off"


def _flip_words(views: dict[str, View]) -> str:
    return "given" if any(view.flip for view in views.values()) else "absent"
