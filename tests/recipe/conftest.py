"""Imports the scripts of recipes/ as modules for tests."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType


@contextmanager
def imported(script: Path) -> Iterator[ModuleType]:
    """Return the module of a script, under the name of its file; it may import files beside it."""
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(script.parent))  # as Python does when it runs a script
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(script.parent))
    del sys.modules[spec.name]
