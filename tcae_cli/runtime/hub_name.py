"""Parses the names of datasets and models on the Hugging Face Hub, and of files and folders in datasets."""

import re
from typing import Literal, NamedTuple

import huggingface_hub
from huggingface_hub import constants

from tcae_cli.errors import UsageError

_PREFIX = "hf://datasets/"
_NAME = re.compile(
    rf"{_PREFIX}(?P<repository>[\w.-]+/[\w.-]+)"
    r"(?:@(?P<revision>refs/(?:convert/[\w.-]+|pr/\d+)|[^/@#]+))?(?:/(?P<path>.*))?"
)


_MODEL = re.compile(r"hf://(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^@#]+))?/?")


class HubName(NamedTuple):
    """A dataset or a model on the Hub, or a file or folder in it."""

    repository: str  # ORG/NAME
    revision: str | None = None  # a branch, a tag, a commit or a reference such as refs/convert/parquet
    path: str = ""  # in the repository; "": all of it
    kind: Literal["dataset", "model"] = "dataset"

    def __str__(self) -> str:
        prefix = _PREFIX if self.kind == "dataset" else "hf://"
        revision = f"@{self.revision}" if self.revision else ""
        path = f"/{self.path}" if self.path else ""
        return f"{prefix}{self.repository}{revision}{path}"

    @property
    def page(self) -> str:
        """The URL of the repository's page."""
        datasets = "datasets/" if self.kind == "dataset" else ""
        return f"{constants.ENDPOINT}/{datasets}{self.repository}"

    @property
    def resolved_url(self) -> str:
        """The URL that leads to the file's bytes, perhaps by way of others."""
        return huggingface_hub.hf_hub_url(self.repository, self.path, repo_type=self.kind, revision=self.revision)


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


def parse_repository(uri: str) -> HubName | None:
    """Return what an hf://datasets/ORG/NAME[@REVISION][/PATH] or hf://ORG/NAME[@REVISION] names; None for others.

    Raises what parse_name raises.
    """
    if uri.startswith(_PREFIX):
        return parse_name(uri)
    found = _MODEL.fullmatch(uri)
    return found and HubName(found["repository"], found["revision"], kind="model")
