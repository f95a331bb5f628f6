"""Reports what indexing a source finds: how many images so far, and at the end what it passed over."""

import time
from collections.abc import Callable, Mapping

from tcae_cli.reports.progress import Progress

_SAY_FROM = 1000  # images; fewer are found in no time
_SAY_EVERY_S = 5.0
_SUFFIXES_SHOWN = 5


def found_so_far(uri: str, progress: Progress) -> Callable[[int], None]:
    """Return a function that reports a count from the first thousand, and then every few seconds."""
    say_at = 0.0

    def report(count: int) -> None:
        nonlocal say_at
        if count >= _SAY_FROM and time.monotonic() > say_at:
            say_at = time.monotonic() + _SAY_EVERY_S
            progress.say(f"{uri}: {count:,} found so far")

    return report


def found_words(uri: str, num_images: int, passed_over: Mapping[str, int]) -> str:
    """Return the number of images, and the share of listed files that are not images, by suffix, in a sentence."""
    sentence = f"{uri}: {num_images:,} images"
    num_others = sum(passed_over.values())
    if not num_others:
        return sentence
    share = num_others / (num_images + num_others)
    suffixes = [f"{count:,} {suffix}" for suffix, count in passed_over.items()]
    more = ", ..." if len(suffixes) > _SUFFIXES_SHOWN else ""
    return (
        f"{sentence}; {num_others:,} of {num_images + num_others:,} files ({share:.2%}) are not images and were "
        f"passed over: {', '.join(suffixes[:_SUFFIXES_SHOWN])}{more}"
    )
