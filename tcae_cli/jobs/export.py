"""`tcae export`: writes the ok rows of a store in the format of another trainer."""

import time
from importlib.metadata import version
from pathlib import Path

from tcae_cli import __version__
from tcae_cli.errors import StoreError, UsageError
from tcae_cli.exports import provenance
from tcae_cli.exports.format import ExportFormat, is_zip
from tcae_cli.exports.registry import FORMATS
from tcae_cli.exports.rows import ExportRows
from tcae_cli.reports.export import ExportReport, ExportRequest
from tcae_cli.reports.progress import Progress
from tcae_cli.runtime.files import tree_bytes
from tcae_cli.runtime.folder import open_pinned
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.reader import LatentStore

_TOOLS = ("numpy", "torch")


def export_store(request: ExportRequest, progress: Progress) -> ExportReport:
    """Write a store's ok rows, in row order; repeat it to resume: finished files are kept.

    Raises StoreError if the store is incomplete, UsageError if the format cannot hold it or the target holds
    something else, DiskError if another process is writing the target.
    """
    started = time.perf_counter()
    kind = _format_of(request)
    rows = _open_rows(request, kind.takes_scale)
    form = kind(rows)
    tools = {"tcae": __version__} | {name: version(name) for name in _TOOLS}
    about = provenance.describe(rows, kind.name, form.rows_per_piece, tools)

    target = Path(request.target)
    num_written = form.write(target, about, progress)

    return ExportReport(
        store=request.store,
        target=target,
        format=request.format,
        num_rows=len(rows),
        num_not_ok=len(rows.store) - len(rows),
        num_written_now=num_written,
        num_bytes=target.stat().st_size if target.is_file() else tree_bytes(target),
        scale=("model" if rows.generator else rows.scale) if kind.takes_scale else None,
        notes=form.notes,
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


def _open_rows(request: ExportRequest, takes_scale: bool) -> ExportRows:
    if not StoreHandle(open_pinned(request.store)).is_complete:
        raise StoreError(f"{request.store} is incomplete; finish it by repeating tcae encode-dataset, then export it")
    store = LatentStore(request.store, request.view)
    store.refuse_without_ok_rows()
    if not takes_scale:
        return ExportRows(store)
    if request.scale == "model":
        return ExportRows(store, generator=store.generator_input())
    if request.scale is not None:
        return ExportRows(store, request.scale)
    if not (std := store.summaries[request.view]["std"]) > 0:
        raise StoreError(f"{request.store}: all latents are equal, so there is no 1 / std; pass --scale")
    return ExportRows(store, 1 / std)
