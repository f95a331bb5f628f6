"""Opens a store, whose root changes only through its handle, and creates a new one with the arrays it describes."""

import json
from collections.abc import Mapping
from typing import Any

from tcae_cli.errors import DiskError, StoreError
from tcae_cli.runtime.folder import Folder
from tcae_cli.store.layout import PRIVATE_FOLDER, ROOT, array_metadata
from tcae_cli.store.metadata import (
    CONSOLIDATED,
    check_seal,
    group_file,
    metadata_file,
    parse_metadata,
    sealed_names,
)
from tcae_cli.store.spec import ADDED_LATER, StoreSpec

_VERSIONS = (1, 2)


class StoreHandle:
    """Holds the root of an open store. Raises StoreError if there is no store of latents in the folder.

    Other processes may change the root at any time: call `refresh` where that matters, and before each `write_root`.
    """

    folder: Folder
    attributes: dict[str, Any]  # of the root group
    consolidated: dict[str, Any]  # the copies it has of the zarr.json below it, by node
    spec: StoreSpec  # the part of them that is fixed when a store is made; only appending changes its source

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.refresh()

    @property
    def is_complete(self) -> bool:
        """Return whether the store has all its rows, its statistics and its failures table."""
        return bool(self.attributes["complete"])

    @property
    def generation(self) -> int:
        """Return how many times the store was reopened after it was complete."""
        return int(self.attributes["generation"])

    def refuse_other_encoder(self, encoder_hash: str, name: str, fix: str) -> None:
        """Raise StoreError unless this encoder made the latents; finetuning only a decoder keeps the encoder's hash.

        `name` is the model in the error's sentence, and `fix` its end, which says what to do.
        """
        made_with = self.spec.encoder
        if encoder_hash != made_with.hash:
            raise StoreError(
                f"{self.folder.uri} was made with encoder {made_with.hash[:12]} ({made_with.name}), {name} has "
                f"{encoder_hash[:12]}; {fix}"
            )

    def refresh(self) -> None:
        """Read the root again. Raises StoreError as opening does, DiskError if it cannot be read."""
        try:
            data = self.folder.read(ROOT)
        except DiskError:  # also an OSError, but with a message of its own
            raise
        except OSError as error:
            reason = f"{self.folder.uri}/{ROOT}: {error.strerror or error}"
            raise StoreError(f"{self.folder.uri} is not a store of latents: {reason}") from error
        self._take(data)

    def write_root(self, nodes: Mapping[str, bytes] | None = None, **changes: Any) -> None:
        """Change attributes of the root in one atomic write; `nodes` are what group_file copies, by default nothing."""
        data = self.root_file(nodes or {}, **changes)
        self.folder.write({ROOT: data})
        self._take(data)

    def root_file(self, nodes: Mapping[str, bytes], **changes: Any) -> bytes:
        """Return the file of the root with these attributes changed, as write_root writes it."""
        # Attributes that users have added stay, outside the seal.
        sealed = [*self._sealed, *changes] if self.spec.has_checksums else None
        return group_file({**self.attributes, **changes}, sealed, nodes)

    def _take(self, data: bytes) -> None:
        uri = self.folder.uri
        try:
            root = json.loads(data)
            attributes: dict[str, Any] = dict(root["attributes"]) if root["node_type"] == "group" else {}
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{uri}/{ROOT} is not the metadata of a Zarr group; name another path") from error
        version = attributes.get("format_version")
        if version not in _VERSIONS:
            found = "a Zarr group of something else" if version is None else f"of format version {version}"
            raise StoreError(f"{uri} is {found}, not a store this tcae reads (version 1 or 2); name another path")
        try:
            check_seal(root)
            fields = StoreSpec.model_fields.keys() - (ADDED_LATER - attributes.keys())
            self.spec = StoreSpec.model_validate({name: attributes[name] for name in fields})
        except (KeyError, ValueError) as error:  # pydantic's is a ValueError too
            reason = str(error).splitlines()[0]
            raise StoreError(f"{uri}/{ROOT} is damaged: {reason}; restore it from a copy") from error
        self.attributes = attributes
        self.consolidated = root.get(CONSOLIDATED, {}).get("metadata", {})
        self._sealed = sealed_names(root) or list(attributes)


def find_store(folder: Folder) -> StoreHandle | None:
    """Open the store in this folder, and return it; None if the folder is empty or missing.

    Raises StoreError if the folder holds anything else, which stays as it is.
    """
    try:
        return StoreHandle(folder)
    except StoreError as error:
        if isinstance(error.__cause__, NotADirectoryError):
            raise StoreError(f"{folder.uri} exists and is not a store of latents; name another path") from error
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
    # A creation that was killed has left our private folder, but no root.
    if any(not name.startswith(f"{PRIVATE_FOLDER}/") for name in folder.sizes()):
        raise StoreError(f"{folder.uri} exists, is not a store of latents and is not empty; name another path")
    return None


def create_store(folder: Folder, spec: StoreSpec) -> StoreHandle:
    """Create a store with all rows pending, and open it; open the one here if another process has created it first."""
    attributes = {**spec.model_dump(mode="json"), "statistics": None, "complete": False, "generation": 0}
    folder.create(ROOT, group_file(attributes, attributes if spec.has_checksums else None))
    store = StoreHandle(folder)
    fit_arrays(store)
    return store


def fit_arrays(store: StoreHandle) -> None:
    """Create the arrays that a store's root describes and that are missing or damaged; let others follow the root.

    Every process that opens a store for writing does this, which completes a creation, an append or an update that was
    killed.
    """
    wanted = array_metadata(store.spec)
    changes = {}
    for name, found in zip(wanted, store.folder.read_many(list(wanted)), strict=True):
        try:
            metadata = parse_metadata(found or b"")
            was = {key: metadata[key] for key in ("shape", "chunk_key_encoding") if metadata["node_type"] == "array"}
        except (ValueError, KeyError):
            changes[name] = wanted[name]
            continue
        # Only these of an array that exists may change: its chunks are written as its metadata says.
        now = {key: parse_metadata(wanted[name])[key] for key in was}
        if was != now:
            changes[name] = metadata_file({**metadata, **now}, sealed_names(metadata))
    if changes:
        store.folder.write(changes)
