"""A verification under way: the store, what has been found wrong so far, and what could not be checked."""

import time
from dataclasses import dataclass, field, replace

from tcae_cli.reports.progress import Progress
from tcae_cli.reports.store import VerifyRequest
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.layout import bucket_folder

_MOST_PROBLEMS = 100  # sentences kept; all are counted


@dataclass
class Verification:
    """The store that the checks read, and the place where they report problems and progress."""

    request: VerifyRequest
    store: StoreHandle  # as it was when the verification began
    progress: Progress
    problems: list[str] = field(default_factory=list)  # the first of them, a sentence each
    num_problems: int = 0
    not_checked: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what a sound store lacks
    started: float = field(default_factory=time.perf_counter)
    whole: "Verification | None" = None  # of the store that this one is a bucket of
    where: str = ""  # the bucket, before what is said of it

    def of_bucket(self, name: str, store: StoreHandle) -> "Verification":
        """Return the verification of a bucket of this store, whose problems are this one's."""
        return replace(self, store=store, whole=self, where=f"{bucket_folder(name)}: ")

    def add_problem(self, sentence: str) -> None:
        """Count a problem, and keep its sentence if it is among the first."""
        if self.whole:
            self.whole.add_problem(f"{self.where}{sentence}")
            return
        self.num_problems += 1
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(sentence)
