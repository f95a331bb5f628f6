"""Computes CRC-32C, of bytes and of JSON objects."""

import json
from collections.abc import Mapping
from typing import Any

import google_crc32c
import numpy as np

CRC_BYTES = 4


def crc32c_of(data: bytes | np.ndarray) -> int:
    """Return the CRC-32C of these bytes, or of a contiguous array's, as an unsigned 32-bit number."""
    return int(google_crc32c.value(data))


def crc32c_of_json(content: Mapping[str, Any]) -> int:
    """Return the CRC-32C of the canonical JSON of an object: keys sorted, no white space, ASCII with escapes.

    However the object is laid out in its file, the number is the same.
    """
    return crc32c_of(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())
