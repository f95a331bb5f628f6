"""The section `train` with compiled blocks."""

from functools import partial

from tests.gpu.sections import train

run = partial(train.run, compiled=True)
