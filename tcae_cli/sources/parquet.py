"""Recognises Parquet files, local or remote, as a source of images."""

from collections.abc import Callable
from dataclasses import replace

from tcae_cli.recipe.choices import NO_FIELDS, SampleFields
from tcae_cli.sources.files import FileReader
from tcae_cli.sources.listing import Listing, ignore
from tcae_cli.sources.patterns import FoundFiles, expand_pattern, names_files
from tcae_cli.sources.registry import Located, Reader

_SUFFIX = ".parquet"


class ParquetFiles:
    """One Parquet file, or those of a brace pattern or a glob."""

    words = "Parquet files (.parquet)"
    fields = frozenset({"image", "label", "caption", "allow_missing"})

    def recognises(self, uri: str) -> bool:
        return names_files(uri, is_parquet_name)

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
        return list_files(uri, expand_pattern(uri, fields.allow_missing), fields, on_progress)


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
    listing = list_parquet(uri, root, files.names, fields, on_progress)
    return replace(listing, remarks=(*listing.remarks, *files.remarks))
