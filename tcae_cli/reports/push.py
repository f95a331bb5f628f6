"""The request and the report of `tcae push`."""

from dataclasses import dataclass

from tcae_cli.reports.report import Report


@dataclass(frozen=True, kw_only=True)
class PushRequest:
    """`tcae push`."""

    what: str  # a store, or the name of a model
    target: str  # hf://datasets/ORG/NAME for a store, hf://ORG/NAME for a model


@dataclass(frozen=True, kw_only=True)
class PushReport(Report):
    """The files of the repository, and how to read them."""

    what: str
    address: str  # that reading commands and --model take
    page: str  # of the repository
    commit: str
    num_files: int  # of the store or the model, without the card
    num_uploaded: int  # by this command; the others were there already
    num_bytes: int
    card_kept: bool  # the repository has a README.md of its own
    elapsed_s: float
