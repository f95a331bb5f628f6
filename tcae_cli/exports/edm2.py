"""EDM2 (arXiv:2312.02696): .npy files of moments in a folder, or in one zip."""

import os
from contextlib import nullcontext
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from zipfile import ZipFile, ZipInfo

from tcae_cli.exports import provenance
from tcae_cli.exports.array_file import npy_bytes
from tcae_cli.exports.format import is_zip
from tcae_cli.exports.growing import grow
from tcae_cli.exports.lock import only_run
from tcae_cli.exports.moments import INDEX, MomentFiles, index_of, moments_name, moments_of
from tcae_cli.exports.provenance import NAME, Provenance, as_bytes
from tcae_cli.reports.progress import Progress

_ROWS = "rows"  # the zip while it grows
_CRC_AT, _CRC_BYTES = 14, 4  # in the header before a member (APPNOTE.TXT 4.3.7)


class Edm2(MomentFiles):
    """The files of MomentFiles, or a zip of them."""

    name = "edm2"
    trainer = "EDM2"
    contents = (
        ".npy files of moments, a row each: [2c, h, w], raw, the mean, then the posterior's deviation, zero in a store "
        "without one; and dataset.json"
    )
    may_be_zip = True
    closing_names = (INDEX,)

    @property
    def notes(self) -> list[str]:
        return [
            "EDM2 whitens latents with constants of Stable Diffusion's VAE: give its encoder raw_mean and raw_std from "
            "statistics.channel_mean and channel_std of tcae_export.json"
        ]

    def write(self, target: Path, about: Provenance, progress: Progress) -> int:
        return self._write_zip(target, about, progress) if is_zip(target) else super().write(target, about, progress)

    def _write_zip(self, target: Path, about: Provenance, progress: Progress) -> int:
        """Write one file, which grows in a hidden folder beside the target."""
        work = target.with_name(f".{target.name}.partial")
        num_written = 0
        with nullcontext() if target.exists() else only_run(work, target):
            if target.exists():  # a run that has just ended may have made it since
                provenance.refuse_other_zip(target, about)
            else:
                provenance.begin(work, about)
                num_written = grow(target, work / _ROWS, MomentsZip(self, about), len(self.rows), progress)
            provenance.remove_folder(work, [_ROWS])  # exists too if a run was killed just before this line
        return num_written


class MomentsZip:
    """A zip of the same files and tcae_export.json: stored members of equal size, so that it can grow."""

    head = b""

    def __init__(self, form: MomentFiles, about: Provenance) -> None:
        self.rows_per_piece = form.rows_per_piece
        self._rows = form.rows
        self._about = about

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of a member and the header before it."""
        return len(self.encode(range(1)))

    def encode(self, piece: range) -> bytes:
        buffer = BytesIO()
        with ZipFile(buffer, "w") as archive:
            for row, moments in zip(piece, moments_of(self._rows, piece), strict=True):
                archive.writestr(_member(moments_name(row)), npy_bytes(moments))
            end = buffer.tell()  # of the members: `finish` writes the list of all of them
        return buffer.getvalue()[:end]

    def finish(self, file: BinaryIO) -> None:
        file.flush()
        members = []
        for row in range(len(self._rows)):
            member = _member(moments_name(row))
            member.header_offset = row * self.row_bytes
            member.CRC = int.from_bytes(os.pread(file.fileno(), _CRC_BYTES, member.header_offset + _CRC_AT), "little")
            member.file_size = member.compress_size = self.row_bytes - len(member.FileHeader())
            members.append(member)
        with ZipFile(file, "w") as archive:  # begins at the position of the file
            archive.filelist.extend(members)
            archive.writestr(_member(INDEX), index_of(self._rows))
            archive.writestr(_member(NAME), as_bytes(self._about))


def _member(name: str) -> ZipInfo:
    """Return a stored member of the year 1980, so that it is the same bytes whenever it is written."""
    member = ZipInfo(name)
    member.external_attr = 0o644 << 16
    return member
