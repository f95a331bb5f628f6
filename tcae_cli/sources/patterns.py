"""Finds the files that a brace pattern or a glob names, here and in object stores."""

import glob
import os
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from braceexpand import braceexpand

from tcae_cli.errors import NotFoundError, SourceError, UsageError
from tcae_cli.runtime.folder import Folder, common_root, open_to_read
from tcae_cli.runtime.remote import is_remote, suffix_of
from tcae_cli.sources.locations import without_query

_LOCAL_WILDCARD = re.compile(r"[*?\[]")
_REMOTE_WILDCARD = re.compile(r"\*")  # a query begins with "?", and names of objects may hold "["
_PATH_WILDCARDS = r"\*\*/|\*\*|\*|\?|\[[^\]]+\]"
_URL_WILDCARDS = r"\*\*/|\*"
_NAMES_SHOWN = 5
_AS_REGEX = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


class FoundFiles(NamedTuple):
    """The files of a pattern or a list, in its order; those of a glob are sorted by name."""

    root: str  # an absolute path or a URL, ending in "/": the same whichever files a glob finds
    names: list[str]  # relative to the root
    remarks: tuple[str, ...] = ()  # a sentence on those that do not exist and were passed over

    @property
    def locations(self) -> list[str]:
        """Absolute paths, or URLs."""
        return [self.root + name for name in self.names]


def expand_pattern(uri: str, allow_missing: int | None = None) -> FoundFiles:
    """Return the files that a path or URL names, which may hold braces, and the wildcards of a glob.

    In URLs the wildcards are * and **. A single URL without wildcards is not looked for.
    allow_missing: as existing_files takes it.
    Raises UsageError if it is no pattern, NotFoundError if a file does not exist or a glob finds none, and SourceError
    for a glob over http.
    """
    try:
        patterns = [uri] if Path(uri).exists() else list(braceexpand(uri))
    except ValueError as error:
        raise UsageError(f"{uri} is not a pattern ({error}); write it as {_example(uri)}") from error
    if not is_remote(uri):
        patterns = [os.path.abspath(pattern) for pattern in patterns]
    root = common_root([_before_wildcards(pattern) for pattern in patterns])
    names = [location.removeprefix(root) for pattern in patterns for location in _matching(pattern)]
    named = [pattern.removeprefix(root) for pattern in patterns if not _wildcard_in(pattern)]
    return existing_files(uri, root, names, [] if is_remote(uri) and len(names) == 1 else named, allow_missing)


def existing_files(
    uri: str, root: str, names: list[str], unsure: Collection[str], allow_missing: int | None
) -> FoundFiles:
    """Return the files of these names below a root, without those of the unsure ones that do not exist.

    allow_missing: how many may be missing; None: none.
    Raises NotFoundError, naming the first few, if more are missing, or all of the names.
    """
    folder = open_to_read(root)
    found = folder.in_order(lambda name: _exists(folder, name), unsure)
    missing = dict.fromkeys(name for name, exists in zip(unsure, found, strict=True) if not exists)
    if not missing:
        return FoundFiles(root, names)
    present = [name for name in names if name not in missing]
    shown = [without_query(root, name) for name in list(missing)[:_NAMES_SHOWN]]
    if not present:
        others = f", and neither does any other of its {len(names):,} files" if len(names) > 1 else ""
        raise NotFoundError(f"{root}{shown[0]} does not exist{others}; correct {uri}")
    listed = ", ".join(shown) + (", ..." if len(missing) > len(shown) else "")
    lack = f"{uri} lacks {len(missing):,} of its {len(names):,} files"
    if len(missing) > (allow_missing or 0):
        more = f", more than --allow-missing {allow_missing}" if allow_missing else ""
        advice = f"correct it, or pass --allow-missing {len(missing)} to pass over them"
        raise NotFoundError(f"{lack}{more}: {listed}; {advice}")
    return FoundFiles(root, present, (f"{lack}, which --allow-missing permits: {listed}",))


def names_files(uri: str, is_name: Callable[[str], bool]) -> bool:
    """Return whether a path, a URL or a pattern is one of files of such names: by its end, or by all that a glob finds.

    A URL is looked at by its end only.
    """
    if is_name(without_query(uri, uri)):
        return not os.path.isdir(uri)
    return bool(found := glob_matches(uri)) and all(map(is_name, found))


def glob_matches(uri: str) -> list[str]:
    """Return the files that a local glob finds; none if it finds none or is none."""
    if is_remote(uri) or not _wildcard_in(uri):
        return []
    try:
        return expand_pattern(uri).names
    except (NotFoundError, UsageError):
        return []


def regex_of_glob(pattern: str, wildcards: str = _PATH_WILDCARDS) -> re.Pattern[str]:
    """Return a regular expression for a glob of paths: * and ? stay within a folder, ** does not."""
    pieces = iter(re.split(f"({wildcards})", pattern))
    expression = re.escape(next(pieces))
    for wildcard, text in zip(pieces, pieces, strict=True):
        expression += _AS_REGEX.get(wildcard, wildcard.replace("[!", "[^")) + re.escape(text)
    return re.compile(expression)


def _exists(folder: Folder, name: str) -> bool:
    if not is_remote(folder.uri):
        return os.path.isfile(os.path.join(folder.uri, name))
    try:
        with folder.open(name):
            return True
    except FileNotFoundError:
        return False


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
