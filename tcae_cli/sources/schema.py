"""Chooses the columns of an Arrow schema that hold images, labels and captions, and reads their cells."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as types

from tcae_cli.errors import SourceError, UsageError
from tcae_cli.recipe.choices import SampleFields
from tcae_cli.sources.columns import (
    CAPTION_NAMES,
    IMAGE_NAMES,
    LABEL_NAMES,
    caption_in,
    choose,
    choose_image,
    has_several,
    label_in,
    usual,
)

_FEATURES_KEY = b"huggingface"  # of a schema's metadata: https://huggingface.co/docs/datasets/about_arrow

Features = Mapping[str, Mapping[str, Any]]  # of the columns, by name


@dataclass(frozen=True)
class Columns:
    """The columns of a table that make samples; None: there is no such column."""

    image: str
    is_file_name: bool  # the image is the path of a file, and not its bytes
    has_paths: bool = field(compare=False)  # beside the bytes; files may differ in it
    label: str | None
    is_class_name: bool  # the label is a text, and not a number
    class_names: tuple[str, ...]  # of labels 0, 1, ...; () if the schema does not name them
    caption: str | None

    def beside_the_images(self) -> list[str]:
        """Return the columns to read for the listing, by their paths in the schema, without the images' bytes."""
        image = [self.image] if self.is_file_name else [f"{self.image}.path"] if self.has_paths else []
        return [*image, *filter(None, (self.label, self.caption))]


@dataclass(frozen=True)
class Cells:
    """The cells of a file that make samples, beside the images' bytes: one of each for a row."""

    paths: Sequence[str]  # of the images; "": none
    labels: np.ndarray  # int64: class numbers, or places in label_texts; -1: none
    label_texts: Sequence[str]
    captions: Sequence[str]  # "": none
    several: Sequence[int] = ()  # rows with more than one caption, of which the first is taken


def choose_columns(schema: pa.Schema, fields: SampleFields, where: str) -> Columns:
    """Return the columns of a schema: by Hugging Face's features in it, then by type and usual names.

    Raises SourceError or UsageError, naming `where`, if there is no image, if a field has several candidates, or if the
    user named a column that is missing or of another type.
    """
    features = _features(schema)
    kinds = {each.name: _plain(each.type) for each in schema}
    image = choose_image(fields.image, schema.names, _image_candidates(kinds, features), where)
    _refuse_other_type("image", image, kinds, lambda kind: _holds_images(kind) or _is_text(kind), where)

    del kinds[image]
    label = choose("label", fields.label, [*kinds], _label_candidates(kinds, features), where)
    _refuse_other_type("label", label, kinds, _holds_labels, where)
    names = features.get(label or "", {}).get("names") or ()
    texts = [name for name, kind in kinds.items() if name != label and _holds_captions(kind)]
    caption = choose("caption", fields.caption, [*kinds], usual(texts, CAPTION_NAMES), where)
    _refuse_other_type("caption", caption, kinds, _holds_captions, where)

    for name in (image, label, caption):
        if schema.names.count(name) > 1:
            raise SourceError(
                f"{where} has {schema.names.count(name)} columns named {name}; rename them, or drop all but one"
            )
    kind = _plain(schema.field(image).type)
    return Columns(
        image=image,
        is_file_name=_is_text(kind),
        has_paths=types.is_struct(kind) and kind.get_field_index("path") >= 0,
        label=label,
        is_class_name=label is not None and not types.is_integer(kinds[label]),
        class_names=tuple(map(str, names)),
        caption=caption,
    )


def cells_in(table: pa.Table, columns: Columns, num_rows: int, where: str) -> Cells:
    """Return the cells of a table that has the columns.

    num_rows: of the table, which does not know it where the images are its only column.
    Raises SourceError, naming `where`, for a label beyond the class names of the schema, and for a text that is not
    UTF-8.
    """
    try:
        paths = _paths_in(table, columns) or [""] * num_rows
        labels, texts = _labels_in(table, columns, where) if columns.label else (np.full(num_rows, -1), [])
        if columns.caption is None:
            return Cells(paths, labels, texts, [""] * num_rows)
        captions = table[columns.caption].to_pylist()
        several = [row for row, cell in enumerate(captions) if has_several(cell)]
        return Cells(paths, labels, texts, [caption_in(cell, where) for cell in captions], several)
    except UnicodeDecodeError as error:
        raise SourceError(f"{where} holds text that is not UTF-8 ({error.reason}); write it again") from error


