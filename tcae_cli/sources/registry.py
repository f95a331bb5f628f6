"""Registers the kinds of source, in the order in which they are asked whether a name is theirs.

To add one, write its class in a file of this folder and add its line here.
"""

from collections.abc import Callable
from typing import Protocol

from tcae_cli.runtime.registry import Registry
from tcae_cli.sources.index import Listing


class SourceKind(Protocol):
    """One kind of source: recognises its names, and lists its samples."""

    words: str  # as messages name it, with its article

    def recognises(self, uri: str) -> bool:
        """Return whether a local path or a URL names a source of this kind."""

    def scan(self, uri: str, on_progress: Callable[[int], None]) -> Listing:
        """List the samples in the order of a new index; on_progress is called now and then with how many it has found.

        Raises NotFoundError or SourceError, and OSError for a file that cannot be read.
        """


# A name that is a tar's or a list's is no folder's, and a remote folder is known by nothing else: it comes last.
KINDS: Registry[type[SourceKind]] = Registry(
    {
        "tar": "tcae_cli.sources.tar:TarShards",
        "list": "tcae_cli.sources.lists:ImageList",
        "folder": "tcae_cli.sources.folder:ImageFolder",
    }
)


def source_words() -> str:
    """Return the kinds of source for a message: "a, b or c"."""
    *others, last = (kind.words for kind in KINDS.values())
    return f"{', '.join(others)} or {last}"
