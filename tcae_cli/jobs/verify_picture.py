"""Chooses where `tcae verify` writes its picture: never into a source, whose next scan would take it for an image."""

import json
import os
from pathlib import Path
from tempfile import gettempdir

from tcae_cli.errors import UsageError
from tcae_cli.reports.store import VerifyRequest
from tcae_cli.runtime.remote import is_remote
from tcae_cli.sources.index import SUMMARY_FILE
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.layout import index_folder


def choose_picture(request: VerifyRequest, store: StoreHandle) -> Path:
    """Return the path that was asked for, or else one in this folder, beside the store or among temporary files.

    The first of these that lies in no source, and can be written to, is chosen. Raises UsageError if the path that was
    asked for lies in a source.
    """
    sources = _scanned_folders(request, store)
    if request.picture:
        if source := _around(request.picture.parent, sources):
            raise UsageError(
                f"--picture {request.picture} lies in {source}, whose next scan would take it for an image; "
                f"name a path elsewhere"
            )
        return request.picture
    name = request.store.rstrip("/").rpartition("/")[2].removesuffix(".zarr")
    folders = [Path(), *([] if is_remote(request.store) else [Path(request.store).parent])]
    for folder in folders:
        if not _around(folder, sources) and os.access(folder, os.W_OK):
            return folder / f"{name}-verify.png"
    return Path(gettempdir()) / f"{name}-verify.png"


def _scanned_folders(request: VerifyRequest, store: StoreHandle) -> list[Path]:
    """Return the local folders in which any image is found: that of --source, and that of the store's own source."""
    folders = [Path(request.source)] if request.source and os.path.isdir(request.source) else []
    (data,) = store.folder.read_many([f"{index_folder(store.spec)}/{SUMMARY_FILE}"])
    try:
        summary = json.loads(data or b"{}")
        kind = summary.get("kind") or ("tar" if summary.get("tar_names") else "folder")  # older indexes name none
        if kind == "folder" and not is_remote(summary["root"]):
            folders.append(Path(summary["root"]))
    except (ValueError, LookupError, TypeError, AttributeError):
        pass  # a damaged index is no reason to keep the shards from being checked
    return folders


def _around(folder: Path, sources: list[Path]) -> Path | None:
    """Return the source that a folder lies in, if any."""
    return next((source for source in sources if folder.resolve().is_relative_to(source.resolve())), None)
