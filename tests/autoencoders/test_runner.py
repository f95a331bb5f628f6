"""A model on a device at a precision."""

import threading
from collections.abc import Iterator

import pytest
import torch

from tcae_cli.autoencoders.by_name import load_autoencoder
from tcae_cli.autoencoders.runner import Runner, load_runner
from tcae_cli.errors import DeviceError, TcaeError
from tcae_cli.images.transform import to_float, to_uint8
from tcae_cli.runtime.device import exact_float32, float32_products, naming_the_batch_size

from ..small_diffusers import save_kl

CPU = torch.device("cpu")


class Double:
    """Stands for a model: decodes to what it is made with."""

    def __init__(self, decoded: torch.Tensor) -> None:
        self.decoded = decoded
        self.tf32: list[bool] = []

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        self.tf32 += [torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32]
        return self.decoded


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def tf32() -> Iterator[None]:
    """TF32 is on, as it is on a GPU unless told."""
    settings = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [each.allow_tf32 for each in settings]
    for each in settings:
        each.allow_tf32 = True
    yield
    for each, was_on in zip(settings, before, strict=True):
        each.allow_tf32 = was_on


@pytest.fixture
def runner(small_checkpoint) -> Runner:
    return load_runner(str(small_checkpoint), CPU, "fp32")


def test_float32_is_the_model_itself_to_the_bit(runner, small_checkpoint, images):
    model = load_autoencoder(str(small_checkpoint))
    latents = runner.encode(images)
    with torch.no_grad():
        assert torch.equal(latents, model.encode(to_float(images)))
        assert torch.equal(runner.decode(latents), to_uint8(model.decode(latents)))
    assert runner.decode(latents).dtype == torch.uint8 and runner.decode(latents).shape == images.shape


def test_bf16_is_autocast_and_gives_float32_latents(runner, small_checkpoint, images):
    model = load_autoencoder(str(small_checkpoint))
    latents = runner.at("bf16").encode(images)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = model.encode(to_float(images))
    assert latents.dtype == torch.float32 and torch.equal(latents, expected.float())
    assert not torch.equal(latents, runner.encode(images))
    assert runner.at("bf16").model is runner.model
    assert {each.dtype for each in runner.model.parameters()} == {torch.float32}


def test_tokens_are_those_of_our_own_models(runner, images, tmp_path):
    latents, tokens = runner.encode_with_tokens(images)
    with torch.no_grad():
        _, patches = runner.model.encode_with_tokens(to_float(images))
    assert torch.equal(latents, runner.encode(images))
    assert torch.equal(tokens, patches.mean(dim=(1, 2))) and tokens.shape == (3, 32)

    save_kl(tmp_path / "kl")
    other = load_runner(f"diffusers:{tmp_path / 'kl'}", CPU, "fp32")
    latents, tokens = other.encode_with_tokens(images)
    assert tokens is None and torch.equal(latents, other.encode(images))


def test_nothing_has_a_gradient(runner, images):
    runner.model.requires_grad_(True)
    assert not runner.encode(images).requires_grad
    assert not any(each.requires_grad for each in runner.encode_with_tokens(images))


def test_images_are_rounded_half_up_and_clamped():
    levels = torch.tensor([-2, -1, 0.5 / 127.5 - 1, 0.4 / 127.5 - 1, 1, 9])
    assert Runner("m", Double(levels), CPU, "fp32").decode(torch.zeros(6)).tolist() == [0, 0, 1, 0, 255, 255]


def test_values_that_are_not_finite_are_refused_on_request():
    for value in ("nan", "inf"):
        runner = Runner("mine", Double(torch.tensor([0.0, float(value)])), CPU, "bf16")
        assert len(runner.decode(torch.zeros(2))) == 2
        with pytest.raises(
            TcaeError, match=r"^mine decodes to values that are not finite; try --precision fp32, or use another"
        ):
            runner.decode(torch.zeros(2), refuse_non_finite=True)


@pytest.mark.parametrize(
    ("size", "words"),
    [(8, "with --batch-size 8; try --batch-size 4"), (1, "with 1 image; stop .* or use a device with more memory")],
)
def test_running_out_of_memory_names_the_batch_size(size, words):
    runner = Runner("m", Double(torch.zeros(1)), CPU, "fp32")
    with pytest.raises(DeviceError, match=f"^out of memory on the device {words}$"), naming_the_batch_size():
        runner.encode(torch.zeros(size, 3, 8, 8, dtype=torch.uint8))


def test_float32_is_never_tf32(tf32):
    model = Double(torch.zeros(1))
    Runner("m", model, CPU, "fp32").decode(torch.zeros(1))
    assert model.tf32 == [False, False]
    assert torch.backends.cudnn.allow_tf32 and torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(("precision", "is_tf32"), [("high", True), ("highest", False)])
def test_training_computes_what_stays_float32_as_its_recipe_says_but_for_exact_parts(tf32, precision, is_tf32):
    torch.backends.cuda.matmul.allow_tf32 = False  # as torch starts
    with float32_products(torch.device("cuda"), precision):
        assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == is_tf32
        model = Double(torch.zeros(1))
        Runner("m", model, CPU, "fp32").decode(torch.zeros(1))
        assert model.tf32 == [False, False]
        assert torch.backends.cuda.matmul.allow_tf32 == is_tf32
    assert torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


def test_the_last_thread_to_leave_restores_tf32(tf32):
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with exact_float32():
            entered.set()
            leave.wait(10)

    with exact_float32():
        thread = threading.Thread(target=stay)
        thread.start()
        assert entered.wait(10)
    assert not torch.backends.cudnn.allow_tf32
    leave.set()
    thread.join()
    assert torch.backends.cudnn.allow_tf32
