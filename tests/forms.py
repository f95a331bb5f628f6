"""The forms that a source of images has, each written from the same samples."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .hub_server import HubServer
from .pictures import write_tar, write_zip
from .tables import save_arrow, table, with_paths, write_parquet

FILES = ("folder", "list", "csv", "tsv", "jsonl")  # each image is a file of its own
TARS = ("tar", "tar.gz", "tar.zst")
TABLES = ("parquet", "arrow", "hub")  # which are not read without one of their files
FORMS = (*FILES, *TARS, "zip", *TABLES)

CLASSES = ("cat", "dog", "ant")  # by number, in forms that have no names of classes
DATASET = "org/photos"


@dataclass(frozen=True)
class Sample:
    """An image of a class."""

    label: str
    name: str
    data: bytes
    caption: str = ""

    @property
    def path(self) -> str:
        return f"{self.label}/{self.name}"


def write_form(form: str, folder: Path, parts: Sequence[Sequence[Sample]], hub: HubServer | None = None) -> str:
    """Write samples as a source of a form, in place of an earlier one; return its URI.

    parts: the samples of each file, where files hold many. Sample paths are the ends of the keys.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    samples = [sample for part in parts for sample in part]
    if form in FILES:
        return _write_files(form, folder, samples)
    if form in TARS:
        for number, part in enumerate(parts):
            write_tar(folder / f"part-{number}.{form}", _members(part))
        return f"{folder}/part-*.{form}"
    if form == "zip":
        for number, part in enumerate(parts):
            write_zip(folder / f"part-{number}.zip", _files(part))
        return f"{folder}/part-*.zip"
    tables = [_columns(part) for part in parts]
    if form == "arrow":
        return str(save_arrow(folder, *tables))
    for number, columns in enumerate(tables):
        write_parquet(folder / f"part-{number}.parquet", columns, compression="none", use_dictionary=False)
    if form == "parquet":
        return f"{folder}/part-*.parquet"
    assert hub is not None
    hub.put(DATASET, {path.name: path.read_bytes() for path in sorted(folder.iterdir())})
    return f"hf://datasets/{DATASET}"


def _write_files(form: str, folder: Path, samples: Sequence[Sample]) -> str:
    for sample in samples:
        path = folder / "photos" / sample.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.data)
        if sample.caption and form == "folder":
            path.with_suffix(".txt").write_text(sample.caption)
    if form == "folder":
        return f"{folder}/photos"
    # Rows come in the order of their names and not of the lines.
    names = [(f"photos/{sample.path}", sample) for sample in reversed(samples)]
    if form == "list":
        path = folder / "list.txt"
        path.write_text("".join(f"{name}\t{CLASSES.index(sample.label)}\n" for name, sample in names))
    else:
        path = folder / f"list.{form}"
        rows = [(name, sample.label, sample.caption) for name, sample in names]
        path.write_text(table(["file_name", "label", "text"], rows, form))
    return str(path)


def _members(samples: Sequence[Sample]) -> dict[str, bytes]:
    members = {}
    for sample in samples:
        stem = sample.path.rpartition(".")[0]
        members[sample.path] = sample.data
        members[f"{stem}.cls"] = b"%d" % CLASSES.index(sample.label)
        if sample.caption:
            members[f"{stem}.txt"] = sample.caption.encode()
    return members


def _files(samples: Sequence[Sample]) -> dict[str, bytes]:
    """Samples as the files of a folder."""
    captions = {f"{sample.path.rpartition('.')[0]}.txt": sample.caption.encode() for sample in samples}
    return {sample.path: sample.data for sample in samples} | {name: text for name, text in captions.items() if text}


def _columns(samples: Sequence[Sample]) -> dict[str, list]:
    return {
        "image": with_paths({sample.path: sample.data for sample in samples}),
        "label": [sample.label for sample in samples],
        "text": [sample.caption for sample in samples],
    }
