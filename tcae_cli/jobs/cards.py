"""Writes the cards that the Hugging Face Hub shows: of a dataset with a store in it, and of a model."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tcae_cli.autoencoders.checkpoint import CheckpointHeader
from tcae_cli.errors import SourceError
from tcae_cli.runtime.hub_name import HubName
from tcae_cli.sources.index import read_summary
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.layout import bucket_folder
from tcae_cli.store.spec import StoreSpec, deviations_of
from tcae_cli.tracking.log import METRICS_FILE, whole_lines

# https://huggingface.co/docs/hub/datasets-cards
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")


def mark_of(subject: str) -> str:
    """Return the line by which the card of a store or a model is known again."""
    return f"<!-- tcae push wrote this card of {subject} and will write over it: remove this line to keep your text -->"


def store_card(store: StoreHandle, target: HubName) -> str:
    """Return the README.md of a dataset that holds a complete store at a path."""
    spec = store.spec
    num_rows = spec.num_rows
    header = {
        "license": "unknown",
        "pretty_name": f"Latents: {target.path}",
        "size_categories": [_SIZES[max(0, len(str(num_rows)) - 3)]],
        "tags": ["latents", "tcae", "zarr"],
        "viewer": False,
    }
    source, encoder = _code(spec.source.uri), _code(spec.encoder.name)
    # Each bucket is a store of its own.
    example = f"{target}/{bucket_folder(spec.buckets.names[0])}" if spec.buckets else str(target)
    statistics = [
        f"| {_code(view)} | {figures['mean']:.4g} | {figures['std']:.4g} |"
        for view, figures in (store.attributes["statistics"] or {}).items()
    ]
    return f"""{_front_matter(header)}
{mark_of(target.path)}

# Latents of {source}

