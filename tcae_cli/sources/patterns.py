"""Finds the files that a brace pattern or a glob names, here and in object stores."""

import glob
import os
import re
from pathlib import Path
from typing import NamedTuple

from braceexpand import braceexpand

from tcae_cli.errors import NotFoundError, SourceError, UsageError
from tcae_cli.runtime.folder import common_root, open_to_read
from tcae_cli.runtime.remote import is_remote, suffix_of

_LOCAL_WILDCARD = re.compile(r"[*?\[]")
_REMOTE_WILDCARD = re.compile(r"\*")  # a query begins with "?", and names of objects may hold "["
_PATH_WILDCARDS = r"\*\*/|\*\*|\*|\?|\[[^\]]+\]"
_URL_WILDCARDS = r"\*\*/|\*"
_AS_REGEX = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


class FoundFiles(NamedTuple):
    """The files of a pattern, in its order; those of a glob are sorted by name."""

    root: str  # an absolute path or a URL, ending in "/": the same whichever files a glob finds
    names: list[str]  # relative to the root

    @property
    def locations(self) -> list[str]:
        """Absolute paths, or URLs."""
        return [self.root + name for name in self.names]


def expand_pattern(uri: str) -> FoundFiles:
    """Return the files that a path or URL names, which may hold braces, and the wildcards of a glob.

    In URLs the wildcards are * and **. Local files exist; a URL without wildcards is not looked for.
    Raises UsageError if it is no pattern, NotFoundError if a local file does not exist or a glob finds none, and
    SourceError for a glob over http.
    """
    try:
        patterns = [uri] if Path(uri).exists() else list(braceexpand(uri))
    except ValueError as error:
        raise UsageError(f"{uri} is not a pattern ({error}); write it as {_example(uri)}") from error
    if not is_remote(uri):
        patterns = [os.path.abspath(pattern) for pattern in patterns]
    root = common_root([_before_wildcards(pattern) for pattern in patterns])
    locations = [location for pattern in patterns for location in _matching(pattern)]
    missing = [] if is_remote(uri) else [path for path in locations if not os.path.isfile(path)]
    if missing:
        of_them = f"; {len(missing)} of its {len(locations)} files do not exist" if len(locations) > 1 else ""
        raise NotFoundError(f"{missing[0]} does not exist{of_them}; correct {uri}")
    return FoundFiles(root, [location.removeprefix(root) for location in locations])


def regex_of_glob(pattern: str, wildcards: str = _PATH_WILDCARDS) -> re.Pattern[str]:
    """Return a regular expression for a glob of paths: * and ? stay within a folder, ** does not."""
    pieces = iter(re.split(f"({wildcards})", pattern))
    expression = re.escape(next(pieces))
    for wildcard, text in zip(pieces, pieces, strict=True):
        expression += _AS_REGEX.get(wildcard, wildcard.replace("[!", "[^")) + re.escape(text)
    return re.compile(expression)


def _example(uri: str) -> str:
    """Return a pattern of files of the same kind, for a message."""
    return f"shards/{{000..127}}{suffix_of(uri)}"


def _wildcard_in(pattern: str) -> re.Match[str] | None:
    if is_remote(pattern):
        return _REMOTE_WILDCARD.search(pattern)
    wildcard = _LOCAL_WILDCARD.search(pattern)
    return None if wildcard and os.path.exists(pattern) else wildcard  # a name may hold "["


def _before_wildcards(pattern: str) -> str:
    wildcard = _wildcard_in(pattern)
    return pattern[: wildcard.start()] if wildcard else pattern


def _matching(pattern: str) -> list[str]:
    """Return the files that a glob finds, by sorted name; of a name without wildcards, the name."""
    if not _wildcard_in(pattern):
        return [pattern]
    if is_remote(pattern):
        found = _matching_remote(pattern)
    else:
        found = [path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)]
    if not found:
        raise NotFoundError(f"{pattern} matches no file; correct it")
    return sorted(found)


def _matching_remote(pattern: str) -> list[str]:
    if pattern.startswith(("http://", "https://")):
        raise SourceError(
            f"{pattern} is a glob, and folders cannot be listed over http; write it as {_example(pattern)}"
        )
    root = common_root([_before_wildcards(pattern)])
    wanted = regex_of_glob(pattern.removeprefix(root), _URL_WILDCARDS)
    names = [name for name in open_to_read(root).sizes() if wanted.fullmatch(name)]
    return [root + name for name in names if not any(part.startswith(".") for part in name.split("/"))]
