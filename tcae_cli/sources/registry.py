"""Registers the kinds of source, in the order in which they are asked whether a name is theirs.

To add one, write its class in a file of this folder and add its line here.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields as fields_of
from typing import Literal, NamedTuple, Protocol

from tcae_cli.errors import FieldError
from tcae_cli.recipe.choices import SampleFields
from tcae_cli.runtime.folder import Folder
from tcae_cli.runtime.registry import Registry
from tcae_cli.sources.listing import Container, Listing

# "row": any row at the cost of its own bytes. "group": any row, at the cost of all that are read with it. "stream":
# front to back alone, an earlier row at the cost of starting again. All but "row" are read by one process, in order.
Access = Literal["row", "group", "stream"]


class Place(NamedTuple):
    """Where the bytes of a row are; see Entry."""

    name: str  # of a file of its own: its key
    size_bytes: int
    container: int
    offset: int


class Located(Protocol):
    """What a reader knows of the source that it reads."""

    folder: Folder
    containers: Sequence[Container]
    image_column: str


class Reader(Protocol):
    """Reads images in one process; it may keep what it read last."""

    access: Access

    def read(self, place: Place) -> bytes:
        """Return the bytes of an image as they are now.

        Raises ImageError or OSError if this image cannot be read, SourceError if the whole container cannot.
        """


class SourceKind(Protocol):
    """One kind of source: recognises its names, lists its samples, and reads them."""

    words: str  # as messages name it, with its article
    fields: frozenset[str]  # the SampleFields that it takes

    def recognises(self, uri: str) -> bool:
        """Return whether a local path or a URL names a source of this kind."""

    def scan(self, uri: str, fields: SampleFields, on_progress: Callable[[int], None]) -> Listing:
        """List the samples in the order of a new index; on_progress is called now and then with how many it has found.

        Raises NotFoundError or SourceError, and OSError for a file that cannot be read.
        """

    def reader(self, located: Located) -> Reader:
        """Return a reader of the samples of a listing."""


# A name that is one of the others' is no folder's, and a remote folder is known by nothing else: it comes last.
KINDS: Registry[type[SourceKind]] = Registry(
    {
        "tar": "tcae_cli.sources.tar:TarShards",
        "list": "tcae_cli.sources.lists:ImageList",
        "zip": "tcae_cli.sources.zip:ZipArchives",
        "npz": "tcae_cli.sources.npz:SampleArray",
        "parquet": "tcae_cli.sources.parquet:ParquetFiles",
        "hub": "tcae_cli.sources.hub:HubSplit",
        "arrow": "tcae_cli.sources.arrow:SavedDataset",
        "folder": "tcae_cli.sources.folder:ImageFolder",
    }
)


def refuse_other_fields(uri: str, words: str, fields: SampleFields, taken: frozenset[str]) -> None:
    """Raise FieldError if the user named a field that a source of this kind does not take."""
    for error in fields_not_taken(uri, words, fields, taken).values():
        raise error


def fields_not_taken(uri: str, words: str, fields: SampleFields, taken: frozenset[str]) -> dict[str, FieldError]:
    """Return the errors for the fields that the user named and that a source of this kind does not take, by name."""
    named = (each.name for each in fields_of(fields) if getattr(fields, each.name) is not None)
    return {
        name: FieldError(
            name, f"--{name.replace('_', '-')}: {uri} is {words}, which has nothing to choose by it; omit it"
        )
        for name in named
        if name not in taken | {"classes"}  # they number the classes of any source
    }


def source_words() -> str:
    """Return the kinds of source for a message: "a, b or c"."""
    *others, last = (kind.words for kind in KINDS.values())
    return f"{', '.join(others)} or {last}"
