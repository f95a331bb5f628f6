"""Recognises Parquet files, local or remote, as a source of images."""

import os
from collections.abc import Callable

from tcae_cli.recipe.choices import NO_FIELDS, SampleFields
from tcae_cli.runtime.remote import suffix_of
from tcae_cli.sources.files import FileReader
from tcae_cli.sources.listing import Listing, ignore
from tcae_cli.sources.patterns import FoundFiles, expand_pattern
from tcae_cli.sources.registry import Located, Reader

_SUFFIX = ".parquet"


class ParquetFiles:
    """One Parquet file, or those of a brace pattern or a glob."""

    words = "Parquet files (.parquet)"
    fields = frozenset({"image", "label", "caption"})

    def recognises(self, uri: str) -> bool:
        return suffix_of(uri) == _SUFFIX and not os.path.isdir(uri)

    def reader(self, located: Located) -> Reader:
        if not located.containers:  # the images are files of their own
            return FileReader(located)
        from tcae_cli.sources.parquet_reader import GroupReader  # here, since other sources need no pyarrow

        return GroupReader(located)

    def scan(self, uri: str, fields: SampleFields = NO_FIELDS, on_progress: Callable[[int], None] = ignore) -> Listing:
        """List the rows of all files, by file in the pattern's order, then by row.

        A row group whose small columns cannot be read is so many rows with a problem.
        Raises NotFoundError if a file does not exist, SourceError if one is not Parquet or they do not fit together.
        """
        return list_files(uri, expand_pattern(uri), fields, on_progress)


def is_parquet_name(name: str) -> bool:
    """Return whether a file of this name is a Parquet file."""
    return name.lower().endswith(_SUFFIX)


def list_files(uri: str, files: FoundFiles, fields: SampleFields, on_progress: Callable[[int], None]) -> Listing:
    """List the rows of Parquet files as ParquetFiles.scan does; those on the Hugging Face Hub at one commit."""
    from tcae_cli.sources.parquet_rows import list_parquet  # here, since other sources need no pyarrow

    root = files.root
    if root.startswith("hf://datasets/"):
        from tcae_cli.runtime.hub import pin

        root = pin(root)
    return list_parquet(uri, root, files.names, fields, on_progress)
