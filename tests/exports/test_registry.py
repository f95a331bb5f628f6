"""A format is one class and one line of the registry: help, refusals and the export itself follow."""

import subprocess
import sys

import pytest

from tcae_cli.exports.pieces import PieceFormat
from tcae_cli.exports.registry import FORMATS


class ChannelMeans(PieceFormat):
    """A text file of the mean of each channel, a row each."""

    name = "channel-means"
    trainer, contents = "nobody's", "KEY.txt"

    def names(self, piece):
        return [f"{row}.txt" for row in piece]

    def files(self, piece):
        means = self.rows.latents(piece).mean(axis=(2, 3))
        return {name: " ".join(map(str, row)).encode() for name, row in zip(self.names(piece), means, strict=True)}


@pytest.fixture
def toy(add) -> None:
    add(FORMATS, "channel-means", ChannelMeans)


@pytest.mark.usefixtures("toy")
def test_a_format_added_to_the_registry_is_in_help_and_exports_a_store(tcae, store, tmp_path):
    assert "channel-means" in "".join(tcae("export", "--help")[1].split())

    code, shown, _ = tcae("export", store.folder.uri, tmp_path / "out", "--format", "channel-means")

    assert code == 0 and "23 rows as channel-means" in shown
    first = (tmp_path / "out" / "0.txt").read_text().split()
    assert [float(word) for word in first] == pytest.approx(store.latents([0])[0].mean(axis=(1, 2)), rel=1e-3)
    assert len(list((tmp_path / "out").glob("*.txt"))) == 23


def test_a_format_that_is_removed_is_refused(tcae, store, tmp_path):
    code, _, _ = tcae("export", store.folder.uri, tmp_path / "out", "--format", "channel-means")
    assert code == 2 and "channel-means" not in tcae("export", "--help")[1]


def test_every_format_says_what_it_is_under_the_name_it_is_registered_by():
    assert len(FORMATS) >= 7
    for name, form in FORMATS.items():
        assert form.name == name and form.trainer and form.contents


def test_names_are_listed_without_torch():
    script = "import sys; from tcae_cli.exports.registry import FORMATS; print(*FORMATS, 'torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == [*FORMATS, "False"]
