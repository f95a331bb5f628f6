"""Reads single members of zip archives by position, without the central directory of the archive.

Source: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.7 to 4.3.9.
"""

import struct
import zlib
from typing import BinaryIO, NamedTuple
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile

from tcae_cli.errors import ImageError
from tcae_cli.sources.files import shown_name, too_short
from tcae_cli.sources.registry import Access, Located, Place

# Errors of zipfile when bytes are not what an archive promises, found by feeding it damaged ones.
DAMAGED = (BadZipFile, EOFError, LookupError, NotImplementedError, RuntimeError, ValueError, struct.error, zlib.error)

_HEADER = struct.Struct("<4s2xHH4xI8xHH")  # signature, flags, method, CRC-32, and the sizes of the name and of the rest
_SIGNATURE = b"PK\x03\x04"
_DESCRIPTOR_SIGNATURE = b"PK\x07\x08"
_HAS_DESCRIPTOR = 8  # a flag: the CRC-32 comes after the contents
_CRC = struct.Struct("<I")
_USUAL_REST_BYTES = 64  # of a header, after the name
_MORE_BYTES = 1 << 16


def contents_offset(file: BinaryIO, header_offset: int) -> int:
    """Return the position of the contents of a member in an open zip. Raises struct.error where there is no header."""
    file.seek(header_offset)
    *_, name_bytes, rest_bytes = _HEADER.unpack(file.read(_HEADER.size))
    return header_offset + _HEADER.size + int(name_bytes) + int(rest_bytes)


class _Header(NamedTuple):
    flags: int
    method: int
    crc: int
    num_bytes: int  # of the header


class ZipReader:
    """Reads images one by one and checks their CRC-32; a zip is opened anew for each, as a tar is."""

    access: Access = "row"

    def __init__(self, located: Located) -> None:
        self._located = located

    def read(self, place: Place) -> bytes:
        """Return the contents of a member. Raises ImageError if it is damaged, OSError if the zip cannot be read."""
        # In one piece, nearly always: a second one is another request to a remote store.
        name_bytes = len(place.name.encode(errors="surrogateescape"))
        header_bytes = _HEADER.size + name_bytes + _USUAL_REST_BYTES
        data = self._range(place, 0, header_bytes + place.size_bytes + (place.size_bytes >> 9) + _USUAL_REST_BYTES)
        header = self._header(place, data)
        if header.method == ZIP_STORED:
            contents, end = self._stored(place, data, header.num_bytes)
        elif header.method == ZIP_DEFLATED:
            contents, end = self._inflated(place, data, header.num_bytes)
        else:
            raise self._damage(place)
        if len(contents) < place.size_bytes:
            raise too_short(self._located, place)
        crc = header.crc
        if header.flags & _HAS_DESCRIPTOR:
            descriptor = self._range(place, end, _CRC.size * 2)
            (crc,) = _CRC.unpack(descriptor.removeprefix(_DESCRIPTOR_SIGNATURE)[: _CRC.size].ljust(_CRC.size, b"\0"))
        if zlib.crc32(contents) != crc:
            raise self._damage(place)
        return contents

    def _header(self, place: Place, data: bytes) -> _Header:
        if len(data) < _HEADER.size:
            raise too_short(self._located, place)
        signature, flags, method, crc, name_bytes, rest_bytes = _HEADER.unpack_from(data)
        if signature != _SIGNATURE:
            raise self._damage(place)
        return _Header(flags, method, crc, _HEADER.size + name_bytes + rest_bytes)

    def _stored(self, place: Place, data: bytes, start: int) -> tuple[bytes, int]:
        """Return the contents of a member that is not compressed, and the position of its end."""
        end = start + place.size_bytes
        if len(data) < end:
            data += self._range(place, len(data), end - len(data))
        return data[start:end], end

    def _inflated(self, place: Place, data: bytes, start: int) -> tuple[bytes, int]:
        """Return the contents of a deflated member, and the position of its end."""
        decompression = zlib.decompressobj(-zlib.MAX_WBITS)
        most_bytes = place.size_bytes + 1  # to notice that there are more than there should be
        position = len(data)
        try:
            contents = decompression.decompress(data[start:], most_bytes)
            while not decompression.eof and len(contents) < most_bytes:
                if not (more := self._range(place, position, _MORE_BYTES)):
                    break
                contents += decompression.decompress(decompression.unconsumed_tail + more, most_bytes - len(contents))
                position += len(more)
        except zlib.error as error:
            raise self._damage(place) from error
        if len(contents) == most_bytes:
            raise self._damage(place)
        return contents, position - len(decompression.unused_data)

    def _range(self, place: Place, start: int, num_bytes: int) -> bytes:
        zip_name = self._located.containers[place.container].name
        return self._located.folder.read_range(zip_name, place.offset + start, num_bytes)

    def _damage(self, place: Place) -> ImageError:
        return ImageError(
            "read",
            f"{shown_name(self._located, place)} is damaged at byte {place.offset:,}, or has changed since it was "
            f"indexed; copy it again",
        )
