"""Reads images that are files of their own, or lie at a position in a file."""

import os

from tcae_cli.errors import ImageError
from tcae_cli.sources.locations import without_query
from tcae_cli.sources.registry import Access, Located, Place


class FileReader:
    """Reads images one by one; each file is opened anew, which costs about 1 % of decoding."""

    access: Access = "row"

    def __init__(self, located: Located) -> None:
        self._located = located

    def read(self, place: Place) -> bytes:
        folder = self._located.folder
        if place.container < 0:
            return folder.read(place.name)
        data = folder.read_range(self._located.containers[place.container].name, place.offset, place.size_bytes)
        if len(data) < place.size_bytes:
            raise too_short(self._located, place)
        return data

    def read_start(self, place: Place, num_bytes: int) -> bytes:
        """Return so many bytes from the start of an image's file, fewer where it is shorter; raise as `read` does."""
        if place.container < 0:
            return self._located.folder.read_range(place.name, 0, num_bytes)
        return self.read(place._replace(size_bytes=min(num_bytes, place.size_bytes)))


def too_short(located: Located, place: Place) -> ImageError:
    """Return the error of an image that lies beyond the end of its container."""
    return ImageError("read", f"{shown_name(located, place)} is shorter than when it was indexed")


def shown_name(located: Located, place: Place) -> str:
    """Return the name of the container of an image, without the secret in the query of a signed URL."""
    name = located.containers[place.container].name
    return os.path.basename(without_query(located.folder.uri, name))
