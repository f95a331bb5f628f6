"""Trains a small class-conditional DiT on a store by flow matching and samples images from it, to prove a store usable.

    python recipes/downstream/train_dit.py STORE OUT [--steps N] [--device D] [--resume] [--num-samples N]
    torchrun --nproc-per-node 8 recipes/downstream/train_dit.py STORE OUT ...

OUT/state.safetensors holds the weights, their average and the state that --resume continues from; OUT/metrics.jsonl the
figures; OUT/grids/step-N.png a picture for each checkpoint; OUT/samples, at the end, one file for each image, for gFID.
With --resume and no more steps, the same command only samples the images that OUT/samples lacks.

The random draws of a step or a sample depend on the seed and its number alone, not on resuming or the number of ranks.

In a store of buckets each batch is of one bucket, and the samples have the shapes of the store in proportion.

Sources: DiT (arXiv:2212.09748) for the network; rectified flow (arXiv:2209.03003) and SiT (arXiv:2401.08740) for path
and target; SD3 (arXiv:2403.03206) for the distribution of times, and for positions cropped from those of the largest
grid; EDM (arXiv:2206.00364) for the sampler; classifier-free guidance (arXiv:2207.12598).

Axes: b batch, c channels, h w positions, n tokens, d width.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import chain, count, islice, pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import Attention, Mlp
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DistributedSampler

from tcae_cli.autoencoders.by_name import read_card
from tcae_cli.autoencoders.runner import Runner, load_runner
from tcae_cli.errors import SourceError, TcaeError, UsageError
from tcae_cli.images.image_file import draw_grid, encode_image
from tcae_cli.metrics.frechet import FeatureSums, Gaussian, frechet_distance
from tcae_cli.model.layers import init_weights
from tcae_cli.runtime import distributed
from tcae_cli.runtime.device import autocast, choose_device, default_precision, memory_errors, naming_the_batch_size
from tcae_cli.runtime.files import make_folder, write_atomic
from tcae_cli.runtime.process_group import add_over_ranks, mean_over_ranks, process_group
from tcae_cli.runtime.processes import is_in_a_group, leave
from tcae_cli.store.bucket_sampler import BucketBatchSampler
from tcae_cli.store.dataset import LatentDataset
from tcae_cli.tracking.log import METRICS_FILE, TENSORBOARD_FOLDER, MetricsLog
from tcae_cli.training.ema import averaged_copy, update_average, warmed_up
from tcae_cli.training.sharding import copied
from tcae_cli.training.state import STATE_FILE, RunState, restore_state, save_state

FREE = {"steps", "guidance", "sampling_steps", "num_samples", "log_every", "save_every"}  # may change when resuming
MEASURED = 1024  # samples and rows, at most, that latent_fd compares
IN_A_GRID, COLUMNS = 64, 8
DECODED_TOGETHER = 16  # images
NOTE = "drawn_with.json"  # a file beside the samples
WITHOUT_A_CHECKPOINT = (METRICS_FILE, f"{TENSORBOARD_FOLDER}/*", NOTE, "*.partial")  # a run's files


def option(default: float, words: str) -> Any:
    """Declare a setting that is also an option of the same name."""
    return field(default=default, metadata={"help": words})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run, which are options of main."""

    steps: int = option(100_000, "Steps in total, including those before resuming.")
    batch_size: int = option(256, "Batch size of all ranks together.")
    width: int = option(384, "Width of a token.")
    depth: int = option(12, "Number of blocks.")
    heads: int = option(6, "Number of attention heads.")
    patch_size: int = option(1, "Latent positions of a token along a side.")
    lr: float = option(1e-4, "Learning rate, which is constant.")
    class_dropout: float = option(0.1, "Share of samples that are trained on without their class.")
    ema: float = option(0.999, "Decay of the averaged weights, which draw the samples.")
    guidance: float = option(1.0, "Scale of classifier-free guidance; 1 for none.")
    sampling_steps: int = option(25, "Steps of Heun's method, two evaluations each.")
    num_samples: int = option(0, "Images to write at the end.")
    log_every: int = option(100, "Steps between lines of the log.")
    save_every: int = option(10_000, "Steps between checkpoints and between pictures.")
    seed: int = option(0, "Seed of weights, order, noise and samples.")


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of Settings to a command: whole numbers from 1, or from 0 where 0 is the default."""
    for setting in reversed(fields(Settings)):
        low = 1 if setting.default and setting.type is int else 0
        kind = click.IntRange(min=low) if setting.type is int else click.FloatRange(min=low)
        name, words = f"--{setting.name.replace('_', '-')}", setting.metadata["help"]
        command = click.option(name, type=kind, default=setting.default, show_default=True, help=words)(command)
    return command


@click.command()
@click.argument("store")
@click.argument("out", type=click.Path(path_type=Path))
@with_settings
@click.option("--model", metavar="NAME", help="Model whose decoder draws the images.  [default: the store's]")
@click.option("--device", metavar="D", help="cpu, cuda or cuda:N  [default: a GPU where there is one]")
@click.option("--resume", is_flag=True, help="Resume from OUT's last checkpoint.")
def main(store: str, out: Path, model: str | None, device: str | None, resume: bool, **settings: Any) -> None:
    """Train a DiT on the latents of STORE in the folder OUT, and draw images with it."""
    try:
        chosen = choose_device(device)
        with process_group(chosen):
            dataset = LatentDataset(store, normalise="channel")
            model = model or dataset.parts[0].store.spec.encoder.name
            train(dataset, model, out, Settings(**settings), chosen, resume=resume)
    except TcaeError as error:
        if is_in_a_group():
            click.echo(f"Error: {error}", err=True)
            leave(1)
        raise click.ClickException(str(error)) from error


def train(
    dataset: LatentDataset, decoder_name: str, out: Path, settings: Settings, device: torch.device, *, resume: bool
) -> None:
    """Run the whole training and sampling. Raises a TcaeError for a user's mistake; the last checkpoint stays valid."""
    rank, world_size = distributed.rank(), distributed.world_size()
    check(settings, dataset)
    if rank == 0:
        check_folder(out, resume)
    decoder = load_decoder(dataset, decoder_name, device)

    # The network, its average and its optimiser, new or restored, in the kind of state that `tcae train` keeps too.
    torch.manual_seed(settings.seed)
    model = DiT(settings, largest_shape(dataset), dataset.num_classes).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), settings.lr, weight_decay=0.0)
    state = RunState(model, model, averaged_copy(model), [optimizer])
    identity = {name: value for name, value in asdict(settings).items() if name not in FREE} | identity_of(dataset)
    if resume:
        restore_state(out, state, identity)
    if rank == 0:
        make_folder(out)
        if settings.num_samples:
            begin_samples(out / "samples", settings, max(state.step, settings.steps), decoder_name)
    state.forward = copied(model, device)  # all ranks wait for the first one here
    samples = Samples(state.average, dataset, decoder, settings, device)

    # The distance of samples from the data before training.
    log = MetricsLog(out, state.step or -1) if rank == 0 else None  # a new run measures step 0 anew
    if state.step == 0:
        tell(log, 0, {"latent_fd": samples.latent_fd()})

    # Batches come from threads while the device works on the previous one.
    batches = dataset.batches(batch_indices(dataset, settings, state.step))
    losses, started = [], time.perf_counter()
    for step in range(state.step + 1, settings.steps + 1):
        batch = next(batches)
        latents, labels = batch["latents"].to(device), batch["label"].to(device)
        noise, times, dropped = (values[rank::world_size] for values in draw(settings, step, latents))

        with naming_the_batch_size(), memory_errors(settings.batch_size):
            loss = flow_matching_loss(state.forward, latents, labels.masked_fill(dropped, -1), noise, times)
            optimizer.zero_grad()
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        update_average(state.average, model, warmed_up(settings.ema, step))
        losses.append(loss.detach())
        state.step = step

        saves = step % settings.save_every == 0 or step == settings.steps
        if saves or step % settings.log_every == 0:
            figures = {"loss": mean_over_ranks(torch.stack(losses).mean()).item()}
            if not math.isfinite(figures["loss"]):
                raise TcaeError(f"the loss is {figures['loss']} at step {step}; start again with a lower --lr")
            figures["images_per_s"] = len(losses) * settings.batch_size / (time.perf_counter() - started)
            if saves:
                save_state(out, state, identity)
                figures["latent_fd"] = samples.latent_fd()
            tell(log, step, figures)
            if saves and rank == 0:
                samples.draw_grid(out / "grids" / f"step-{step:07d}.png")
            losses, started = [], time.perf_counter()

    # Images for gFID, distributed over the ranks.
    paths = {number: out / "samples" / f"{number:06d}.png" for number in range(rank, settings.num_samples, world_size)}
    missing = [number for number, path in paths.items() if not path.exists()]
    for number, image in samples.images(missing, settings.num_samples):
        write_atomic(paths[number], encode_image(image, "png"))
    if log is not None:
        log.close()