def _paths_in(table: pa.Table, columns: Columns) -> list[str]:
    """Return the paths of the images; none if there is no column of them."""
    if columns.is_file_name:
        return [path or "" for path in table[columns.image].to_pylist()]
    if columns.has_paths:
        return [path or "" for path in pc.struct_field(_decoded(table[columns.image]), "path").to_pylist()]
    return []


def _labels_in(table: pa.Table, columns: Columns, where: str) -> tuple[np.ndarray, list[str]]:
    """Return the labels and their texts as Cells has them; there is a column of them."""
    cells = _decoded(table[columns.label])
    texts: list[str] = []
    if columns.is_class_name:
        encoded = cells.combine_chunks().dictionary_encode()
        cells = encoded.indices
        texts = [label_in(text, where) for text in encoded.dictionary.to_pylist()]
    labels = pc.fill_null(pc.cast(cells, pa.int64(), safe=False), -1).to_numpy()
    labels = np.maximum(labels, -1)  # test splits have -1, or another number below zero
    if columns.class_names and len(labels) and labels.max() >= len(columns.class_names):
        raise SourceError(
            f"{where} has the label {labels.max()}, and its schema names only {len(columns.class_names)} classes; "
            f"correct it, or choose another column with --label"
        )
    return labels, texts


def _features(schema: pa.Schema) -> Features:
    """Return Hugging Face's features of the columns; none if the schema has none."""
    try:
        features = json.loads((schema.metadata or {})[_FEATURES_KEY])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    if not isinstance(features, dict):
        return {}
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


def _image_candidates(kinds: Mapping[str, pa.DataType], features: Features) -> list[str]:
    """Return the columns of the first sort that the table has, of those that may hold images."""
    images = [name for name, kind in kinds.items() if _holds_images(kind)]
    binary = [name for name in images if not types.is_struct(kinds[name])]
    tiers = (
        [name for name in images if features.get(name, {}).get("_type") == "Image"],
        [name for name in images if name not in binary],
        usual(binary, IMAGE_NAMES),
        binary,
        usual((name for name, kind in kinds.items() if _is_text(kind)), IMAGE_NAMES),
    )
    return next(filter(None, tiers), [])


def _label_candidates(kinds: Mapping[str, pa.DataType], features: Features) -> list[str]:
    numbers = [name for name, kind in kinds.items() if types.is_integer(kind)]
    tiers = (
        [name for name in numbers if features.get(name, {}).get("_type") == "ClassLabel"],
        usual(numbers, LABEL_NAMES),
        # pandas writes whole numbers as floating-point ones where cells are empty.
        usual((name for name, kind in kinds.items() if types.is_floating(kind)), LABEL_NAMES),
        usual((name for name, kind in kinds.items() if _is_text(kind)), LABEL_NAMES),
    )
    return next(filter(None, tiers), [])


def _refuse_other_type(
    field: str,
    column: str | None,
    kinds: Mapping[str, pa.DataType],
    holds: Callable[[pa.DataType], bool],
    where: str,
) -> None:
    """Raise UsageError if a column, which the user must have named, cannot hold a field."""
    if column is not None and not holds(kinds[column]):
        raise UsageError(f"--{field} {column}: {where} has {kinds[column]} there, and no {field}s; name another column")


def _holds_images(kind: pa.DataType) -> bool:
    if not types.is_struct(kind):
        return _is_binary(kind)
    of_fields = {each.name: each.type for each in kind}
    return _is_binary(of_fields.get("bytes", pa.null())) or _is_text(of_fields.get("path", pa.null()))


def _holds_labels(kind: pa.DataType) -> bool:
    return types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or _is_text(kind)


def _holds_captions(kind: pa.DataType) -> bool:
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return _is_text(_plain(kind.value_type) if is_list else kind)


def _is_binary(kind: pa.DataType) -> bool:
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def _is_text(kind: pa.DataType) -> bool:
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values, which a dictionary may hold once each."""
    return kind.value_type if types.is_dictionary(kind) else kind


def _decoded(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return cells without a dictionary."""
    return pc.cast(cells, cells.type.value_type) if types.is_dictionary(cells.type) else cells
