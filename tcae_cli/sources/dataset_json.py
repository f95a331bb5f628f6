"""Reads dataset.json, in which StyleGAN and EDM2 keep the labels of a folder or a zip of images.

Source: https://github.com/NVlabs/edm2/blob/main/dataset_tool.py
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tcae_cli.errors import SourceError
from tcae_cli.sources.columns import label_in
from tcae_cli.sources.metadata import parse_metadata

DATASET_JSON = "dataset.json"


@dataclass(frozen=True)
class DatasetLabels:
    """The labels that a dataset.json gives to images."""

    labels: dict[str, str] = field(default_factory=dict)  # by the image's path relative to the folder of the file
    remark: str = ""  # says why they are not used; "" where they are


def read_dataset_json(data: bytes, where: str) -> DatasetLabels:
    """Return the labels in a dataset.json: `{"labels": [["00000/img00000000.png", 6], ...]}`, or null for none.

    Raises SourceError, naming `where`, if the file is not JSON or the labels are not pairs of a name and a label.
    """
    content = parse_metadata(data, where)
    if "labels" not in content:
        return DatasetLabels(remark=f"{where} is not used: it has no labels, only {', '.join(content) or 'nothing'}")
    labels = {}
    for name, label in _pairs(content["labels"] or [], where):
        if isinstance(label, list):  # a condition of other kinds of models, such as a camera
            return DatasetLabels(remark=f"{where} is not used: its labels are lists of numbers, and not classes")
        labels[name.replace("\\", "/")] = label_in(label, f"{where}, {name}")
    return DatasetLabels(labels)


def _pairs(labels: Any, where: str) -> Iterator[tuple[str, Any]]:
    for pair in labels.items() if isinstance(labels, dict) else labels if isinstance(labels, list) else [labels]:
        match pair:
            case (str(name), label):
                yield name, label
            case _:
                raise SourceError(
                    f'{where}: the labels should be a list of pairs such as ["00000/img00000000.png", 6], '
                    f"found {str(pair)[:40]}; correct or remove it"
                )
