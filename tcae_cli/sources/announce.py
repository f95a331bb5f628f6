"""Reports what indexing a source finds: how many images so far, and at the end what it passed over."""

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from tcae_cli.reports.described import described_words
from tcae_cli.reports.progress import Progress
from tcae_cli.runtime.remote import is_remote

_SAY_FROM = 1000  # images; fewer are found in no time
_SAY_EVERY_S = 5.0
_SUFFIXES_SHOWN = 5
_REMARKS_SHOWN = 5


class Indexed(Protocol):
    """A source that has just been indexed."""

    uri: str
    passed_over: dict[str, int]
    remarks: tuple[str, ...]
    labels_from: dict[str, int]
    captions_from: dict[str, int]

    def __len__(self) -> int: ...


def found_so_far(uri: str, progress: Progress) -> Callable[[int], None]:
    """Return a function that reports a count of a thousand or more at once, and then any count every few seconds."""
    say_at = time.monotonic() + _SAY_EVERY_S
    has_said = False
    if is_remote(uri):
        progress.say(f"{uri}: indexing")  # a bucket is listed in one go, which takes minutes for a million objects

    def report(count: int) -> None:
        nonlocal say_at, has_said
        if time.monotonic() > say_at or (count >= _SAY_FROM and not has_said):
            say_at = time.monotonic() + _SAY_EVERY_S
            has_said = True
            progress.say(f"{uri}: {count:,} found so far")

    return report


def say_found(source: Indexed, progress: Progress) -> None:
    """Report the number of images in a source, their labels and captions, and everything that its scan did not use."""
    progress.say(_found_words(source.uri, len(source), source.passed_over))
    progress.say(f"{source.uri}: {described_words(len(source), source.labels_from, source.captions_from)}")
    for remark in source.remarks[:_REMARKS_SHOWN]:
        progress.say(remark)
    if len(source.remarks) > _REMARKS_SHOWN:
        progress.say(f"{source.uri}: {len(source.remarks) - _REMARKS_SHOWN:,} more remarks like these")


def _found_words(uri: str, num_images: int, passed_over: Mapping[str, int]) -> str:
    """Return the number of images, and the share of listed files that are not images, by suffix, in a sentence."""
    sentence = f"{uri}: {num_images:,} images"
    num_others = sum(passed_over.values())
    if not num_others:
        return sentence
    share = num_others / (num_images + num_others)
    percent = f"{share:.2%}" if share >= 0.0001 else "under 0.01%"
    suffixes = [f"{count:,} {suffix}" for suffix, count in passed_over.items()]
    more = ", ..." if len(suffixes) > _SUFFIXES_SHOWN else ""
    return (
        f"{sentence}; {num_others:,} of {num_images + num_others:,} files ({percent}) are not images and were "
        f"passed over: {', '.join(suffixes[:_SUFFIXES_SHOWN])}{more}"
    )
