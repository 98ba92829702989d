"""Networks of the Hugging Face hub, hf:OWNER/NAME[/PLACE][@REVISION]: the files that describe one, and its weights.

The library huggingface_hub fetches them into its cache, with its token, and without a connection its cache is what
there is. A repository is listed first; of its files only those are fetched that are read. No code is among them.
"""

import contextlib
import io
import os
import pathlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from diffinv import errors, progress, reading
from diffinv.priors import diffusers_folder
from diffinv.reading import shown

SCHEME = "hf:"
FORM = "hf:OWNER/NAME, hf:OWNER/NAME/FOLDER_OR_FILE, or either with @REVISION"
NAME = re.compile(r"hf:([\w.-]+/[\w.-]+)((?:/[^/@]+)*)/?(?:@(.+))?")
NEWEST = "main"  # revision, where none is given
INSTALL = 'pip install "diffinv[hub]"'
CHECKPOINTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
SECONDS = 20.0  # to wait for the list of files
LISTED = 4  # files that a message names
UNREACHED = (408, 429, 500, 502, 503, 504)  # answers of a server that cannot say


class Source(NamedTuple):
  """What to fetch."""

  repository: str  # "owner/name"
  place: str  # a folder or a file in it, "" for all of it
  revision: str  # a branch, a tag or a commit

  def __str__(self) -> str:
    return f"{SCHEME}{self.repository}"


class Fetched(NamedTuple):
  """What was fetched."""

  path: pathlib.Path  # a folder or a file, as `convert` reads it
  repository: str
  commit: str


class _Listing(NamedTuple):
  """The files of a repository, or those of it in the cache."""

  sizes: Mapping[str, int]  # bytes, by name
  commit: str
  get: Callable[[Collection[str]], pathlib.Path]  # names of files to the folder that holds them, and all of the commit


def is_one(text: Any) -> bool:
  """Tell whether an input is meant to be of the hub."""
  return isinstance(text, str) and text.startswith(SCHEME)


def parse(text: str) -> Source:
  """Return what a name of the hub stands for.

  Raises:
    UsageError: it is none.
  """
  found = NAME.fullmatch(text)
  if found is None or ".." in found[2].split("/"):
    raise errors.UsageError(f"`input`: expected {FORM}, got {text!r}")
  return Source(found[1], found[2].strip("/"), found[3] or NEWEST)


def fetch(text: str) -> Fetched:
  """Fetch what describes a network and its weights, and nothing else, into the cache of huggingface_hub.

  Args:
    text: hf:OWNER/NAME[/PLACE][@REVISION].

  Raises:
    UsageError: it is no such name.
    ValueError: there is no such repository, revision or place, it may not be read, it holds no network that is known,
      or there is no connection and the cache lacks it; one line.
    OSError: the cache cannot be written.
  """
  source = parse(text)
  hub = _library()
  listing = _listed(hub, source)
  names = list(listing.sizes)
  if source.place in names:
    beside = [name for name in diffusers_folder.describing(names, _parent(source.place)) if name != source.place]
    folder = listing.get([source.place, *beside])
    return Fetched(folder / source.place, source.repository, listing.commit)
  place = f"{source.place}/" if source.place else ""
  if not any(name.startswith(place) for name in names):
    raise ValueError(f"{source}: expected one of its files or folders, got {source.place!r}; there are {_some(names)}")
  describing = diffusers_folder.describing(names, source.place)
  if not any(name.endswith(diffusers_folder.CONFIG) for name in describing):
    alone = _checkpoint(source, [name for name in names if name.startswith(place)])
    return Fetched(listing.get([alone]) / alone, source.repository, listing.commit)
  folder = listing.get(describing) / source.place
  diffusers_folder.check(folder)  # before the weights are fetched
  _get_weights(listing, source, folder)
  return Fetched(folder, source.repository, listing.commit)


def _get_weights(listing: _Listing, source: Source, folder: pathlib.Path) -> None:
  """Fetch the weights that are read with the files in a folder."""
  root = folder.parents[len(pathlib.PurePosixPath(source.place).parts) - 1] if source.place else folder
  within = diffusers_folder.network_folder(folder).relative_to(root).as_posix()
  place = "" if within == "." else f"{within}/"
  there = [name.removeprefix(place) for name in listing.sizes if _parent(name) == place.rstrip("/")]
  first = diffusers_folder.choose_weights(there)
  if first is None:
    raise ValueError(
      f"{source}: expected {diffusers_folder.WEIGHTS}.safetensors or .bin in {within}, found {_some(there)}; choose "
      "another repository"
    )
  listing.get([place + first])
  if first.endswith(diffusers_folder.SHARDS):
    listing.get([place + shard.name for shard in diffusers_folder.shards(root / within / first)])


def _parent(name: str) -> str:
  return name.rpartition("/")[0]


def _checkpoint(source: Source, names: list[str]) -> str:
  """Return the one file of a repository that may be a checkpoint."""
  found = [name for name in names if name.endswith(CHECKPOINTS)]
  if len(found) == 1:
    return found[0]
  if not found:
    raise ValueError(f"{source}: expected a network's config.json or a checkpoint in it, found {_some(names)}")
  raise ValueError(
    f"{source}: expected a network's config.json or one checkpoint in it, found {len(found)}, {_some(found)}; choose "
    f"one, as {source}/{found[0]}"
  )


