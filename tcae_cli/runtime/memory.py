"""Measures the most memory that a run takes at once: of a real run, and of one on tensors without values."""

import ctypes
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_PROCESS = Path("/proc/self")
_ATEN = torch.ops.aten
_DEVICE = torch.ops.prim.device.default


class CountedRun(TorchDispatchMode):
    """Counts the bytes of the tensors alive, and the most at once, in a run on tensors without values."""

    def __init__(self, share_of_masks: float) -> None:
        super().__init__()
        self.live_bytes = 0
        self.peak_bytes = 0
        self._share_of_masks = share_of_masks
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _DEVICE:  # asked for twice an operation
            return args[0].fake_device
        if func is _ATEN._local_scalar_dense.default:
            return 0  # there is no value
        if func is _ATEN._pin_memory.default:
            return args[0]
        if func is _ATEN.nonzero.default:  # of a mask whose values are unknown: as many as it selects on average
            count = max(1, round(args[0].numel() * self._share_of_masks))
            return torch.zeros(count, args[0].ndim, dtype=torch.int64, device=args[0].device)
        out = func(*args, **(kwargs or {}))
        for leaf in [out] if isinstance(out, Tensor) else tree_leaves(out):
            if isinstance(leaf, FakeTensor):
                self._count(leaf.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        num_bytes = storage.nbytes()
        self.live_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(storage, self._free, num_bytes).atexit = False

    def _free(self, num_bytes: int) -> None:
        self.live_bytes -= num_bytes


@contextmanager
def counting(share_of_masks: float = 1.0) -> Iterator[CountedRun]:
    """Give tensors that are made inside no values, and count what they would take on their devices.

    A value that is asked for is 0. share_of_masks: of the positions of a mask that are true.
    Only the tensors count: neither what a kernel needs inside, nor what an allocator holds back.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), CountedRun(share_of_masks) as counted:
        yield counted


def total_bytes(device: torch.device) -> int:
    """Return the memory of a device, or of this machine for the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak_bytes(run: Callable[[], object], device: torch.device) -> int | None:
    """Return the most bytes that a run takes at once beyond what was held; None where that cannot be measured.

    On a GPU these are bytes of tensors, by torch's allocator; on the CPU of Linux bytes of the process.
    """
    if device.type == "cuda":
        held = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - held
    held_by_process = _reset_peak_of_process()
    run()
    return None if held_by_process is None else max(0, _memory_bytes("VmHWM") - held_by_process)


def _reset_peak_of_process() -> int | None:
    """Return the bytes held now; None where the system does not let a process reset its peak, as in some containers."""
    try:
        # The allocator would serve the run from memory that is free but still held, which no figure would show.
        ctypes.CDLL(None).malloc_trim(0)
        (_PROCESS / "clear_refs").write_text("5")
        return _memory_bytes("VmRSS")
    except (OSError, AttributeError):  # AttributeError: a C library without malloc_trim
        return None


def _memory_bytes(name: str) -> int:
    lines = (line.split() for line in (_PROCESS / "status").read_text().splitlines())
    return next(int(words[1]) * 1024 for words in lines if words[0] == f"{name}:")
