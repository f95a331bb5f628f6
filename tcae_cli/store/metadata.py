"""Writes and reads the zarr.json files of a store, which a seal protects from format version 2 on.

The seal is an attribute with the names of the attributes that tcae wrote and the CRC-32C of the canonical JSON of the
file with those attributes alone. So users may add attributes of their own, and consolidate the metadata.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tcae_cli.runtime.checksums import crc32c_of_json

SEAL = "seal"
CONSOLIDATED = "consolidated_metadata"  # a copy of other files, and not under the seal


class BrokenSealError(ValueError):
    """A zarr.json is not the one that was sealed."""


def metadata_file(metadata: dict[str, Any], sealed: Iterable[str] | None) -> bytes:
    """Return a zarr.json as UTF-8; `sealed` names the attributes that its seal covers, None stands for no seal."""
    attributes = {name: value for name, value in metadata.get("attributes", {}).items() if name != SEAL}
    metadata = {**metadata, "attributes": attributes}
    if sealed is not None:
        names = sorted(set(sealed) - {SEAL})
        attributes[SEAL] = {"attributes": names, "crc32c": _crc32c(metadata, names)}
    return json.dumps(metadata, indent=2, ensure_ascii=False, allow_nan=False).encode()


def group_file(attributes: dict[str, Any], sealed: Iterable[str] | None, nodes: Mapping[str, bytes] = {}) -> bytes:
    """Return the zarr.json of a group with these attributes, as metadata_file does.

    `nodes` are the zarr.json files of all nodes below it, by name, to be copied into it: readers then open them by one
    read, also where folders cannot be listed, as over HTTP.
    """
    group: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    if nodes:
        copies = {name.removesuffix("/zarr.json"): json.loads(data) for name, data in sorted(nodes.items())}
        group[CONSOLIDATED] = {"kind": "inline", "must_understand": False, "metadata": copies}
    return metadata_file(group, sealed)


def parse_metadata(data: bytes) -> dict[str, Any]:
    """Return the content of a zarr.json; one without a seal, as format version 1 has them, is returned as it is.

    Raises ValueError if it is not a JSON object, and BrokenSealError if it has been changed.
    """
    metadata: Any = json.loads(data)
    if not isinstance(metadata, dict):
        raise ValueError("it is not a JSON object")
    check_seal(metadata)
    return metadata


def check_seal(metadata: dict[str, Any]) -> None:
    """Raise BrokenSealError if the content of a zarr.json has been changed since it was sealed."""
    attributes = metadata.get("attributes")
    if not isinstance(attributes, dict) or SEAL not in attributes:
        return
    try:
        is_whole = attributes[SEAL]["crc32c"] == _crc32c(metadata, attributes[SEAL]["attributes"])
    except (KeyError, TypeError):  # the seal itself is damaged
        is_whole = False
    if not is_whole:
        raise BrokenSealError("it does not match its CRC-32C")


def sealed_names(metadata: dict[str, Any]) -> list[str] | None:
    """Return the names of the attributes that the seal of a parsed zarr.json covers; None if it has no seal."""
    seal = metadata.get("attributes", {}).get(SEAL)
    return None if seal is None else list(seal["attributes"])


def _crc32c(metadata: dict[str, Any], names: list[str]) -> int:
    sealed = {name: metadata["attributes"][name] for name in names}
    return crc32c_of_json({**{key: metadata[key] for key in metadata.keys() - {CONSOLIDATED}}, "attributes": sealed})
