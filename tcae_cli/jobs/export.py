"""`tcae export`: writes the ok rows of a store in the format of another trainer."""

import time
from collections.abc import Mapping
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

from tcae_cli import __version__
from tcae_cli.errors import StoreError, UsageError
from tcae_cli.exports import provenance
from tcae_cli.exports.bucket_folders import around_buckets
from tcae_cli.exports.format import ExportFormat, is_zip
from tcae_cli.exports.registry import FORMATS
from tcae_cli.exports.rows import ExportRows
from tcae_cli.reports.export import ExportReport, ExportRequest
from tcae_cli.reports.progress import Progress
from tcae_cli.runtime.files import tree_bytes
from tcae_cli.runtime.folder import open_pinned
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.layout import bucket_folder
from tcae_cli.store.samples import open_stores

_TOOLS = ("numpy", "torch")


def export_store(request: ExportRequest, progress: Progress) -> ExportReport:
    """Write a store's ok rows, in row order; repeat it to resume: finished files are kept.

    The rows of each bucket of a store become an export of their own, in a folder with the bucket's name. Raises
    StoreError if the store is incomplete, UsageError if the format cannot hold it or the target holds something else,
    DiskError if another process is writing the target.
    """
    started = time.perf_counter()
    kind = _format_of(request)
    root = StoreHandle(open_pinned(request.store))
    rows = _open_rows(request, root, kind)
    target = Path(request.target)
    forms = {name: kind(of_store) for name, of_store in rows.items()}
    tools = {"tcae": __version__} | {name: version(name) for name in _TOOLS}
    # Omitted otherwise, so that an export may have been begun before there were posteriors.
    of_posterior = {"posterior": kind.of_posterior} if root.spec.latent.posterior else {}
    abouts = {
        name: provenance.describe(form.rows, kind.name, form.rows_per_piece, tools) | of_posterior
        for name, form in forms.items()
    }

    num_written = 0
    with around_buckets(target, root, abouts) if root.spec.buckets else nullcontext():
        for name, form in forms.items():
            num_written += form.write(target / name, abouts[name], progress)

    num_rows, first = sum(map(len, rows.values())), next(iter(rows.values()))
    return ExportReport(
        store=request.store,
        target=target,
        format=request.format,
        num_rows=num_rows,
        num_not_ok=root.spec.num_rows - num_rows,
        num_written_now=num_written,
        num_bytes=target.stat().st_size if target.is_file() else tree_bytes(target),
        scale=("model" if first.generator else first.scale) if kind.takes_scale else None,
        notes=_notes(forms),
        elapsed_s=time.perf_counter() - started,
    )


def _format_of(request: ExportRequest) -> type[ExportFormat]:
    """Return the class of a format. Raises UsageError if there is none, or it has no use for the options."""
    if request.format not in FORMATS:
        raise UsageError(f"--format {request.format} is not one of {', '.join(FORMATS)}")
    kind = FORMATS[request.format]
    if is_zip(request.target) and not kind.may_be_zip:
        raise UsageError(f"--format {request.format} is read from folders only, not {request.target}; name a folder")
    if request.scale is not None and not kind.takes_scale:
        scaled = ", ".join(name for name, each in FORMATS.items() if each.takes_scale)
        raise UsageError(f"--scale applies to {scaled}; {request.format} takes raw latents, so omit it")
    return kind


def _open_rows(request: ExportRequest, root: StoreHandle, kind: type[ExportFormat]) -> dict[str, ExportRows]:
    """Return the ok rows of each bucket that has any, by its name; those of a store without buckets by the name ""."""
    if not root.is_complete:
        raise StoreError(f"{request.store} is incomplete; finish it by repeating tcae encode-dataset, then export it")
    if root.spec.buckets and not kind.holds_buckets:
        holding = [name for name, form in FORMATS.items() if form.holds_buckets]
        raise UsageError(
            f"{request.store} is a store of buckets, and {kind.name} holds latents of one shape; pass --format "
            f"{', '.join(holding[:-1])} or {holding[-1]}, or export one bucket, such as "
            f"{request.store}/{bucket_folder(root.spec.buckets.names[0])}"
        )
    names = root.spec.buckets.names if root.spec.buckets else [""]
    stores = dict(zip(names, open_stores(root, request.view), strict=True))
    good = {name: store for name, store in stores.items() if len(store.ok_rows)}
    if not good:
        next(iter(stores.values())).refuse_without_ok_rows()
    if not kind.takes_scale:
        return {name: ExportRows(store) for name, store in good.items()}
    if request.scale == "model":
        return {name: ExportRows(store, generator=store.generator_input()) for name, store in good.items()}
    scale = request.scale
    if scale is None:
        std = root.attributes["statistics"][request.view]["std"]  # over all buckets
        if not std > 0:
            raise StoreError(f"{request.store}: all latents are equal, so there is no 1 / std; pass --scale")
        scale = 1 / std
    return {name: ExportRows(store, scale) for name, store in good.items()}


def _notes(forms: Mapping[str, ExportFormat]) -> list[str]:
    """Return the notes of all buckets, each once; one that is not the same for all begins with its bucket."""
    notes = {name: [*form.notes, *filter(None, [form.posterior_note])] for name, form in forms.items()}
    of_all = set.intersection(*map(set, notes.values()))
    said = [note if note in of_all else f"{name}: {note}" for name, of_form in notes.items() for note in of_form]
    return list(dict.fromkeys(said))
