"""Tables of text, as sources have them."""

import csv
import json
from collections.abc import Iterable, Sequence
from io import StringIO


def table(columns: Sequence[str], rows: Iterable[Sequence], suffix: str) -> str:
    """The text of a csv, tsv or jsonl file."""
    if suffix == "jsonl":
        return "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
    text = StringIO()
    csv.writer(text, delimiter={"csv": ",", "tsv": "\t"}[suffix]).writerows([columns, *rows])
    return text.getvalue()
