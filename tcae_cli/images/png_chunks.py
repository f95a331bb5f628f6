"""Removes texts and colour profiles from PNG files that are too large to be decompressed: they are no pixels.

Source: https://www.w3.org/TR/png/#11Ancillary-chunks
"""

import struct
import sys
import zlib
from collections.abc import Iterator

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_PROFILE = b"iCCP"
_HEAD_BYTES = 8  # of a chunk: its size and its kind
_CRC_BYTES = 4  # after its contents


def without_large_texts(data: bytes, most_bytes: int, most_bytes_together: int) -> bytes:
    """Return a PNG file without the texts, and without the colour profile, that a decoder would refuse.

    Other files, and PNG files without such texts, are returned as they are.
    most_bytes: of a compressed text or profile once it is decompressed.
    most_bytes_together: of all texts, in the order of the file.
    """
    kept = []
    kept_from = 0
    text_bytes = 0
    for kind, start, end in _chunks(data):
        if kind not in _TEXTS and kind != _PROFILE:
            continue
        size_bytes = _decompressed_bytes(kind, data[start + _HEAD_BYTES : end - _CRC_BYTES], most_bytes)
        if size_bytes > (most_bytes if kind == _PROFILE else most_bytes_together - text_bytes):
            kept.append(data[kept_from:start])
            kept_from = end
        elif kind in _TEXTS:
            text_bytes += size_bytes
    return b"".join([*kept, data[kept_from:]]) if kept else data


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind, the start and the end of each whole chunk of a PNG file."""
    end = len(_SIGNATURE) if data.startswith(_SIGNATURE) else len(data)
    while (start := end) + _HEAD_BYTES + _CRC_BYTES <= len(data):
        size_bytes, kind = struct.unpack_from(">I4s", data, start)
        end = start + _HEAD_BYTES + size_bytes + _CRC_BYTES
        if end > len(data) or kind == b"IEND":
            return
        yield kind, start, end


def _decompressed_bytes(kind: bytes, contents: bytes, most_bytes: int) -> int:
    """Return the size of the text or profile in a chunk; a huge number if it is compressed and larger than the most."""
    _, _, rest = contents.partition(b"\0")  # after a keyword
    if kind == b"tEXt":
        return len(rest)
    if kind == b"iTXt":
        is_compressed = rest[:1] > b"\0"
        text = rest[2:].split(b"\0", 2)[-1]  # after a language and the translated keyword
        if not is_compressed:
            return len(text)
    else:
        text = rest[1:]  # after the method
    decompression = zlib.decompressobj()
    try:
        found = decompression.decompress(text, most_bytes)
    except zlib.error:
        return 0  # a decoder passes it over
    return sys.maxsize if decompression.unconsumed_tail else len(found)
