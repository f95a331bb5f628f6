"""EDM2's moments in one stored zip: members of equal size, so that it grows and goes on."""

import os
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import BinaryIO
from zipfile import ZipFile, ZipInfo

from tcae_cli.exports.array_file import npy_bytes
from tcae_cli.exports.moments import INDEX, MomentFiles, file_name, index_of, moments_of
from tcae_cli.exports.provenance import NAME, Provenance, as_bytes

_CRC_AT, _CRC_BYTES = 14, 4  # in the header before a member (APPNOTE.TXT 4.3.7)


@dataclass(frozen=True)
class MomentsZip:
    """The files of MomentFiles, dataset.json and tcae_export.json."""

    form: MomentFiles
    provenance: Provenance

    @property
    def head(self) -> bytes:
        return b""

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of a member and the header before it."""
        return len(self.encode(range(1)))

    @property
    def rows_per_piece(self) -> int:
        return self.form.rows_per_piece

    def encode(self, piece: range) -> bytes:
        buffer = BytesIO()
        with ZipFile(buffer, "w") as archive:
            for row, moments in zip(piece, moments_of(self.form.rows, piece), strict=True):
                archive.writestr(_member(file_name(row)), npy_bytes(moments))
            end = buffer.tell()  # of the members; the list of them is finish's
        return buffer.getvalue()[:end]

    def finish(self, file: BinaryIO) -> None:
        file.flush()
        members, member_bytes = [], self.row_bytes
        for row in range(len(self.form.rows)):
            member = _member(file_name(row))
            member.header_offset = row * member_bytes
            member.CRC = int.from_bytes(os.pread(file.fileno(), _CRC_BYTES, member.header_offset + _CRC_AT), "little")
            member.file_size = member.compress_size = member_bytes - len(member.FileHeader())
            members.append(member)
        with ZipFile(file, "w") as archive:  # begins where the file stands
            archive.filelist.extend(members)
            archive.writestr(_member(INDEX), index_of(self.form.rows))
            archive.writestr(_member(NAME), as_bytes(self.provenance))


def _member(name: str) -> ZipInfo:
    """Stored, of 1980: the same bytes whenever it is written."""
    member = ZipInfo(name)
    member.external_attr = 0o644 << 16
    return member
