"""The failure of one sample, from the image that could not be read to the store, the reports and the terminal."""

from dataclasses import dataclass

REPAIRED_STAGE = "repaired"
REPAIRED = "was a part of a tar that could not be read, whose images have rows of their own now"  # indexes hold it, too


@dataclass(frozen=True)
class Failure:
    """A sample that could not be used, and why."""

    row: int
    path: str  # its key in the source
    stage: str  # "index", "read", "decode" or "encode"; REPAIRED_STAGE: see is_repaired
    error: str

    @property
    def is_repaired(self) -> bool:
        """Whether the row stood for a part of a tar that is whole again: it holds no latents, and counts as no failure.

        The images of that part have rows of their own.
        """
        return self.stage == REPAIRED_STAGE


def repaired_words(num_repaired: int) -> str:
    """Return the sentence on rows that stood for parts of tars that are whole again."""
    return (
        f"{num_repaired:,} of the rows stood for lost parts of tars, and no longer count as failed: the tars have been "
        f"repaired, and their images have rows of their own"
    )
