"""Parses the names of datasets on the Hugging Face Hub, and of files and folders in them."""

import re
from typing import NamedTuple

import huggingface_hub
from huggingface_hub import constants

from tcae_cli.errors import UsageError

_PREFIX = "hf://datasets/"
_NAME = re.compile(
    rf"{_PREFIX}(?P<repository>[\w.-]+/[\w.-]+)"
    r"(?:@(?P<revision>refs/(?:convert/[\w.-]+|pr/\d+)|[^/@#]+))?(?:/(?P<path>.*))?"
)


class HubName(NamedTuple):
    """A dataset on the Hub, or a file or folder in it."""

    repository: str  # ORG/NAME
    revision: str | None = None  # a branch, a tag, a commit or a reference such as refs/convert/parquet
    path: str = ""  # in the repository; "": the dataset

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        path = f"/{self.path}" if self.path else ""
        return f"{_PREFIX}{self.repository}{revision}{path}"

    @property
    def page(self) -> str:
        """The URL of the dataset's page."""
        return f"{constants.ENDPOINT}/datasets/{self.repository}"

    @property
    def resolved_url(self) -> str:
        """The URL that leads to the file's bytes, perhaps by way of others."""
        return huggingface_hub.hf_hub_url(self.repository, self.path, repo_type="dataset", revision=self.revision)


def parse_name(uri: str) -> HubName | None:
    """Return what an hf://datasets/ORG/NAME[@REVISION][/PATH] names; None for any other URI.

    Raises UsageError for a name with a part that is "..": in the client's cache names are those of files.
    """
    found = _NAME.fullmatch(uri)
    if not found:
        return None
    revision = found["revision"] and found["revision"].replace("%2F", "/")
    if ".." in re.split("[/@]", f"{found['repository']}@{revision}/{found['path']}"):
        raise UsageError(f"{uri} leads out of the dataset by its '..'; write the name without it")
    return HubName(found["repository"], revision, (found["path"] or "").strip("/"))