def check(settings: Settings, dataset: LatentDataset) -> None:
    """Raise a TcaeError if the settings do not fit each other, the ranks or the store."""
    world_size = distributed.world_size()
    for name, limit in {"lr": math.inf, "guidance": math.inf, "class_dropout": 1, "ema": 1, "seed": 2**43}.items():
        if not 0 <= (value := getattr(settings, name)) < limit:  # false for NaN too
            raise UsageError(f"--{name.replace('_', '-')} is {value}; give a number from 0 to below {limit}")
    if settings.guidance != 1 and not settings.class_dropout:
        raise UsageError(f"--guidance {settings.guidance:g} needs training with --class-dropout above 0; omit it")
    if settings.width % settings.heads:
        raise UsageError(f"--width {settings.width} is not a multiple of --heads {settings.heads}; change one of them")
    for side in (side for part in dataset.parts for side in part.shape[1:]):
        if side % settings.patch_size:
            raise UsageError(f"--patch-size {settings.patch_size} does not divide {side} latent positions; use 1")
    if settings.batch_size % world_size:
        raise UsageError(f"--batch-size {settings.batch_size} cannot be shared among {world_size} ranks; change it")
    most = max(len(bucket.samples) for bucket in dataset.buckets)
    if most < max(2, settings.batch_size):
        latents = f"at most {most} latents of one shape" if len(dataset.parts) > 1 else f"{most} latents"
        raise SourceError(
            f"{dataset.uri} has {latents}, fewer than --batch-size {settings.batch_size}; encode more images, or lower "
            f"--batch-size"
        )


