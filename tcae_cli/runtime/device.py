"""Chooses the device and the precision of computing, and says what to do when its memory runs out."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tcae_cli.errors import DeviceError, DeviceMemoryError, UsageError
from tcae_cli.recipe.choices import Float32Products, Precision
from tcae_cli.runtime import distributed

_DEVICE_TYPES = ("cpu", "cuda")

# Dense, in TFLOP/s, by words of the name that CUDA gives; the first that fits. From NVIDIA's datasheets, whose figures
# "with sparsity" are twice these; of the 4090 from the Ada whitepaper, accumulating in float32.
_PEAK_BF16_TFLOPS = {
    "GB200": 2500,
    "B200": 2250,
    "GH200": 989,
    "H200 NVL": 835,
    "H200": 989,
    "H100 NVL": 835,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "RTX 4090": 165,
}
# Of libraries that allocate memory beside torch, which has an exception of its own.
_SIGNS_OF_FULL_MEMORY = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
_LESS_THAN_ITS_NAME = {"MIG", "Laptop", "D"}  # a slice of a GPU, or another chip of the same name


def num_visible_gpus() -> int:
    """Return how many GPUs this machine lets this process use; asks the driver, without starting CUDA."""
    return torch.cuda.device_count()


def choose_device(name: str | None) -> torch.device:
    """Return the device named, or this rank's GPU, or the CPU where there is none.

    Raises UsageError for a name that is neither, and where no launcher says which of several GPUs this rank's is;
    DeviceError for a device this machine lacks.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:  # a name torch does not know
        device = None
    if device is None or device.type not in _DEVICE_TYPES:
        raise UsageError(f"--device {name} is not a device that tcae computes on; use cpu, cuda or cuda:N")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", _own_gpu(torch.cuda.device_count()))
    if device.type == "cuda" and device.index >= torch.cuda.device_count():
        raise DeviceError(f"--device {name}: {torch.cuda.device_count()} GPUs are visible here; use --device cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def _own_gpu(num_visible: int) -> int:
    """Return the number of this rank's GPU among the visible ones."""
    local_rank = distributed.local_rank()
    if local_rank is None and num_visible > 1:
        raise UsageError(
            f"RANK and WORLD_SIZE are set and LOCAL_RANK is not, so which of the {num_visible} GPUs here is this "
            f"rank's is unknown; set LOCAL_RANK, or start a process on each GPU with torchrun --nnodes $WORLD_SIZE "
            f"--node-rank $RANK --nproc-per-node {num_visible}"
        )
    # Slurm, Kubernetes and scripts can show each rank only the GPU that is its own, whatever its number is.
    return 0 if num_visible == 1 else local_rank or 0


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; a GPU copies it from pinned memory, and nothing waits for the copy."""
    is_to_be_copied = device.type == "cuda" and tensor.device.type == "cpu"
    return (tensor.pin_memory() if is_to_be_copied else tensor).to(device, non_blocking=True)


def device_words(device: torch.device) -> str:
    """Return the name of a GPU, or "the CPU" with its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"the CPU, {torch.get_num_threads()} threads"


@contextmanager
def threads_for_whole_batches(device: torch.device) -> Iterator[int]:
    """Yield how many threads should each compute batches of their own.

    On the CPU as many as torch would use for one batch, while torch itself uses one: that wastes less. On a GPU one.
    """
    if device.type != "cpu":
        yield 1
        return
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield num_threads
    finally:
        torch.set_num_threads(num_threads)


def default_precision(device: torch.device) -> Precision:
    """Return bf16 for a GPU; float32 for the CPU, where bf16 is slow on many machines."""
    return "bf16" if device.type == "cuda" else "fp32"


def peak_flops(device: torch.device) -> float | None:
    """Return the peak operations per second of dense bf16 matrix products; None for the CPU and for unknown GPUs.

    It is the denominator of model FLOPs utilisation (MFU).
    """
    if device.type != "cuda":
        return None
    words = set(torch.cuda.get_device_name(device).replace("-", " ").split())
    if words & _LESS_THAN_ITS_NAME:
        return None
    known = (tflops * 1e12 for name, tflops in _PEAK_BF16_TFLOPS.items() if words.issuperset(name.split()))
    return next(known, None)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Compute matrix products in bfloat16 inside this context if precision is bf16; weights keep their dtype."""
    kind = "cpu" if device.type == "meta" else device.type  # torch knows none for meta, where nothing is computed
    return torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16")


class _Tf32:
    """The switch of TF32 in float32 products: a setting of the whole process that several threads turn off at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.num_off = 0  # contexts that have turned it off
        self.before = (False, False)  # of cuDNN's convolutions and of matrix products, to be restored


_tf32 = _Tf32()


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute products and convolutions of float32 without TF32, whose ten bits GPUs use for convolutions by default.

    May be nested and entered by several threads; the last one to leave restores the setting.
    """
    with _tf32.lock:
        if not _tf32.num_off:
            _tf32.before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        _tf32.num_off += 1
    try:
        yield
    finally:
        with _tf32.lock:
            _tf32.num_off -= 1
            if not _tf32.num_off:
                torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = _tf32.before


@contextmanager
def float32_products(device: torch.device, precision: Float32Products) -> Iterator[None]:
    """Compute products and convolutions of float32 on a GPU in TF32 inside this context ("high"), or without it.

    What `exact_float32` contains is computed without it all the same. The CPU has no TF32.
    """
    if precision == "highest" or device.type != "cuda":
        with exact_float32():
            yield
        return
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@contextmanager
def memory_errors(batch_size: int) -> Iterator[None]:
    """Turn running out of device memory into a DeviceMemoryError."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not any(
            sign in str(error) for sign in _SIGNS_OF_FULL_MEMORY
        ):
            raise
        images = "1 image" if batch_size == 1 else f"{batch_size} images at once"
        raise DeviceMemoryError(
            f"out of memory on the device with {images}; stop other programs on it, or use a device with more memory",
            batch_size,
        ) from error


@contextmanager
def naming_the_batch_size() -> Iterator[None]:
    """Let the DeviceMemoryError of a command with --batch-size name the size to try."""
    try:
        yield
    except DeviceMemoryError as error:
        if error.batch_size < 2:
            raise
        size = error.batch_size
        raise DeviceMemoryError(
            f"out of memory on the device with --batch-size {size}; try --batch-size {size // 2}",
            options={"--batch-size": str(size // 2)},
        ) from error
