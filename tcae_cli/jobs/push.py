"""`tcae push`: uploads a complete store, or a checkpoint, to the Hugging Face Hub, in commits that a repeat resumes."""

import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tcae_cli.autoencoders.checkpoint import MODEL_FILE, CheckpointHeader
from tcae_cli.autoencoders.tcae import TcaeModel
from tcae_cli.errors import StoreError, UsageError
from tcae_cli.jobs.cards import mark_of, model_card, store_card
from tcae_cli.reports.progress import Progress
from tcae_cli.reports.push import PushReport, PushRequest
from tcae_cli.runtime.folder import Folder, open_pinned
from tcae_cli.runtime.hub_name import HubName, parse_repository
from tcae_cli.runtime.hub_upload import commit, list_files, make_repository, read_file
from tcae_cli.runtime.local_folder import LocalFolder
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.layout import ROOT

CARD = "README.md"

_COMMIT_FILES = 256  # a commit of very many takes the Hub too long
_COMMIT_BYTES = 2**30
_MOST_COMMITS = 64  # of a large store, since the Hub limits how many a user makes in an hour
# Files of processes that are at work on a store, or were: leases, claims on shards, and files without a name yet.
_OF_PROCESSES = re.compile(r"(?:.*/)?\.tcae/(?:leases|claims|part)/.*")


def push_to_hub(request: PushRequest, progress: Progress) -> PushReport:
    """Upload a complete store or a checkpoint, with a card. Files that are there already are not sent again.

    Raises UsageError for a target of the other kind; StoreError for a store that is incomplete, or if the target holds
    another one; CheckpointError or NotFoundError for a model; DiskError if the Hub cannot be written.
    """
    name = parse_repository(request.target)
    if name is None:
        raise UsageError(
            f"{request.target} is not a repository on the Hub; push a store to hf://datasets/ORG/NAME, or a model to "
            f"hf://ORG/NAME"
        )
    return _push_store(request, name, progress) if name.kind == "dataset" else _push_model(request, name, progress)


def _push_store(request: PushRequest, name: HubName, progress: Progress) -> PushReport:
    """Upload the files of a store piece by piece, and in a last commit its root, which makes it a store, and the card.

    Where the target holds an earlier state of the store, files that it no longer has are removed: an old index, say.
    """
    started = time.perf_counter()
    folder = open_pinned(request.what)
    if not folder.can_list:
        raise UsageError(f"{request.what} is on a web server, which lists no files; copy it here, and push the copy")
    store = StoreHandle(folder)
    root = folder.read(ROOT)
    store.refresh()
    if not store.is_complete:
        raise StoreError(f"{request.what} is incomplete; finish it by repeating tcae encode-dataset, then push it")
    target = name._replace(path=name.path or _last_part(folder))
    sizes = {f"{target.path}/{each}": size for each, size in folder.sizes().items() if not _OF_PROCESSES.match(each)}
    root_path = f"{target.path}/{ROOT}"

    make_repository(name)
    is_update = _holds_earlier_state(store, target)
    there = list_files(target)

    def content(path: str) -> Path | bytes:
        inside = path.removeprefix(f"{target.path}/")
        return folder.path / inside if isinstance(folder, LocalFolder) else folder.read(inside)

    todo = {path: size for path, size in sizes.items() if path not in there or not there[path].equals(content(path))}
    progress.start("push", len(sizes), done=len(sizes) - len(todo), unit="files")
    for piece in _pieces({path: size for path, size in todo.items() if path != root_path}):
        commit(target, {path: content(path) for path in piece}, f"Upload a part of {target.path}")
        progress.advance(len(piece))

    if folder.read(ROOT) != root:
        raise StoreError(f"{request.what} was changed while it was pushed; repeat once it is complete again")
    card = _card_unless_kept(name, store_card(store, target), target.path)
    stale = [path for path in there if path not in sizes] if is_update else []
    last = commit(target, {root_path: root, **card}, f"Complete {target.path}", stale)
    progress.advance(root_path in todo)
    return PushReport(
        what=request.what,
        address=str(target),
        page=name.page,
        commit=last,
        num_files=len(sizes),
        num_uploaded=len(todo),
        num_bytes=sum(sizes.values()),
        card_kept=not card,
        elapsed_s=time.perf_counter() - started,
    )


def _push_model(request: PushRequest, name: HubName, progress: Progress) -> PushReport:
    """Upload a checkpoint and its card in one commit."""
    started = time.perf_counter()
    if (Path(request.what) / ROOT).is_file():
        raise UsageError(f"{request.what} is a store; push it to hf://datasets/ORG/NAME")
    path = TcaeModel(request.what).path
    header = CheckpointHeader.read(path)
    make_repository(name)
    found = list_files(name).get(MODEL_FILE)
    is_new = found is None or not found.equals(path)
    progress.start("push", 1, done=not is_new, unit="files")
    card = _card_unless_kept(name, model_card(header, path.parent, name), name.repository)
    last = commit(name, {MODEL_FILE: path, **card}, f"Upload {header.name} at step {header.step}")
    progress.advance(is_new)
    return PushReport(
        what=request.what,
        address=str(name),
        page=name.page,
        commit=last,
        num_files=1,
        num_uploaded=int(is_new),
        num_bytes=path.stat().st_size,
        card_kept=not card,
        elapsed_s=time.perf_counter() - started,
    )


def _last_part(folder: Folder) -> str:
    """Return the name of a folder without those above it."""
    return (folder.path.resolve() if isinstance(folder, LocalFolder) else Path(folder.uri)).name


def _holds_earlier_state(store: StoreHandle, target: HubName) -> bool:
    """Return whether the target holds this store, perhaps before it grew or got other labels, rather than nothing.

    Those change neither the time of its creation nor its encoder. Raises StoreError if it holds another store.
    """
    found = read_file(target._replace(path=f"{target.path}/{ROOT}"))
    if found is None:
        return False
    try:
        attributes = json.loads(found)["attributes"]
        identity = attributes["created_at"], attributes["encoder"]["hash"]
    except (ValueError, LookupError, TypeError):
        identity = None
    if identity != (store.spec.created_at, store.spec.encoder.hash):
        raise StoreError(
            f"{target} holds another store, which stays as it is; push {store.folder.uri} to another repository, or "
            f"beside it, as in {target}-2"
        )
    return True


def _pieces(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Yield the files, given with their sizes in bytes, that are committed together."""
    most_bytes = max(_COMMIT_BYTES, sum(sizes.values()) // _MOST_COMMITS)
    piece: list[str] = []
    piece_bytes = 0
    for path, size in sorted(sizes.items()):
        if piece and (len(piece) == _COMMIT_FILES or piece_bytes + size > most_bytes):
            yield piece
            piece, piece_bytes = [], 0
        piece.append(path)
        piece_bytes += size
    if piece:
        yield piece


def _card_unless_kept(name: HubName, card: str, subject: str) -> dict[str, bytes]:
    """Return the file of the card; none where the repository has a README.md that is not one of this subject's."""
    found = read_file(name._replace(path=CARD))
    return {CARD: card.encode()} if found is None or mark_of(subject).encode() in found else {}
