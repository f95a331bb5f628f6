"""The names of image files that are made of samples' keys."""

import re
from hashlib import blake2b
from pathlib import Path

_LONGEST_NAME = 200  # bytes; most file systems allow 255


def file_name(key: str) -> Path:
    """A relative path that stays inside its folder, for a key in any script; what a path cannot hold is %-escaped."""
    parts = []
    for part in key.split("/"):
        safe = re.sub(r"[\x00-\x1f\x7f\\%]", lambda match: f"%{ord(match[0]):02X}", part)
        if safe.strip(".") == "":  # "", ".", ".."
            safe = safe.replace(".", "%2E") or "%"
        if len(safe.encode()) > _LONGEST_NAME:
            digest = blake2b(part.encode(), digest_size=8).hexdigest()
            safe = f"{safe.encode()[: _LONGEST_NAME - 20].decode(errors='ignore')}~{digest}"
        parts.append(safe)
    return Path(*parts)
