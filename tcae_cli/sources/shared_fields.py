"""Opens sources that share the user's options for the parts of a sample: each uses those that it can."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tcae_cli.errors import FieldError, SourceError
from tcae_cli.recipe.choices import SampleFields
from tcae_cli.reports.progress import Progress
from tcae_cli.sources.scan import open_source
from tcae_cli.sources.source import Source


def open_sharing(named: Sequence[tuple[str, Path]], fields: SampleFields, progress: Progress) -> list[Source]:
    """Open sources, each named with the folder for its index; say which fields are for some of them alone.

    Raises FieldError for a field that none of them can use, and what open_with_usable raises.
    """
    opened = [open_with_usable(uri, index_dir, fields, progress) for uri, index_dir in named]
    refuse_unused(*(unused for _, unused in opened))
    for (uri, _), (_, unused) in zip(named, opened, strict=True):
        for error in unused.values():
            progress.say(f"{error.option} is not for {uri}, which has nothing to choose by it")
    return [source for source, _ in opened]


def open_with_usable(
    uri: str, index_dir: Path, fields: SampleFields, progress: Progress
) -> tuple[Source, dict[str, FieldError]]:
    """Open a source with those fields that it can use; return it, and why it cannot use the others, by name.

    Raises what open_source raises; for a source that cannot be opened without a field that it cannot use, its
    FieldError.
    """
    unused: dict[str, FieldError] = {}
    while True:
        try:
            return open_source(uri, index_dir, replace(fields, **dict.fromkeys(unused)), progress), unused
        except FieldError as error:
            unused[error.field] = error
        except SourceError as error:
            for unusable in unused.values():
                if unusable.option in str(error):  # it asks to choose by an option that the user has given
                    raise unusable from error
            raise


def refuse_unused(*unused: Mapping[str, FieldError]) -> None:
    """Raise the first source's FieldError for a field that none of the sources can use."""
    if not unused:
        return
    first, *others = unused
    for field, error in first.items():
        if all(field in each for each in others):
            raise error
