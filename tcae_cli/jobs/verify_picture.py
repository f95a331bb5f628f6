"""Chooses where `tcae verify` writes its picture: never into a source, whose next scan would take it for an image."""

import os
from pathlib import Path
from tempfile import gettempdir

from tcae_cli.errors import UsageError
from tcae_cli.jobs.scanned_folders import scanned_folders, source_around
from tcae_cli.reports.store import VerifyRequest
from tcae_cli.runtime.remote import is_remote
from tcae_cli.store.handle import StoreHandle


def choose_picture(request: VerifyRequest, store: StoreHandle) -> Path:
    """Return the path that was asked for, or else one in this folder, beside the store or among temporary files.

    The first of these that lies in no source, and can be written to, is chosen. Raises UsageError if the path that was
    asked for lies in a source.
    """
    sources = scanned_folders(store.folder, store.spec, request.source)
    if request.picture:
        if source := source_around(request.picture.parent, sources):
            raise UsageError(
                f"--picture {request.picture} lies in {source}, whose next scan would take it for an image; "
                f"name a path elsewhere"
            )
        return request.picture
    name = request.store.rstrip("/").rpartition("/")[2].removesuffix(".zarr")
    folders = [Path(), *([] if is_remote(request.store) else [Path(request.store).parent])]
    for folder in folders:
        if not source_around(folder, sources) and os.access(folder, os.W_OK):
            return folder / f"{name}-verify.png"
    return Path(gettempdir()) / f"{name}-verify.png"