def check_folder(out: Path, resume: bool) -> None:
    """Raise UsageError if OUT holds another run; files of a run that has no checkpoint yet do not count."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; name a folder")
    if not resume and (out / STATE_FILE).exists():
        raise UsageError(f"{out} holds a run; continue it with --resume, or give another OUT")
    others = (path for path in out.rglob("*") if path.is_file() and not any(map(path.match, WITHOUT_A_CHECKPOINT)))
    if not resume and (other := next(others, None)):
        raise UsageError(f"{out} is not empty: {other} is there; give another OUT")


def identity_of(dataset: LatentDataset) -> dict[str, object]:
    """Return the properties of the data that must not change within a run; an equivalent store may replace another."""
    store = dataset.parts[0].store
    identity: dict[str, object] = {
        "source": store.spec.source.fingerprint,  # that of a bucket changes with the source of its store
        "encoder": store.spec.encoder.hash,
        "view": store.view,
        "dtype": store.spec.dtype,
        "sample_shape": list(largest_shape(dataset)),
        "num_latents": len(dataset),
        "class_names": {str(label): name for label, name in enumerate(dataset.class_names)},
    }
    if len(dataset.parts) > 1:
        identity["buckets"] = {f"{each.height}x{each.width}": len(each.samples) for each in dataset.buckets}
    return identity


def largest_shape(dataset: LatentDataset) -> tuple[int, int, int]:
    """Return the channels, and the largest height and width, of the latents of a dataset, which may differ in shape."""
    channels, heights, widths = zip(*(part.shape for part in dataset.parts), strict=True)
    return channels[0], max(heights), max(widths)


def begin_samples(folder: Path, settings: Settings, step: int, decoder_name: str) -> None:
    """Make the folder and record the settings of its images. Raises UsageError if it has images of other settings."""
    note, names = folder / NOTE, ("guidance", "sampling_steps", "num_samples")
    now = {"step": step, "model": decoder_name} | {name: getattr(settings, name) for name in names}
    was = json.loads(note.read_text()) if note.exists() else {}
    changed = [f"{name} {was.get(name)}, not {value}" for name, value in now.items() if was.get(name) != value]
    if changed and any(folder.glob("*.png")):
        raise UsageError(f"{folder} has images of {changed[0]}; move them away, or omit --num-samples")
    make_folder(folder)
    write_atomic(note, json.dumps(now).encode())


def load_decoder(dataset: LatentDataset, name: str, device: torch.device) -> Runner:
    """Return the model that made the latents, or one with the same encoder. Raises StoreError for another encoder."""
    dataset.parts[0].store.refuse_other_encoder(read_card(name).encoder_hash, name, "pass --model with the first")
    return load_runner(name, device, default_precision(device))


def tell(log: MetricsLog | None, step: int, figures: dict[str, float]) -> None:
    """Log and print figures on the first rank, the only one that has a log."""
    if log is not None:
        log.write(step, figures)
        click.echo(f"step {step}: {', '.join(f'{name} {value:.4g}' for name, value in figures.items())}")


def batch_indices(dataset: LatentDataset, settings: Settings, done: int) -> Iterator[list[int]]:
    """Yield this rank's share of each batch after the first `done`, without end; each epoch has its own order."""
    rank, world_size = distributed.rank(), distributed.world_size()
    if len(dataset.parts) > 1:
        yield from (batch[rank::world_size] for batch in batches_of_buckets(dataset, settings, done))
        return
    sampler = DistributedSampler(dataset, world_size, rank, seed=settings.seed, drop_last=True)
    batches = BatchSampler(sampler, settings.batch_size // world_size, drop_last=True)
    for epoch in count(done // len(batches)):
        sampler.set_epoch(epoch)
        yield from islice(batches, max(0, done - epoch * len(batches)), None)


def batches_of_buckets(dataset: LatentDataset, settings: Settings, done: int) -> Iterator[list[int]]:
    """Yield each batch after the first `done`, without end, for all ranks together; each is of one bucket."""
    sampler = BucketBatchSampler(dataset, settings.batch_size, settings.seed, rank=0, world_size=1)
    if distributed.rank() == 0 and sampler.num_dropped:
        click.echo(f"each epoch leaves out {sampler.num_dropped} of {len(dataset)} latents, which fill no batch")
    epoch, num_given = divmod(done, len(sampler))
    sampler.set_epoch(epoch)
    sampler.load_state_dict(sampler.state_dict(num_given))
    for each in count(epoch):
        sampler.set_epoch(each)
        yield from sampler


def draw(settings: Settings, step: int, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Draw for the whole batch of a step: noise [b, c, h, w], times [b], and a mask of dropped classes [b], bool.

    Times are logit-normal(0, 1): most lie in the middle, where the velocity is hardest to predict. That is the best of
    the distributions that SD3 compares (sections 3.1, 5.1); SiT's is uniform.
    """
    device, b = latents.device, settings.batch_size
    generator = torch.Generator(device).manual_seed(1_000_003 * settings.seed + step)
    noise = torch.randn(b, *latents.shape[1:], generator=generator, device=device)
    times = torch.randn(b, generator=generator, device=device).sigmoid()
    return noise, times, torch.rand(b, generator=generator, device=device) < settings.class_dropout


def flow_matching_loss(model: nn.Module, latents: Tensor, labels: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """Return the mean squared error of the velocity, noise - latents, at (1 - t) latents + t noise (SiT, section 2)."""
    t = times[:, None, None, None]
    with autocast(latents.device, default_precision(latents.device)):
        velocity = model((1 - t) * latents + t * noise, times, labels)
    return F.mse_loss(velocity.float(), noise - latents)


class DiT(nn.Module):
    """A transformer that predicts the velocity of noisy latents; time and class modulate each block."""

    def __init__(self, settings: Settings, largest_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        width, self.patch_size, self.num_classes = settings.width, settings.patch_size, num_classes
        channels, *sides = largest_shape
        self.grid = [side // self.patch_size for side in sides]
        self.embed = nn.Linear(channels * self.patch_size**2, width)
        self.positions = nn.Parameter(0.02 * torch.randn(math.prod(self.grid), width))
        self.times = Mlp(256, width, width, act_layer=nn.SiLU)
        self.classes = nn.Embedding(num_classes + 1, width)  # the last row stands for no class
        self.blocks = nn.ModuleList(Block(width, settings.heads) for _ in range(settings.depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, channels * self.patch_size**2)
        self.apply(init_weights)
        nn.init.normal_(self.classes.weight, std=0.02)
        # Blocks start as the identity, and the velocity as 0.
        for layer in (self.out, self.modulation, *(block.modulation for block in self.blocks)):
            nn.init.zeros_(layer.weight)

    def forward(self, noisy: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        """Return the velocity of noisy latents, both [b, c, h, w].

        times: [b], from 0, data, to 1, noise. labels: [b], -1 for no class.
        """
        grid = [side // self.patch_size for side in noisy.shape[2:]]
        tokens = self.embed(F.pixel_unshuffle(noisy, self.patch_size).flatten(2).mT) + self.middle_positions(grid)
        classes = self.classes(labels.where(labels >= 0, self.num_classes))
        # Sine and cosine of 128 frequencies, from 1000 down to about 0.1.
        frequencies = 1000 * torch.exp(-math.log(10_000) / 128 * torch.arange(128, device=times.device))
        angles = times[:, None] * frequencies
        moments = self.times(torch.cat([angles.cos(), angles.sin()], dim=1))
        condition = F.silu(moments + classes)[:, None]
        for block in self.blocks:
            tokens = block(tokens, condition)
        shift, scale = self.modulation(condition).chunk(2, dim=-1)
        values = self.out(self.norm(tokens) * (1 + scale) + shift)
        return F.pixel_shuffle(values.mT.unflatten(2, grid), self.patch_size)

    def middle_positions(self, grid: Sequence[int]) -> Tensor:
        """Return the learned positions of a grid, [n, d]: those in the middle of the largest grid."""
        top, left = ((largest - side) // 2 for largest, side in zip(self.grid, grid, strict=True))
        positions = self.positions.unflatten(0, self.grid)
        return positions[top : top + grid[0], left : left + grid[1]].flatten(0, 1)


class Block(nn.Module):
    """A transformer block with adaLN-Zero (DiT, section 3.2) and QK-norm; tokens [b, n, d], condition [b, 1, d]."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.attn = Attention(width, num_heads, qkv_bias=True, qk_norm=True, norm_layer=nn.LayerNorm)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = Mlp(width, 4 * width)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).chunk(6, dim=-1)
        tokens = tokens + gate1 * self.attn(self.norm1(tokens) * (1 + scale1) + shift1)
        return tokens + gate2 * self.mlp(self.norm2(tokens) * (1 + scale2) + shift2)


@dataclass(frozen=True)
class Samples:
    """Samples of the averaged model; the number of a sample determines its noise."""

    model: nn.Module
    dataset: LatentDataset
    decoder: Runner
    settings: Settings
    device: torch.device

    def groups(self, numbers: Sequence[int], total: int) -> Iterator[tuple[tuple[int, int, int], list[int], Tensor]]:
        """Yield the shape, the numbers and the labels of the samples of each batch, one bucket after another.

        `total` samples have the labels and shapes of the store in proportion, by label and then by shape.
        """
        labels = self.dataset.labels
        in_order = labels.argsort(stable=True)
        rows = {number: int(in_order[number * len(labels) // total]) for number in numbers}
        share = self.settings.batch_size // distributed.world_size()
        for part, bucket in zip(self.dataset.parts, self.dataset.buckets, strict=True):
            of_shape = [number for number in numbers if rows[number] in bucket.samples]
            for start in range(0, len(of_shape), share):
                batch = of_shape[start : start + share]
                yield part.shape, batch, labels[[rows[number] for number in batch]]

    def draw(self, shape: tuple[int, int, int], numbers: Sequence[int], labels: Tensor) -> Tensor:
        """Return the latents of samples of one shape, [b, c, h, w], normalised."""
        # NumPy's generator, not torch's, so that no sample starts from noise that a step was trained with.
        generators = [np.random.default_rng((self.settings.seed, number)) for number in numbers]
        drawn = np.stack([each.standard_normal(shape, np.float32) for each in generators])
        return self.denoise(torch.from_numpy(drawn).to(self.device), labels.to(self.device))

    def latents(self, numbers: Sequence[int], total: int) -> Iterator[Tensor]:
        """Yield the latents of the samples of each batch, [b, c, h, w], normalised."""
        return (self.draw(*group) for group in self.groups(numbers, total))

    def denoise(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Integrate from noise to data by Heun's method in equal steps, the last by Euler's (EDM, algorithm 1)."""
        for now, then in pairwise(torch.linspace(1, 0, self.settings.sampling_steps + 1).tolist()):
            velocity = self.velocity(latents, now, labels)
            if then > 0:  # data without noise does not determine a direction
                velocity = (velocity + self.velocity(latents + (then - now) * velocity, then, labels)) / 2
            latents = latents + (then - now) * velocity
        return latents

    @torch.no_grad()
    def velocity(self, latents: Tensor, moment: float, labels: Tensor) -> Tensor:
        """Return the model's velocity, float32, with guidance: moved away from the velocity without a class."""
        times = torch.full((len(latents),), moment, device=self.device)
        with autocast(self.device, default_precision(self.device)):
            velocity = self.model(latents, times, labels).float()
            if self.settings.guidance == 1:
                return velocity
            without = self.model(latents, times, torch.full_like(labels, -1)).float()
        return without + self.settings.guidance * (velocity - without)

    def images(self, numbers: Sequence[int], total: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the number and the image, [h, w, 3], uint8, of each sample, those of one shape after another."""
        for shape, batch, labels in self.groups(numbers, total):
            latents = self.dataset.denormalise(self.draw(shape, batch, labels))
            parts = latents.split(DECODED_TOGETHER)
            decoded = (self.decoder.decode(few).permute(0, 2, 3, 1).cpu().numpy() for few in parts)
            yield from zip(batch, chain.from_iterable(decoded), strict=True)

    def draw_grid(self, path: Path) -> None:
        """Write a picture of samples in the order of their classes."""
        images = dict(self.images(range(IN_A_GRID), IN_A_GRID))
        rows = [[images[start + column] for column in range(COLUMNS)] for start in range(0, IN_A_GRID, COLUMNS)]
        make_folder(path.parent)
        write_atomic(path, encode_image(draw_grid(rows), "png"))

    def latent_fd(self) -> float:
        """Return the Frechet distance of samples to as many rows of the store, in features of normalised latents.

        The features are each channel's mean and deviation over positions. This is not gFID: the features reflect
        colours and contrasts but not layout, and distances for two encoders cannot be compared.
        """
        total = min(MEASURED, len(self.dataset))
        numbers = range(distributed.rank(), total, distributed.world_size())
        rows = [number * len(self.dataset) // total for number in numbers]
        of_shapes = [[row for row in rows if row in bucket.samples] for bucket in self.dataset.buckets]
        stored = self.pooled(self.dataset[of_shape]["latents"] for of_shape in of_shapes)
        return frechet_distance(self.pooled(self.latents(numbers, total)), stored)

    def pooled(self, batches: Iterable[Tensor]) -> Gaussian:
        """Return the Gaussian of the features of every rank's latents, [b, c, h, w] each."""
        values = [batch.flatten(2) for batch in batches]
        sums = FeatureSums.of([torch.cat([v.mean(dim=2), v.std(dim=2, correction=0)], dim=1) for v in values])
        add_over_ranks(sums.tensors())
        return sums.gaussian()


if __name__ == "__main__":
    main()