def _some(names: list[str]) -> str:
  more = ", ..." if len(names) > LISTED else ""
  return ", ".join(map(shown, sorted(names)[:LISTED])) + more if names else "nothing"


def _library() -> Any:
  try:
    import huggingface_hub.constants  # nothing else in the library needs it
    import huggingface_hub.errors
    import huggingface_hub.file_download
  except ImportError:
    raise ValueError(f"`input`: reading from the hub needs the package huggingface_hub; {INSTALL}") from None
  return huggingface_hub


def _listed(hub: Any, source: Source) -> _Listing:
  """List a repository, or what the cache holds of it where the hub cannot be reached."""
  if hub.constants.HF_HUB_OFFLINE:
    return _cached(hub, source, "HF_HUB_OFFLINE is set")
  try:
    with _faults(hub, source):
      found = hub.HfApi().model_info(source.repository, revision=source.revision, files_metadata=True, timeout=SECONDS)
  except _Unreachable as error:
    return _cached(hub, source, str(error))
  sizes = {part.rfilename: part.size or 0 for part in found.siblings}
  return _Listing(sizes, found.sha, lambda names: _downloaded(hub, source, found.sha, {n: sizes[n] for n in names}))


class _Unreachable(Exception):
  """The hub does not answer."""


@contextlib.contextmanager
def _faults(hub: Any, source: Source) -> Iterator[None]:
  """Turn what the library raises into lines of ours."""
  of = hub.errors
  try:
    yield
  except of.GatedRepoError:
    raise ValueError(
      f"{source}: its owner lets in those who have agreed to the terms: do so on its page, then log in with "
      "`hf auth login`"
    ) from None
  except of.RevisionNotFoundError:
    raise ValueError(
      f"{source}: expected a branch, a tag or a commit of it, got {source.revision!r}; see its page, or leave it out"
    ) from None
  except of.RepositoryNotFoundError:
    raise ValueError(
      f"{source}: no such repository, or a private one; check the name, or log in with `hf auth login`"
    ) from None
  except of.HFValidationError as error:
    raise errors.UsageError(f"`input`: expected {FORM}, got {str(source)!r} ({errors.brief(error)})") from None
  except of.HfHubHTTPError as error:
    code = error.response.status_code
    if code in UNREACHED:
      raise _Unreachable(f"the hub answers {code}") from None
    hint = "log in again with `hf auth login`" if code in (401, 403) else "try again later"
    raise ValueError(f"{source}: the hub refuses, {errors.brief(error)}; {hint}") from None
  except (of.HTTPError, of.OfflineModeIsEnabled, ConnectionError, TimeoutError):
    raise _Unreachable("no connection to the hub") from None


def _cached(hub: Any, source: Source, why: str) -> _Listing:
  """List what the cache holds of a repository."""
  name = hub.file_download.repo_folder_name(repo_id=source.repository, repo_type="model")
  root = pathlib.Path(hub.constants.HF_HUB_CACHE, name)
  reference = root / "refs" / source.revision
  commit = reference.read_text().strip() if reading.is_file(reference) else source.revision
  folder = root / "snapshots" / commit
  there = {path.relative_to(folder).as_posix(): 0 for path in folder.rglob("*") if reading.is_file(path)}
  if not there:
    raise ValueError(f"{source}: {why}, and the cache, {hub.constants.HF_HUB_CACHE}, lacks it; connect and try again")
  progress.note(f"{source}: {why}; commit {commit} is taken from the cache")
  return _Listing(there, commit, lambda names: folder)


def _downloaded(hub: Any, source: Source, commit: str, sizes: Mapping[str, int]) -> pathlib.Path:
  """Fetch files that the cache lacks; return the folder of the commit in it."""
  folder = None
  with progress.Bar(sum(sizes.values()) or 1) as bar:
    for name, size in sizes.items():
      report = bar.part(size, f"{source} {name}")
      try:
        with _faults(hub, source):
          # The name of the revision, so that the cache knows it without a connection.
          shown_by = _reporting(report, size)
          path = hub.hf_hub_download(source.repository, name, revision=source.revision, tqdm_class=shown_by)
      except _Unreachable as error:
        raise ValueError(f"{source}: {name}: {error}; run it again, and it goes on where it was") from None
      report(1, 1)
      folder = pathlib.Path(os.path.abspath(path)).parents[len(pathlib.PurePosixPath(name).parts) - 1]
      if folder.name != commit:
        raise ValueError(f"{source}: it was changed while it was fetched; run it again")
  assert folder is not None
  return folder


def _reporting(report: Callable[[int, int], None], size: int) -> type:
  """Return a silent progress bar of the library's kind that passes on how many bytes of a file are there."""
  import tqdm  # comes with the library

  most = [0]

  class Reported(tqdm.tqdm):
    monitor_interval = 0  # no thread

    def __init__(self, *args: Any, **about: Any):
      super().__init__(*args, **{**about, "file": io.StringIO(), "disable": False})

    def update(self, n: float | None = 1) -> bool | None:
      drawn = super().update(n)
      most[0] = max(most[0], int(self.n))  # there may be two, one of what came and one of what was written
      if 0 < most[0] < size:
        report(most[0], size)
      return drawn

  return Reported
