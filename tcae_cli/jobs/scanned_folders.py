"""Tells which folders are sources: a picture that is written there would be an image of their next scan."""

import json
import os
from pathlib import Path

from tcae_cli.runtime.folder import Folder
from tcae_cli.runtime.remote import is_remote
from tcae_cli.sources.index import SUMMARY_FILE
from tcae_cli.store.layout import index_folder
from tcae_cli.store.spec import StoreSpec


def scanned_folders(folder: Folder, spec: StoreSpec, source: str | None = None) -> list[Path]:
    """Return the local folders in which any image is found: that of a source, and that of the store's own source."""
    folders = [Path(source)] if source and os.path.isdir(source) else []
    (data,) = folder.read_many([f"{index_folder(spec)}/{SUMMARY_FILE}"])
    try:
        summary = json.loads(data or b"{}")
        kind = summary.get("kind") or ("tar" if summary.get("tar_names") else "folder")  # older indexes name none
        if kind == "folder" and not is_remote(summary["root"]):
            folders.append(Path(summary["root"]))
    except (ValueError, LookupError, TypeError, AttributeError):
        pass  # a damaged index is no reason to keep the shards from being checked
    return folders


def source_around(folder: Path, sources: list[Path]) -> Path | None:
    """Return the source that a folder lies in, if any."""
    return next((source for source in sources if folder.resolve().is_relative_to(source.resolve())), None)
