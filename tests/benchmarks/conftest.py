"""What is measured with: `make bench IMAGES=FOLDER`, or the sample photographs."""

import os
import shutil
from pathlib import Path

import pytest

from tcae_cli.data.samples import write_sample_windows

_COPIES = 20


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """A folder of real photographs, about a thousand."""
    if folder := os.environ.get("IMAGES"):
        return Path(folder)
    once, many = tmp_path_factory.mktemp("samples"), tmp_path_factory.mktemp("images")
    write_sample_windows(once)
    for number in range(_COPIES):
        shutil.copytree(once, many / str(number))
    return many


@pytest.fixture
def show(capsys):
    """Prints a figure past pytest's capture."""

    def print_line(text: str) -> None:
        with capsys.disabled():
            print(f"\n  {text}", end="")

    return print_line
