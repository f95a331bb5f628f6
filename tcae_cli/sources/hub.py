"""Finds the Parquet files of one split of a dataset on the Hugging Face Hub."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from tcae_cli.errors import NotFoundError, SourceError, UsageError
from tcae_cli.recipe.choices import NO_FIELDS, SampleFields
from tcae_cli.runtime.hub import HubDataset, check_access, read_dataset
from tcae_cli.runtime.hub_name import HubName, parse_name
from tcae_cli.sources.listing import Listing, count_suffixes, ignore, is_image_name
from tcae_cli.sources.parquet import ParquetFiles, list_files
from tcae_cli.sources.patterns import FoundFiles, regex_of_glob
from tcae_cli.sources.registry import Located, Reader
from tcae_cli.sources.tar import is_tar_name

CONVERTED = "refs/convert/parquet"  # the revision at which the Hub keeps its own conversion

_DEFAULT_SPLIT = "train"
_DEFAULT_CONFIGURATION = "default"
_SHOWN = 20

# As the datasets library knows splits by name: https://huggingface.co/docs/hub/datasets-file-names-and-splits
_SPLIT_OF_WORD = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_CONVERTED_FILE = re.compile(r"(?P<configuration>[^/]+)/(?P<split>[^/]+)/\d{4,}\.parquet")
_SHARDED_FILE = re.compile(r"(?:(?P<configuration>.+)/)?(?P<split>\w[\w.]*)-\d{5}-of-(?P<count>\d{5})\b[^/]*\.parquet")

Splits = dict[str, list[str]]  # the files of each split, by name


class HubSplit:
    """One split of a dataset on the Hub, read from its Parquet files."""

    words = "a dataset of the Hugging Face Hub (hf://datasets/ORG/NAME)"
    fields = ParquetFiles.fields | {"split"}

    def recognises(self, uri: str) -> bool:
        name = parse_name(uri.partition("#")[0])
        return name is not None and not name.path  # with a path it is a file's or a folder's

    def reader(self, located: Located) -> Reader:
        return ParquetFiles().reader(located)

    def scan(self, uri: str, fields: SampleFields = NO_FIELDS, on_progress: Callable[[int], None] = ignore) -> Listing:
        """List the rows of a split's Parquet files, by file, at the commit that the revision stands for now.

        uri: hf://datasets/ORG/NAME[@REVISION][#SPLIT], and CONFIGURATION/SPLIT where the dataset has several.
        Raises what find_files and ParquetFiles.scan raise.
        """
        found = find_files(uri, fields)
        check_access(found.locations[0])
        return list_files(uri, found, fields, on_progress)


def find_files(uri: str, fields: SampleFields) -> FoundFiles:
    """Return the Parquet files of the split that the name or --split chooses, sorted by name.

    They are those of the dataset's card or, where it lists none, those with the usual names; in a dataset without
    Parquet files they are those of the Hub's own conversion.
    Raises UsageError if name and --split disagree or a configuration must be chosen, NotFoundError if there is no such
    dataset, configuration or split, SourceError if it holds no Parquet files or cannot be read.
    """
    start, _, part = uri.partition("#")
    name = parse_name(start)
    assert name, uri
    if part and fields.split and part != fields.split:
        raise UsageError(f"{uri} names the split {part}, and --split {fields.split}; give one of them")
    wanted, _, split = (fields.split or part).rpartition("/")
    dataset = read_dataset(name)
    configurations = _configurations(dataset)
    if not configurations and name.revision is None:
        dataset, configurations = _converted(name, dataset)
    if not configurations:
        raise SourceError(_no_parquet(name, dataset))
    splits = configurations[_choose(name, configurations, wanted, _defaults(dataset.card))]
    names = splits.get(split or _DEFAULT_SPLIT)
    if names is None:
        raise NotFoundError(_no_split(name, split or _DEFAULT_SPLIT, splits))
    if dataset.is_cached:
        _refuse_missing_shards(name, names)
    return FoundFiles(f"{dataset.name}/", sorted(names))


def _configurations(dataset: HubDataset) -> dict[str, Splits]:
    """Return the splits of each configuration, by name: as the card lists them, else as the files are named."""
    names = [name for name in dataset.files if name.endswith(".parquet")]
    listed = dataset.card.get("configs")
    found: dict[str, Splits] = {}
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, dict) and (splits := _listed_splits(each, names)):
            found[str(each.get("config_name", _DEFAULT_CONFIGURATION))] = splits
    return found or _named_configurations(names)


def _listed_splits(configuration: Mapping[str, Any], names: Sequence[str]) -> Splits:
    """Return the files that a configuration of a card matches, by split."""
    folder = str(configuration.get("data_dir") or "").removeprefix("./").strip("/")
    inside = {name.removeprefix(f"{folder}/"): name for name in names if not folder or name.startswith(f"{folder}/")}
    found: Splits = {}
    if configuration.get("data_files") is None:
        for splits in _named_configurations(inside).values():
            for split, named in splits.items():
                found.setdefault(split, []).extend(inside[name] for name in named)
        return found
    for split, patterns in _patterns(configuration["data_files"]):
        matching = [regex_of_glob(pattern.removeprefix("./")) for pattern in patterns]
        matched = [name for short, name in inside.items() if any(each.fullmatch(short) for each in matching)]
        if matched:
            found.setdefault(split, []).extend(matched)
    return found


def _patterns(data_files: Any) -> list[tuple[str, list[str]]]:
    """Return the splits that a card's `data_files` lists, with their patterns, whichever form it has."""
    match data_files:
        case dict():
            pairs = list(data_files.items())
        case list() if all(isinstance(each, dict) for each in data_files):
            pairs = [(each.get("split", _DEFAULT_SPLIT), each.get("path", ())) for each in data_files]
        case _:
            pairs = [(_DEFAULT_SPLIT, data_files)]
    return [
        (str(split), [str(path) for path in ([paths] if isinstance(paths, str) else paths)]) for split, paths in pairs
    ]


