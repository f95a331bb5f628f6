"""Names image files after samples' keys."""

import re
from hashlib import blake2b
from pathlib import Path

_LONGEST_NAME = 200  # bytes; most file systems allow 255


def file_name(key: str) -> Path:
    """Return a relative path that stays inside its folder, for any key; characters a path cannot hold are %-escaped."""
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
