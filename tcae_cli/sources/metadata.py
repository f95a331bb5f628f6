"""Parses the labels, captions and metadata that come with images."""

import json
from typing import Any

from tcae_cli.errors import SourceError

_BYTE_ORDER_MARK = "\ufeff"


def parse_label(text: str, where: str) -> int:
    """Return the class number in `text`, or -1, which means none.

    Raises SourceError, naming `where`, if it is neither -1 nor a whole number from 0.
    """
    digits = text.removeprefix(_BYTE_ORDER_MARK).strip()
    if digits == "-1":
        return -1
    if not digits.isdecimal() or len(digits) > 18:  # int64
        raise SourceError(f"{where}: the label should be a whole number from 0, found {digits[:40]!r}; correct it")
    return int(digits)


def parse_text(data: bytes, where: str) -> str:
    """Return the text of a caption or list, without space around it; raises SourceError as decode_text does."""
    return decode_text(data, where).strip()


def decode_text(data: bytes, where: str) -> str:
    """Return a text without its byte order mark; raises SourceError, naming `where`, if it is not UTF-8."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{where} is not UTF-8 text ({error.reason}); convert or remove it") from error
    if "\0" in text:
        raise SourceError(f"{where} is not UTF-8 text (it holds zero bytes); convert or remove it")
    return text


def parse_json(data: bytes, where: str) -> Any:
    """Return a JSON value; raises SourceError, naming `where`, if `data` is not JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{where}: not readable as JSON ({error}); correct or remove it") from error


def parse_metadata(data: bytes, where: str) -> dict[str, Any]:
    """Return a JSON object; raises SourceError, naming `where`, if `data` is anything else."""
    metadata = parse_json(data, where)
    if not isinstance(metadata, dict):
        raise SourceError(f"{where}: should be a JSON object, found {type(metadata).__name__}; correct or remove it")
    return metadata
