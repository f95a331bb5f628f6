"""The failure of one sample, from the image that could not be read to the store, the reports and the terminal."""

from dataclasses import dataclass

TOO_SMALL = "too small"  # the stage of an image that --min-size leaves out
REPAIRED_STAGE = "repaired"
REPAIRED = "was a part of a tar that could not be read, whose images have rows of their own now"  # indexes hold it, too


@dataclass(frozen=True)
class Failure:
    """A sample that could not be used, and why."""

    row: int
    path: str  # its key in the source
    stage: str  # "index", "read", "decode" or "encode"; TOO_SMALL; REPAIRED_STAGE: see is_repaired
    error: str

    @property
    def is_repaired(self) -> bool:
        """Whether the row stood for a part of a tar that is whole again: it holds no latents, and counts as no failure.

        The images of that part have rows of their own.
        """
        return self.stage == REPAIRED_STAGE

    @property
    def is_too_small(self) -> bool:
        """Whether the image has fewer pixels than --min-size asks for, which counts as no failure either."""
        return self.stage == TOO_SMALL

    @property
    def counts(self) -> bool:
        """Whether this counts as failed: for --max-failures, and for --retry-failed."""
        return not (self.is_repaired or self.is_too_small)


def apart_words(num_repaired: int, num_too_small: int) -> dict[str, str]:
    """Return the sentences on rows without latents that do not count as failed, by a word for each kind there is."""
    found = {}
    if num_too_small:
        found["too small"] = f"{num_too_small:,} of the rows are of images smaller than --min-size, and have no latents"
    if num_repaired:
        found["repaired"] = (
            f"{num_repaired:,} of the rows stood for lost parts of tars, and no longer count as failed: the tars have "
            f"been repaired, and their images have rows of their own"
        )
    return found
