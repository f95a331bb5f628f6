"""`tcae export`: the ok rows of a store as the files that another trainer reads."""

import shutil
import time
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

from tcae_cli.errors import StoreError
from tcae_cli.exports import provenance as told
from tcae_cli.exports.class_folders import ClassFolders
from tcae_cli.exports.growing import grow
from tcae_cli.exports.lightningdit import SafetensorsFiles
from tcae_cli.exports.lock import only_run
from tcae_cli.exports.mds import MdsShards
from tcae_cli.exports.moments import MomentFiles
from tcae_cli.exports.moments_zip import MomentsZip
from tcae_cli.exports.npy import ARRAY, INDEX, NpyArray
from tcae_cli.exports.pieces import is_whole, write_pieces
from tcae_cli.exports.rows import ExportRows
from tcae_cli.exports.tars import TarFiles
from tcae_cli.images.file_names import file_name
from tcae_cli.reports.export import SCALED, ExportReport, ExportRequest
from tcae_cli.reports.progress import Progress
from tcae_cli.runtime.files import tree_bytes
from tcae_cli.runtime.folder import LocalFolder, open_folder
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.reader import LatentStore

_TOOLS = ("tcae", "numpy", "torch")

Form = SafetensorsFiles | MomentFiles | ClassFolders | TarFiles | MdsShards | NpyArray


def export_store(request: ExportRequest, progress: Progress) -> ExportReport:
    """Write a store's ok rows, in row order; repeated, it goes on, and finished files are kept.

    Raises StoreError if the store is incomplete, UsageError if the format cannot hold it or the target holds
    something else, DiskError if another process is at work on the target.
    """
    started = time.perf_counter()
    rows = _open_rows(request)
    form = _form_of(request, rows)
    about = told.describe(rows, request.format, form.rows_per_piece, {name: version(name) for name in _TOOLS})

    target = Path(request.target)
    if request.is_zip and isinstance(form, MomentFiles):
        num_written = _write_zip(target, form, about, progress)
    else:
        num_written = _write_folder(target, form, about, progress)

    return ExportReport(
        store=request.store,
        target=target,
        format=request.format,
        num_rows=len(rows),
        num_not_ok=len(rows.store) - len(rows),
        num_written_now=num_written,
        num_bytes=target.stat().st_size if target.is_file() else tree_bytes(target),
        scale=rows.scale if request.format in SCALED else None,
        notes=form.notes,
        elapsed_s=time.perf_counter() - started,
    )


def _open_rows(request: ExportRequest) -> ExportRows:
    if not StoreHandle(open_folder(request.store)).is_complete:
        raise StoreError(f"{request.store} is incomplete; finish it by repeating tcae encode-dataset, then export it")
    store = LatentStore(request.store, request.view)
    if not len(store.ok_rows):
        raise StoreError(f"{request.store} has no row that is ok; there is nothing to export")
    if request.format not in SCALED:
        return ExportRows(store)
    if request.scale is not None:
        return ExportRows(store, request.scale)
    if not (std := store.summaries[request.view]["std"]) > 0:
        raise StoreError(f"{request.store}: all latents are equal, so there is no 1 / std; pass --scale")
    return ExportRows(store, 1 / std)


def _form_of(request: ExportRequest, rows: ExportRows) -> Form:
    match request.format:
        case "lightningdit":
            return SafetensorsFiles.of(rows)
        case "edm2" | "repa":
            return MomentFiles(rows, request.format)
        case "dc-ae":
            return ClassFolders(rows, file_name)
        case "webdataset":
            return TarFiles(rows)
        case "mds":
            return MdsShards(rows)
        case "npy":
            return NpyArray(rows)


def _write_folder(target: Path, form: Form, about: told.Provenance, progress: Progress) -> int:
    """Returns the number of rows written."""
    if told.is_complete(target, about) and is_whole(target, form, len(form.rows)):
        return 0
    with only_run(target, target):
        told.begin(target, about)
        if isinstance(form, NpyArray):
            num_written = grow(target / ARRAY, target / f"{ARRAY}.partial", form, len(form.rows), progress)
            LocalFolder(target).write({INDEX: form.index()})
        else:
            num_written = write_pieces(target, form, len(form.rows), progress)
        told.complete(target, about)
    return num_written


def _write_zip(target: Path, form: MomentFiles, about: told.Provenance, progress: Progress) -> int:
    """The same for one file, which grows in a hidden folder beside it."""
    work, num_written = target.with_name(f".{target.name}.partial"), 0
    with nullcontext() if target.exists() else only_run(work, target):
        if target.exists():  # perhaps since: of a run that has just ended
            told.refuse_other_zip(target, about)
        else:
            told.begin(work, about)
            num_written = grow(target, work / "rows", MomentsZip(form, about), len(form.rows), progress)
        shutil.rmtree(work, ignore_errors=True)  # there too if a run was killed just before this
    return num_written
