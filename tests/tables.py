"""Tables, as sources have them."""

import csv
import json
from collections.abc import Iterable, Sequence
from io import BytesIO, StringIO

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
