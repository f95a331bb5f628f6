"""A Progress for tests that read what a job says."""

from tcae_cli.reports.progress import Silent


class Heard(Silent):
    """Keeps the sentences that a job says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)
