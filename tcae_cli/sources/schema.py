"""Chooses the columns of an Arrow schema that hold images, labels and captions, and reads their cells."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as types

from tcae_cli.errors import UsageError
from tcae_cli.recipe.choices import SampleFields
from tcae_cli.sources.columns import (
    CAPTION_NAMES,
    IMAGE_NAMES,
    LABEL_NAMES,
    caption_in,
    choose,
    choose_image,
    label_in,
    usual,
)

_FEATURES_KEY = b"huggingface"  # of a schema's metadata: https://huggingface.co/docs/datasets/about_arrow


@dataclass(frozen=True)
class Columns:
    """The columns of a table that make samples; None: there is no such column."""

    image: str
    is_file_name: bool  # the image is the path of a file, and not its bytes
    has_paths: bool  # beside the bytes
    label: str | None
    class_names: tuple[str, ...]  # of labels 0, 1, ...; () if the schema does not name them
    caption: str | None

    def beside_the_images(self) -> list[str]:
        """Return the columns to read for the listing, by their paths in the schema, without the images' bytes."""
        image = [self.image] if self.is_file_name else [f"{self.image}.path"] if self.has_paths else []
        return [*image, *filter(None, (self.label, self.caption))]


def choose_columns(schema: pa.Schema, fields: SampleFields, where: str) -> Columns:
    """Return the columns of a schema: by Hugging Face's features in it, then by type and usual names.

    Raises SourceError or UsageError, naming `where`, if there is no image, if a field has several candidates, or if the
    user named a column that is missing or of another type.
    """
    features = _features(schema)
    image = choose_image(fields.image, schema.names, _image_candidates(schema, features), where)
    kind = schema.field(image).type
    has_bytes = _has_bytes(kind)
    if not (has_bytes or _is_text(kind)):
        raise UsageError(f"--image {image}: {where} holds {kind} there, and no images; name another column")

    others = [name for name in schema.names if name != image]
    label = choose("label", fields.label, others, _label_candidates(schema, features, others), where)
    names = features.get(label or "", {}).get("names", ())
    texts = [name for name in others if name != label and _holds_captions(schema.field(name).type)]
    caption = choose("caption", fields.caption, others, usual(texts, CAPTION_NAMES), where)
    has_paths = types.is_struct(kind) and kind.get_field_index("path") >= 0
    return Columns(image, not has_bytes, has_paths, label, tuple(map(str, names)), caption)


def paths_in(table: pa.Table, columns: Columns, num_rows: int) -> list[str]:
    """Return the path of each image, "" where it has none."""
    if columns.is_file_name:
        return [path or "" for path in table[columns.image].to_pylist()]
    if columns.has_paths:
        return [path or "" for path in pc.struct_field(table[columns.image], "path").to_pylist()]
    return [""] * num_rows


def labels_in(table: pa.Table, columns: Columns, num_rows: int, where: str) -> list[str]:
    """Return the label of each row as a text, "" where it has none."""
    if columns.label is None:
        return [""] * num_rows
    return [label_in(cell, where) for cell in table[columns.label].to_pylist()]


def captions_in(table: pa.Table, columns: Columns, num_rows: int, where: str) -> list[str]:
    """Return the caption of each row, "" where it has none."""
    if columns.caption is None:
        return [""] * num_rows
    return [caption_in(cell, where) for cell in table[columns.caption].to_pylist()]


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """Return Hugging Face's features of the columns, by name; none if the schema has none."""
    try:
        features = json.loads((schema.metadata or {})[_FEATURES_KEY])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return {name: feature for name, feature in features.items() if isinstance(feature, dict) and name in schema.names}


def _image_candidates(schema: pa.Schema, features: dict[str, dict[str, Any]]) -> list[str]:
    def of_type(is_it: Any) -> list[str]:
        return [field.name for field in schema if is_it(field.type)]

    binary = of_type(_is_binary)
    tiers = (
        [name for name, feature in features.items() if feature.get("_type") == "Image"],
        of_type(lambda kind: types.is_struct(kind) and _has_bytes(kind)),
        usual(binary, IMAGE_NAMES),
        binary,
        usual(of_type(_is_text), IMAGE_NAMES),
    )
    return next((tier for tier in tiers if tier), [])


def _label_candidates(schema: pa.Schema, features: dict[str, dict[str, Any]], names: Sequence[str]) -> list[str]:
    tiers = (
        [name for name in names if features.get(name, {}).get("_type") == "ClassLabel"],
        usual([name for name in names if types.is_integer(schema.field(name).type)], LABEL_NAMES),
        usual([name for name in names if _is_text(schema.field(name).type)], LABEL_NAMES),
    )
    return next((tier for tier in tiers if tier), [])


def _has_bytes(kind: pa.DataType) -> bool:
    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def _is_text(kind: pa.DataType) -> bool:
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _holds_captions(kind: pa.DataType) -> bool:
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return _is_text(kind.value_type if is_list else kind)
