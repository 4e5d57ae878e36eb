"""From a reference to the files there: a local folder is listed, a hub repository by its commit."""

from __future__ import annotations

from pathlib import Path

from saebench.errors import BadReferenceError
from saebench.files import is_allowed, list_files
from saebench.layout import is_below_its_config
from saebench.reference.grammar import REPOSITORY, Reference
from saebench.reference.hub import resolve_hub
from saebench.reference.resolved import Resolved
from saebench.weights import is_weights


def resolve(
    reference: Reference, *, endpoint: str | None = None, cache: Path | None = None
) -> Resolved:
    """The files at a reference: a listing, and on the hub the commit it is of.

    ``endpoint`` and ``cache`` override the hub and the cache folder of ``huggingface_hub``, whose
    offline switch (``HF_HUB_OFFLINE``) makes this look into the cache only. Raises
    :class:`BadReferenceError` when nothing is there and :class:`HubError` when the hub refuses.
    """
    if reference.kind == "hub":
        return resolve_hub(reference, endpoint, cache)
    path = Path(reference.path).expanduser()
    try:
        if path.is_dir():
            return _folder(reference, path, None, list_files(path))
        if path.is_file():
            return _folder(reference, path.parent, path.name, _direct(path.parent))
    except OSError as error:
        raise BadReferenceError(
            f"the files at {reference.path!r}", error.strerror or str(error), "Check the path."
        ) from error
    hint = (
        f" For the hub write hf:{reference.path}." if REPOSITORY.fullmatch(reference.path) else ""
    )
    raise BadReferenceError(
        f"a checkpoint at {reference.path!r}", "no such file or folder", f"Check the path.{hint}"
    )


def _folder(
    reference: Reference, folder: Path, file: str | None, names: tuple[str, ...]
) -> Resolved:
    """A local listing, rooted above a folder of steps where the config of the run is."""
    base = Path(reference.path)
    base, root = (base if file is None else base.parent), folder
    within: tuple[str, ...] = ()
    direct = [name for name in names if "/" not in name]
    above: list[str] = []
    while root.name and is_below_its_config(root.name, direct):
        within = (root.name, *within)
        base, root = base.parent, root.parent
        direct = above = [name for name in _direct(root) if not is_weights(name)]
    prefix = "".join(f"{part}/" for part in within)
    return Resolved(
        reference=reference,
        base=Reference("local", None, None, str(base)),
        names=tuple(sorted((*above, *(f"{prefix}{name}" for name in names)))),
        root=root,
        within="/".join(within),
        file=None if file is None else f"{prefix}{file}",
    )


def _direct(folder: Path) -> tuple[str, ...]:
    """The allowed files that lie directly in a folder."""
    return tuple(sorted(item.name for item in folder.iterdir() if is_allowed(item.name)))
