"""Parses the labels, captions and metadata that come with images."""

import json
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
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
    """Return the text of a file, such as a caption or list, without its byte order mark and the space around it.

    Raises SourceError, naming `where`, if it is neither UTF-8 nor, by its byte order mark, UTF-16.
    """
    return decode_text(as_utf8(data, where), where).strip()


def as_utf8(data: bytes, where: str) -> bytes:
    """Return the bytes of a file in UTF-8 and without its byte order mark, which says where they are UTF-16.

    Raises SourceError, naming `where`, if they are not UTF-16 though the mark says so.
    """
    if not data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        return data.removeprefix(BOM_UTF8)
    try:
        return data.decode("utf-16").encode()
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{where} begins as UTF-16 text and is none ({error.reason}); convert or remove it"
        ) from error


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
