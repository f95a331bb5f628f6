"""The provenance of an export, tcae_export.json: written before the first row, and marked complete after the last."""

import json
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tcae_cli.errors import UsageError
from tcae_cli.exports.rows import ExportRows
from tcae_cli.runtime.files import write_atomic
from tcae_cli.runtime.local_folder import PARTS, LocalFolder, owner_of_part

NAME = "tcae_export.json"
_MAY_DIFFER = ("complete", "store", "tool_versions")  # between runs of one export; the store may have moved

Provenance = dict[str, Any]


def describe(rows: ExportRows, format: str, size_of_pieces: int, tool_versions: dict[str, str]) -> Provenance:
    """Return the provenance of a complete export: which latents these are, and how they became the files' values."""
    store = rows.store
    # Defaults are omitted, so that an export of a store without `decode` may have been begun before that existed.
    transform = store.spec.transform.model_dump(exclude_defaults=True)
    return {
        "format": format,
        "store": store.folder.uri,
        "view": store.view,
        "num_rows": len(rows),
        "encoder": {"name": store.spec.encoder.name, "hash": store.spec.encoder.hash},
        "source": store.spec.source.model_dump(include={"uri", "fingerprint", "count"}),
        "transform": {**transform, "size": rows.view.size, "flip": rows.view.flip},
        **_values(rows),
        "statistics": {**store.summaries[store.view], "of": "raw"},
        "rows_per_piece": size_of_pieces,
        "tool_versions": tool_versions,
        "complete": True,
    }


def _values(rows: ExportRows) -> Provenance:
    """Return how raw latents became the files' values."""
    if rows.generator is None:
        return {"values": "raw * scale", "scale": rows.scale}
    return {
        "values": "(patches of raw - shift) * scale of generator",
        "scale": "model",
        "generator": rows.generator.model_dump(mode="json"),
    }


def is_complete(folder: Path, provenance: Provenance) -> bool:
    """Return whether a folder says that it holds all of this export.

    Raises UsageError if it holds another export or something else.
    """
    found = _read(folder)
    if found is None:
        return False
    _refuse_other(folder, found, provenance)
    return bool(found["complete"])


def begin(folder: Path, provenance: Provenance) -> None:
    """Begin or resume an export in a folder that no other process is writing: mark it as incomplete.

    Raises UsageError, and changes nothing, if the folder holds another export or something else.
    """
    is_complete(folder, provenance)
    _remove_parts(folder)
    write_atomic(folder / NAME, as_bytes(provenance | {"complete": False}))


def complete(folder: Path, provenance: Provenance) -> None:
    """Mark an export as complete, once all files are written."""
    _remove_parts(folder)
    write_atomic(folder / NAME, as_bytes(provenance))


def refuse_other_zip(path: Path, provenance: Provenance) -> None:
    """Raise UsageError if a file is not a zip of this export."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = json.loads(archive.read(NAME))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UsageError(f"{path} exists and is not an export of latents; name another path") from error
    _refuse_other(path, found, provenance)


def remove_folder(folder: Path, names: Iterable[str]) -> None:
    """Remove these files of ours and those that every export has from a folder, and the folder if it is then empty."""
    if folder.is_dir():
        _remove_parts(folder)
        ours = [path.name for path in folder.iterdir() if path.name.startswith(f".{NAME}.")]
        LocalFolder(folder).remove([*names, NAME, *ours])
        with suppress(OSError):  # it holds files of others
            folder.rmdir()


def as_bytes(provenance: Provenance) -> bytes:
    """Return the contents of tcae_export.json."""
    return json.dumps(provenance, indent=2, ensure_ascii=False).encode()


def _read(folder: Path) -> Provenance | None:
    """Return the provenance in a folder, None if the folder does not exist or is empty."""
    try:
        found: Provenance = json.loads((folder / NAME).read_bytes())
        return found
    except FileNotFoundError:
        if not folder.exists() or all(path.name.startswith(f".{NAME}.") for path in folder.iterdir()):
            return None
        raise UsageError(f"{folder} exists, is not an export of latents and is not empty; name another path") from None
    except NotADirectoryError as error:
        raise UsageError(f"{folder} is a file; name a folder") from error
    except ValueError as error:
        raise UsageError(f"{folder / NAME} is damaged; name another path, or remove the folder") from error


def _refuse_other(path: Path, found: Provenance, wanted: Provenance) -> None:
    for name, value in wanted.items():
        if name not in _MAY_DIFFER and found.get(name) != value:
            words = f"another {name}" if isinstance(value, dict) else f"{name} {found.get(name)}, not {value}"
            raise UsageError(f"{path} holds another export ({words}); name another path, or remove it")


def _remove_parts(folder: Path) -> None:
    """Remove the temporary files of a run that was killed: a trainer may take their folder for a class."""
    target = LocalFolder(folder)
    target.remove([name for name in target.sizes(PARTS) if owner_of_part(name)])
    for below in (PARTS, Path(PARTS).parts[0]):
        with suppress(OSError):  # it does not exist, or holds files of others
            (folder / below).rmdir()
