"""Tables, as sources have them."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO, StringIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def table(columns: Sequence[str], rows: Iterable[Sequence], suffix: str) -> str:
    """The text of a csv, tsv or jsonl file."""
    if suffix == "jsonl":
        return "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
    text = StringIO()
    csv.writer(text, delimiter={"csv": ",", "tsv": "\t"}[suffix]).writerows([columns, *rows])
    return text.getvalue()


def parquet(images: Sequence[bytes], labels: Sequence[int] = (), rows_per_group: int = 2) -> bytes:
    """A Parquet file as the datasets library writes it."""
    names = ["cat", "dog"]
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {
            "image": pa.array([{"bytes": data, "path": None} for data in images], kind),
            "label": pa.array(labels or [0] * len(images), pa.int64()),
        }
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file = BytesIO()
    pq.write_table(table, file, row_group_size=rows_per_group)
    return file.getvalue()


def write_parquet(path: Path, columns: Mapping[str, object] | pa.Table, rows_per_group: int = 2, **settings) -> Path:
    """Write a table in row groups."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = columns if isinstance(columns, pa.Table) else pa.table(dict(columns))
    pq.write_table(written, path, row_group_size=rows_per_group, **settings)
    return path


def with_paths(images: Mapping[str, bytes]) -> list[dict]:
    """The images of a column as datasets has them, from their bytes by path."""
    return [{"bytes": data, "path": path} for path, data in images.items()]


def save_arrow(path: Path, *tables: Mapping[str, object]) -> Path:
    """Write tables, a file for each, as save_to_disk of the datasets library does."""
    path.mkdir(parents=True, exist_ok=True)
    names = [f"data-{number:05d}-of-{len(tables):05d}.arrow" for number in range(len(tables))]
    for name, columns in zip(names, tables, strict=True):
        written = pa.table(dict(columns))
        with pa.ipc.new_stream(path / name, written.schema) as stream:
            stream.write_table(written, max_chunksize=2)
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return path
