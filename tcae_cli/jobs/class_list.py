"""Finds the list that numbers the classes of a source: --classes, or the list that its store was made with."""

import os

from tcae_cli.errors import StoreError
from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.runtime.folder import open_pinned
from tcae_cli.runtime.remote import is_remote, suffix_of
from tcae_cli.sources.class_numbers import read_class_names
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.spec import SourceIdentity


def given_class_names(request: EncodeRequest, store: StoreHandle | None) -> tuple[str, ...]:
    """Return the names of classes 0, 1, ... that the request gives or its store was made with; () if neither does.

    Raises StoreError if the store has other classes: with --append, only if its own are not the first of those given;
    with --update-metadata, never. Raises the errors of reading the list.
    """
    if request.classes is None:
        return tuple(store.spec.source.class_names) if store and store.spec.classes_given else ()
    given = _class_names_in(request.classes)
    if store and not request.update_metadata:
        own = tuple(store.spec.source.class_names)
        if own != (given[: len(own)] if request.append else given):
            raise StoreError(
                f"{request.store} numbers {_words(own)}, and {request.classes} {_words(given)}; omit --classes to "
                f"continue with the store's, or pass --update-metadata to number its labels by the list"
            )
    return given


def refuse_other_classes(store: StoreHandle, identity: SourceIdentity) -> None:
    """Raise StoreError if another part that made the store meanwhile has numbered the classes by another list."""
    if store.spec.source.class_names != identity.class_names:
        raise StoreError(
            f"{store.folder.uri} was made with other class numbers by another part meanwhile; "
            f"remove it, give all parts the same --classes, and repeat"
        )


def _class_names_in(name: str) -> tuple[str, ...]:
    """Return the class names in a file or a store."""
    if os.path.isdir(name) or (is_remote(name) and suffix_of(name) not in (".txt", ".json")):
        class_names = StoreHandle(open_pinned(name)).spec.source.class_names
        if not class_names:
            raise StoreError(f"{name} has no class names, only numbers or no labels; omit --classes")
        return tuple(class_names)
    return read_class_names(name)


def _words(class_names: tuple[str, ...]) -> str:
    """Return a class list in a few words."""
    shown = ", ".join(class_names[:3]) + (", ..." if len(class_names) > 3 else "")
    return f"{len(class_names):,} classes ({shown})" if class_names else "no classes by name"