{num_rows:,} images as latents of the autoencoder {encoder}, in the [Zarr](https://zarr.dev) store {_code(target.path)},
which `tcae` wrote.

## How to read it

```python
from tcae_cli import LatentDataset

dataset = LatentDataset("{example}")
sample = dataset[0]  # float32, mean 0 and deviation 1 in each channel; normalise="none" gives raw latents
print(len(dataset), sample["latents"].shape, sample["label"])
```

This reads row by row. To train, fetch all of it first with `hf download --repo-type dataset {target.repository}`:
the same address is then read in the cache. Any Zarr reader opens the folder too.

## What it holds

{_table(_facts_of_store(store))}

## Statistics

Over all values of all rows that are ok; those of each channel are in the store's group `statistics`.

| view | mean | standard deviation |
|---|---|---|
{chr(10).join(statistics)}

## Licence

The latents were computed from the images by the encoder, and a decoder makes images of them again, so the terms of
both the images and the encoder apply. Whoever publishes this should state them here, and set `license` above.
"""


def _facts_of_store(store: StoreHandle) -> dict[str, str]:
    """Return what is fixed of a store, in words, by its name in a table."""
    spec = store.spec
    counts = store.attributes.get("rows", {})
    views = [
        f"{_code(name)}: {list(spec.sample_shape(name))}, of images of {view.size} px{', mirrored' * view.flip}"
        for name, view in spec.views.items()
    ]
    if spec.buckets:
        names = ", ".join(_code(bucket_folder(name)) for name in spec.buckets.names)
        views = [f"in a store for each shape of the images, height x width in pixels: {names}"]
    return {
        "Rows": f"{spec.num_rows:,}" + (f", of which {counts['failed']:,} failed" if counts.get("failed") else ""),
        "Views": "; ".join(views),
        "Values": f"raw latents, {spec.dtype}, codec {spec.codec}{_posterior_words(spec)}",
        "Encoder": f"{_code(spec.encoder.name)}, hash {_code(spec.encoder.hash)}",
        "Transform": f"upright, sRGB, short side resized ({spec.transform.resize}), centre crop; "
        f"decoded {spec.transform.decode}",
        "Computed in": f"{spec.compute.dtype}, batches of {spec.compute.batch_size}",
        "Source": f"{_code(spec.source.uri)}, fingerprint {_code(spec.source.fingerprint)}",
        "Classes": f"{len(spec.source.class_names):,} by name" if spec.source.class_names else "none by name",
        "Captions": "yes" if spec.has_captions else "no",
        "Made": f"{spec.created_at}, with "
        + ", ".join(f"{name} {version}" for name, version in spec.tool_versions.items()),
    }


def _posterior_words(spec: StoreSpec) -> str:
    if not spec.latent.posterior:
        return ""
    stds = ", ".join(_code(deviations_of(view)) for view in spec.views)
    return (
        f"; the means of a posterior, with its deviations in {stds}, from which LatentDataset(..., "
        "sample_posterior=True) draws"
    )


def model_card(header: CheckpointHeader, run: Path, target: HubName) -> str:
    """Return the README.md of a model: its recipe, and its data and figures where its run's folder has them."""
    front: dict[str, Any] = {"license": "unknown", "library_name": "tcae", "tags": ["autoencoder", "latents", "tcae"]}
    if header.parent and header.parent.name.startswith("hf://"):
        front["base_model"] = header.parent.name.removeprefix("hf://").partition("@")[0]
    figures = {_code(name): f"{value:.4g}" for name, value in _figures_of(run, header.step).items()}
    measured = _table(figures) if figures else "No log of a run lies beside the checkpoint; `tcae eval` measures it."
    return f"""{_front_matter(front)}
{mark_of(target.repository)}

# {target.repository}

An autoencoder of the kind [TC-AE](https://arxiv.org/abs/2604.07340), trained by `tcae`.

## How to use it

```sh
tcae encode-dataset ./imgs out.zarr --model {target}
```

```python
from tcae_cli import load_autoencoder

model = load_autoencoder("{target}")
```

`model.encode` takes images [b, 3, h, w] in [-1, 1] and returns latents [b, c, h/f, w/f], with c =
{header.spec.latent_channels} and f = {header.spec.downsampling}; `model.decode` takes those.

## Training

{_table(_facts_of_model(header, run))}

The recipe:

```yaml
{yaml.safe_dump(header.recipe, sort_keys=False, allow_unicode=True).strip()}
```

## Figures

As the run last logged each of them, up to step {header.step:,}:

{measured}

The mean and standard deviation of each latent channel, over {header.statistics.num_images:,} training images, are in
the header of the file.

## Licence

The weights were learnt from the images named above, whose terms may bind them. Whoever publishes this should state the
terms here, and set `license` above.
"""


def _facts_of_model(header: CheckpointHeader, run: Path) -> dict[str, str]:
    """Return how a model was made, in words, by its name in a table."""
    spec, train = header.spec, header.recipe.get("train", {})
    side = spec.image_size // spec.downsampling
    return {
        "Latents": f"{spec.latent_channels} x {side} x {side} of an image of {spec.image_size} px",
        "Steps": f"{header.step:,}" + (f" of {train['steps']:,}" if "steps" in train else ""),
        "Batch": f"{train['batch_size']:,} images" if "batch_size" in train else "unknown",
        "Data": _data_of(run) or "not recorded beside the checkpoint",
        "Finetuned from": f"{_code(header.parent.name)}, encoder {_code(header.parent.encoder_hash[:12])}"
        if header.parent
        else "no other model",
        "Encoder": f"hash {_code(header.encoder_hash)}",
        "Decoder": f"hash {_code(header.decoder_hash)}",
        "Made": header.created_at,
    }


def _data_of(run: Path) -> str:
    """Return the training images in words, from the index in a run's folder; "" if there is none."""
    try:
        summary = read_summary(run / "index")
    except SourceError:
        return ""
    return f"{_code(summary['uri'])}, fingerprint {_code(summary['fingerprint'])}"


def _figures_of(run: Path, step: int) -> Mapping[str, float]:
    """Return the last figures that a run logged up to a step, by name; none if there is no log."""
    path = run / METRICS_FILE
    figures: dict[str, float] = {}
    if path.is_file():
        for _, line in whole_lines(path):
            if line.pop("step") <= step:
                figures |= {name: value for name, value in line.items() if value is not None}
    return figures


def _front_matter(fields: Mapping[str, Any]) -> str:
    return f"---\n{yaml.safe_dump(dict(fields), sort_keys=False, allow_unicode=True)}---"


def _table(rows: Mapping[str, str]) -> str:
    lines: Iterable[str] = (f"| {name} | {value} |" for name, value in rows.items())
    return "\n".join(["| | |", "|---|---|", *lines])


def _code(text: str) -> str:
    """Return a name as Markdown shows it to the letter, also inside a table."""
    plain = json.dumps(text, ensure_ascii=False)[1:-1].replace('\\"', '"').replace("|", "\\|").replace("`", "'")
    return f"`{plain}`"
