"""Recognises folders that the datasets library saved as a source of images."""

import os
from collections.abc import Callable

from tcae_cli.recipe.choices import NO_FIELDS, SampleFields
from tcae_cli.runtime.remote import is_remote
from tcae_cli.sources.files import FileReader
from tcae_cli.sources.listing import Listing, ignore
from tcae_cli.sources.registry import Located, Reader

STATE_NAME = "state.json"  # of a data set
SPLITS_NAME = "dataset_dict.json"  # of a folder of data sets, one for each split


class SavedDataset:
    """A folder that save_to_disk of Hugging Face's datasets wrote: Arrow files, which are mapped into memory."""

    words = "a folder written by save_to_disk"
    fields = frozenset({"image", "label", "caption", "split"})

    def recognises(self, uri: str) -> bool:
        return not is_remote(uri) and any(os.path.isfile(os.path.join(uri, name)) for name in (STATE_NAME, SPLITS_NAME))

    def reader(self, located: Located) -> Reader:
        if not located.containers:  # the images are files of their own
            return FileReader(located)
        from tcae_cli.sources.arrow_files import MappedReader  # here, since other sources need no pyarrow

        return MappedReader(located)

    def scan(self, uri: str, fields: SampleFields = NO_FIELDS, on_progress: Callable[[int], None] = ignore) -> Listing:
        """List the rows of all files, in the order in which the data set was saved.

        Raises UsageError if one of several splits must be chosen, NotFoundError if there is no such split, SourceError
        if a file is missing, damaged or does not fit to the others.
        """
        from tcae_cli.sources.arrow_files import list_saved

        return list_saved(uri, fields, on_progress)
