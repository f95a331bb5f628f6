"""Scans a source: finds its kind, lists its samples and writes their index."""

import os
from collections.abc import Callable
from pathlib import Path

from tcae_cli.errors import NotFoundError, SourceError
from tcae_cli.recipe.choices import NO_FIELDS, SampleFields
from tcae_cli.reports.progress import SILENT, Progress
from tcae_cli.runtime.remote import is_remote
from tcae_cli.sources.announce import found_so_far, say_found
from tcae_cli.sources.class_numbers import with_class_numbers
from tcae_cli.sources.index import write_index
from tcae_cli.sources.listing import Listing, count_suffixes, ignore
from tcae_cli.sources.patterns import glob_matches
from tcae_cli.sources.registry import KINDS, SourceKind, refuse_other_fields, source_words
from tcae_cli.sources.source import Source


def open_source(uri: str, index_dir: Path, fields: SampleFields = NO_FIELDS, progress: Progress = SILENT) -> Source:
    """Scan the source at `uri`, write its index into `index_dir`, and open it. For arguments and errors, see scan."""
    write_index(index_dir, scan(uri, fields, found_so_far(uri, progress)))
    source = Source(index_dir)
    say_found(source, progress)
    for sentence in source.disagreements:
        progress.say(sentence)
    return source


def scan(uri: str, fields: SampleFields = NO_FIELDS, on_progress: Callable[[int], None] = ignore) -> Listing:
    """List every sample at `uri`, in the order of a new index.

    uri: a local path or s3://, gs://, hf:// or http(s)://, of a kind that docs/sources.md describes; over http folders
    cannot be listed.
    fields: which column or member is image, label and caption, where the source leaves a choice; and the numbers of
    classes.
    on_progress: called now and then with the number of images, or of files in a folder, found so far.
    Raises NotFoundError if nothing is at `uri`, SourceError if it cannot be used, FieldError for a field that a source
    of this kind does not have.
    """
    kind = find_kind(uri)
    refuse_other_fields(uri, kind.words, fields, kind.fields)
    try:
        listing = kind.scan(uri, fields, on_progress)
    except NotFoundError:  # an OSError too, with its own sentence
        raise
    except OSError as error:
        found = f"{error.filename or uri} cannot be read ({error.strerror or error})"
        if not is_remote(str(error.filename or uri)):
            raise SourceError(f"{found}; check its permissions, or move it away") from error
        if isinstance(error, FileNotFoundError):
            raise NotFoundError(f"{error.filename or uri} does not exist; correct {uri}") from error
        raise SourceError(f"{found}; check the name, your credentials and the network") from error
    return with_class_numbers(listing, fields.classes) if fields.classes else listing


def find_kind(uri: str) -> SourceKind:
    """Return the kind of source that a name is of. Raises NotFoundError or SourceError if it is of none."""
    if uri.startswith("pipe:"):
        raise SourceError(f"{uri} is a command, and images are read by position; give its tars as paths or URLs")
    for make in KINDS.values():
        kind = make()
        if kind.recognises(uri):
            return kind
    if found := glob_matches(uri):
        suffixes = ", ".join(f"{count:,} with {suffix}" for suffix, count in count_suffixes(found).items())
        raise SourceError(f"{uri} matches {suffixes}, which are not of one kind of source; give {source_words()}")
    if not os.path.exists(uri):
        raise NotFoundError(f"{uri} does not exist; give {source_words()}")
    raise SourceError(f"{uri} is not a source of images; give {source_words()}")
