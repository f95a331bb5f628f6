"""`tcae export`: the ok rows of a store as the files that another trainer reads."""

import shutil
import time
from importlib.metadata import version
from pathlib import Path

from tcae_cli.errors import StoreError
from tcae_cli.export_report import SCALED, ExportReport, ExportRequest
from tcae_cli.exports import provenance as told
from tcae_cli.exports.class_folders import ClassFolders
from tcae_cli.exports.growing import grow
from tcae_cli.exports.lightningdit import SafetensorsFiles
from tcae_cli.exports.mds import MdsFolders
from tcae_cli.exports.moments import MomentFiles
from tcae_cli.exports.moments_zip import MomentsZip
from tcae_cli.exports.npy import ARRAY, INDEX, NpyArray
from tcae_cli.exports.pieces import write_pieces
from tcae_cli.exports.rows import ExportRows
from tcae_cli.exports.tars import TarFiles
from tcae_cli.jobs.decode import file_name
from tcae_cli.report import Progress
from tcae_cli.runtime.files import make_folder, tree_bytes
from tcae_cli.runtime.folder import LocalFolder, open_folder
from tcae_cli.store.layout import is_complete, read_spec
from tcae_cli.store.reader import LatentStore

_TOOLS = ("tcae", "numpy", "torch")

Form = SafetensorsFiles | MomentFiles | ClassFolders | TarFiles | MdsFolders | NpyArray


def export_store(request: ExportRequest, progress: Progress) -> ExportReport:
    """Write a store's ok rows, in row order; repeated, it goes on, and finished files are kept.

    Raises StoreError if the store is incomplete, UsageError if the format cannot hold it or the target holds
    something else.
    """
    started = time.perf_counter()
    rows = _open_rows(request)
    form = _form_of(request, rows)
    about = told.describe(rows, request.format, form.rows_per_piece, {name: version(name) for name in _TOOLS})

    if request.target.suffix == ".zip" and isinstance(form, MomentFiles):
        num_written = _write_zip(request.target, form, about, progress)
    else:
        num_written = _write_folder(request.target, form, about, progress)

    return ExportReport(
        store=request.store,
        target=request.target,
        format=request.format,
        num_rows=len(rows),
        num_not_ok=len(rows.store) - len(rows),
        num_written_now=num_written,
        num_bytes=request.target.stat().st_size if request.target.is_file() else tree_bytes(request.target),
        scale=rows.scale if request.format in SCALED else None,
        notes=form.notes,
        elapsed_s=time.perf_counter() - started,
    )


def _open_rows(request: ExportRequest) -> ExportRows:
    folder = open_folder(request.store)
    read_spec(folder)
    if not is_complete(folder):
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
            return MdsFolders(rows)
        case "npy":
            return NpyArray(rows)


def _write_folder(target: Path, form: Form, about: told.Provenance, progress: Progress) -> int:
    """Returns the number of rows written."""
    if told.begin(target, about):
        return 0
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
    if target.exists():
        told.refuse_other_zip(target, about)
    else:
        make_folder(target.parent)
        told.begin(work, about)
        num_written = grow(target, work / "rows", MomentsZip(form, about), len(form.rows), progress)
    shutil.rmtree(work, ignore_errors=True)  # there too if a run was killed just before this
    return num_written