def _named_configurations(names: Iterable[str]) -> dict[str, Splits]:
    """Return the splits of each configuration as the names of files and folders tell them.

    Files whose names tell no split are train, unless others beside them tell theirs.
    """
    found: dict[str, dict[str | None, list[str]]] = {}
    for name in names:
        configuration, split = _named(name)
        found.setdefault(configuration, {}).setdefault(split, []).append(name)
    return {
        configuration: {split or _DEFAULT_SPLIT: files for split, files in splits.items() if split or len(splits) == 1}
        for configuration, splits in found.items()
    }


def _named(name: str) -> tuple[str, str | None]:
    """Return the configuration and the split that the name of a file tells; None: no split."""
    found = _CONVERTED_FILE.fullmatch(name) or _SHARDED_FILE.fullmatch(name)
    if found:
        split = found["split"]
        folders = (found["configuration"] or "").split("/")
    else:
        *folders, file = PurePosixPath(name).with_suffix("").parts
        # The file's own name tells more than the folders above it.
        words = [word for part in (file, *reversed(folders)) for word in re.split(r"[^a-z]+", part.lower())]
        split = next((_SPLIT_OF_WORD[word] for word in words if word in _SPLIT_OF_WORD), None)
    others = [each for each in folders if each not in ("", "data") and each.lower() not in _SPLIT_OF_WORD]
    return "/".join(others) or _DEFAULT_CONFIGURATION, split


def _converted(name: HubName, dataset: HubDataset) -> tuple[HubDataset, dict[str, Splits]]:
    """Return the Hub's own conversion of a dataset and its configurations; the dataset and none if there is none."""
    try:
        converted = read_dataset(name._replace(revision=CONVERTED))
    except NotFoundError:
        return dataset, {}
    found = _configurations(converted)
    return (replace(converted, card=dataset.card), found) if found else (dataset, {})


def _defaults(card: Mapping[str, Any]) -> list[str]:
    """Return the configurations that a card marks as the default."""
    listed = card.get("configs")
    return [
        str(each.get("config_name"))
        for each in (listed if isinstance(listed, list) else ())
        if isinstance(each, dict) and each.get("default")
    ]


def _choose(name: HubName, configurations: Mapping[str, Splits], wanted: str, defaults: Sequence[str]) -> str:
    """Return the configuration that is wanted, or the only or default one."""
    if wanted in configurations:
        return wanted
    known = _shown(configurations)
    if wanted:
        raise NotFoundError(f"{name} has no configuration {wanted}; it has {known}")
    usual = [each for each in (*defaults, _DEFAULT_CONFIGURATION) if each in configurations]
    if not usual and len(configurations) > 1:
        first = min(configurations)
        example = f"{name}#{first}/{next(iter(configurations[first]))}"
        raise UsageError(f"{name} has the configurations {known}; choose one, as in {example}")
    return usual[0] if usual else next(iter(configurations))


def _no_split(name: HubName, split: str, splits: Splits) -> str:
    sentence = f"{name} has no split {split}; it has {_shown(splits)}"
    if f"partial-{split}" in splits:
        return f"{sentence}; partial-{split} is the first part of it, which is all that the Hub has converted"
    return sentence


def _refuse_missing_shards(name: HubName, names: Sequence[str]) -> None:
    """Raise SourceError if the cache holds fewer files than their names say."""
    counts = {found["count"] for each in names if (found := _SHARDED_FILE.fullmatch(each))}
    if len(counts) == 1 and len(names) < int(counts.pop()):
        example = min(names)
        raise SourceError(
            f"{name} is incomplete: the cache holds only {len(names)} of the files named like {example}, and "
            f"HF_HUB_OFFLINE is set; unset it, or run `hf download --repo-type dataset {name.repository}` where there "
            f"is a network"
        )


def _no_parquet(name: HubName, dataset: HubDataset) -> str:
    """Return the message for a dataset without Parquet files, which names what it holds and how that is read."""
    if not dataset.files:
        return f"{name} holds no files"
    counts = count_suffixes(dataset.files)
    found = ", ".join(f"{count:,} with {suffix}" for suffix, count in list(counts.items())[:3])
    sentence = f"{name} holds no Parquet files ({found})"
    tars = list(filter(is_tar_name, dataset.files))
    if tars:
        return f"{sentence}; name its tars, as in {name}/{min(tars)}"
    image = next((file for file in dataset.files if is_image_name(file)), "")
    if "/" in image:
        return f"{sentence}; name the folder of its images, as in {name}/{image.rpartition('/')[0]}"
    return (
        f"{sentence}, and the Hub has not converted it; fetch it with `hf download --repo-type dataset "
        f"{name.repository} --local-dir FOLDER`, and name that folder or the files in it"
    )


def _shown(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
