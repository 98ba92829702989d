"""Networks of the hub, from a server on this machine that plays it: what is fetched, from where, and what is said."""

import http.server
import json
import sys
import threading
import urllib.parse

import diffusers_networks
import numpy as np
import pytest
import reference_networks
from denoising_network import convert

from diffinv import errors
from diffinv.nets import diffusers
from diffinv.priors import folder as checkpoint
from diffinv.priors import hub

constants = pytest.importorskip("huggingface_hub.constants")

COMMITS = {"main": "1" * 40, "old": "2" * 40}
OURS = "someone/faces"
CONFIG = {"_class_name": "UNet2DModel", **diffusers_networks.SMALL["plain"].config, "class_embed_type": None}
SCHEDULER = {"_class_name": "DDPMScheduler", "beta_schedule": "linear", "num_train_timesteps": 500}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def weights(fill):
  from safetensors.numpy import save

  config = diffusers.config_from(CONFIG)
  tensors = reference_networks.state_dict({s.name: s.shape for s in diffusers.sources(config).values()})
  return save({**tensors, "conv_out.bias": np.full(3, fill, np.float32)})


class Hub:
  """A server of repositories, {repository: {revision: {file: bytes}}}, that notes what it was asked for."""

  def __init__(self, repositories):
    self.repositories, self.asked, self.tokens = repositories, [], set()
    hub = self

    class Handler(http.server.BaseHTTPRequestHandler):
      protocol_version = "HTTP/1.1"

      def do_GET(self):
        hub.answer(self, body=True)

      def do_HEAD(self):
        hub.answer(self, body=False)

      def log_message(self, *args):
        pass

    self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    self.server.daemon_threads = True
    self.server.handle_error = lambda *where: None  # of a connection that the other end closed
    threading.Thread(target=self.server.serve_forever, daemon=True).start()
    self.url = f"http://127.0.0.1:{self.server.server_port}"

  def close(self):
    self.server.shutdown()
    self.server.server_close()

  def answer(self, request, body):
    path = urllib.parse.unquote(urllib.parse.urlparse(request.path).path).strip("/").split("/")
    self.tokens.add(request.headers.get("authorization"))
    if path[:2] == ["api", "models"]:
      repository, revision, name = "/".join(path[2:4]), path[5] if path[4:5] == ["revision"] else "main", None
    else:
      repository, revision, name = "/".join(path[:2]), path[3], "/".join(path[4:])
    data, headers, code = self.find(repository, revision, name)
    if name is not None and code == 200 and body:
      self.asked.append(name)
    request.send_response(code)
    for key, value in {"Content-Length": len(data), **headers}.items():
      request.send_header(key, str(value))
    request.end_headers()
    if body:
      request.wfile.write(data)

  def find(self, repository, revision, name):
    if repository == "someone/gated":
      return b"", {"X-Error-Code": "GatedRepo"}, 403
    if repository == "someone/broken":
      return b"", {}, 503
    if repository not in self.repositories:
      return b"", {"X-Error-Code": "RepoNotFound"}, 404
    known = self.repositories[repository]
    revision = next((key for key in known if revision in (key, COMMITS[key])), None)
    if revision is None:
      return b"", {"X-Error-Code": "RevisionNotFound"}, 404
    files, commit = known[revision], COMMITS[revision]
    if name is None:
      listed = [{"rfilename": key, "size": len(value)} for key, value in files.items()]
      about = {"id": repository, "modelId": repository, "sha": commit, "siblings": listed, "tags": [], "downloads": 0}
      return json.dumps(about).encode(), {"Content-Type": "application/json"}, 200
    if name not in files:
      return b"", {"X-Error-Code": "EntryNotFound"}, 404
    return files[name], {"ETag": f'"{abs(hash(files[name]))}"', "X-Repo-Commit": commit}, 200


@pytest.fixture(scope="module")
def server():
  described = {"config.json": json.dumps(CONFIG).encode(), "scheduler_config.json": json.dumps(SCHEDULER).encode()}
  others = {
    "README.md": b"# hello",
    "diffusion_pytorch_model.bin": b"\x80",
    "samples/a.png": b"png",
    "run.py": b"exit()",
  }
  pipeline = {
    "model_index.json": json.dumps({"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}).encode(),
    "scheduler/scheduler_config.json": described["scheduler_config.json"],
    "unet/config.json": described["config.json"],
    f"unet/{WEIGHTS}": weights(3.0),
    "unet/diffusion_flax_model.msgpack": b"\x80",
  }
  latent = {"model_index.json": json.dumps({"_class_name": "LDMPipeline", "unet": [], "vqvae": [1, 2]}).encode()}
  found = Hub({
    OURS: {"main": {**described, **others, WEIGHTS: weights(1.0)}, "old": {**described, WEIGHTS: weights(2.0)}},
    "someone/pipeline": {"main": pipeline},
    "someone/latent": {"main": {**latent, "unet/config.json": described["config.json"], f"unet/{WEIGHTS}": b"no"}},
    "someone/files": {"main": {"a/one.pt": b"1", "b/two.pt": b"2", "a.txt": b""}},
    "someone/texts": {"main": {"README.md": b"hello"}},
  })  # fmt: skip
  yield found
  found.close()


@pytest.fixture
def here(server, tmp_path, monkeypatch):
  """Let the library speak to the server, with a cache of its own."""
  monkeypatch.setattr(constants, "ENDPOINT", server.url)
  template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
  monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
  monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
  monkeypatch.delenv("HF_TOKEN", raising=False)
  server.asked.clear()
  server.tokens.clear()
  return server


def provenance(folder):
  return json.loads((folder / "prior.json").read_text())["provenance"]


def bias(folder):
  return checkpoint.load_prior(folder).params["conv_out"]["bias"][0]


def test_only_what_is_read_is_fetched_and_the_commit_is_kept(capsys, here, tmp_path):
  assert convert(capsys, f"hf:{OURS}", tmp_path / "p", "--nocheck") == ""
  assert sorted(here.asked) == ["config.json", WEIGHTS, "scheduler_config.json"]
  found = provenance(tmp_path / "p")
  assert (found["repository"], found["commit"], found["scheduler"]) == (OURS, COMMITS["main"], "DDPMScheduler")
  assert bias(tmp_path / "p") == 1.0 and checkpoint.load_prior(tmp_path / "p").schedule.num_steps == 500
  assert convert(capsys, f"hf:{OURS}", tmp_path / "q", "--nocheck") == "" and len(here.asked) == 3  # from the cache


@pytest.mark.parametrize("revision", ["old", COMMITS["old"]])
def test_a_revision_is_one_of_its_own(capsys, here, tmp_path, revision):
  assert convert(capsys, f"hf:{OURS}@{revision}", tmp_path / "p", "--nocheck") == ""
  assert bias(tmp_path / "p") == 2.0 and provenance(tmp_path / "p")["commit"] == COMMITS["old"]


@pytest.mark.parametrize("place", ["", "/unet", f"/unet/{WEIGHTS}"])
def test_a_pipeline_a_folder_of_it_and_a_file_are_read(capsys, here, tmp_path, place):
  assert convert(capsys, f"hf:someone/pipeline{place}", tmp_path / "p", "--nocheck") == ""
  wanted = ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json", f"unet/{WEIGHTS}"]
  assert sorted(here.asked) == wanted
  assert bias(tmp_path / "p") == 3.0 and checkpoint.load_prior(tmp_path / "p").schedule.num_steps == 500


def test_a_network_that_is_refused_is_not_fetched(capsys, here, tmp_path):
  said = convert(capsys, "hf:someone/latent", tmp_path / "p", code=1)
  assert "whose network knows the latents of an autoencoder" in said and said.count("\n") == 1
  assert f"unet/{WEIGHTS}" not in here.asked


def test_the_token_of_the_library_is_used(capsys, here, tmp_path):
  (tmp_path / "token").write_text("hf_secret")
  convert(capsys, f"hf:{OURS}", tmp_path / "p", "--nocheck")
  assert here.tokens == {"Bearer hf_secret"}
  assert "hf_secret" not in (tmp_path / "p" / "prior.json").read_text()


@pytest.mark.parametrize("cut", ["offline", "gone"])
def test_without_a_connection_the_cache_is_read_and_said(capsys, here, tmp_path, monkeypatch, cut):
  def fail(flags=()):
    return convert(capsys, f"hf:{OURS}", tmp_path / "p", "--nocheck", *flags, code=1)

  convert(capsys, f"hf:{OURS}", tmp_path / "before", "--nocheck")
  if cut == "offline":
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    why = "HF_HUB_OFFLINE is set"
  else:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nothing listens
    why = "no connection to the hub"
  said = convert(capsys, f"hf:{OURS}", tmp_path / "after", "--nocheck")
  assert said == f"note: hf:{OURS}: {why}; commit {COMMITS['main']} is taken from the cache\n"
  assert provenance(tmp_path / "after") == provenance(tmp_path / "before")
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
  assert f"{why}, and the cache, {tmp_path / 'empty'}, lacks it; connect and try again" in fail()


@pytest.mark.parametrize(
  "name, message",
  [
    ("someone/nothing", "hf:someone/nothing: no such repository, or a private one; check the name, or log in"),
    ("someone/gated", "its owner lets in those who have agreed to the terms: do so on its page, then log in with"),
    (f"{OURS}@older", "expected a branch, a tag or a commit of it, got 'older'"),
    (f"{OURS}/nets", "expected one of its files or folders, got 'nets'; there are 'README.md', 'config.json', "),
    ("someone/files", "or one checkpoint in it, found 2, 'a/one.pt', 'b/two.pt'; choose one, as hf:someone/files/a/"),
    ("someone/texts", "expected a network's config.json or a checkpoint in it, found 'README.md'"),
    ("someone/broken", "the hub answers 503, and the cache, "),
  ],
)
def test_what_cannot_be_had_is_one_line(capsys, here, tmp_path, name, message):
  said = convert(capsys, f"hf:{name}", tmp_path / "p", code=1)
  assert message in said and said.count("\n") == 1 and not (tmp_path / "p").exists()


@pytest.mark.parametrize(
  "name", ["hf:", "hf:faces", "hf:a/b/../c", "hf:a/b@", "hf:a b/c", "hf:https://huggingface.co/a/b"]
)
def test_what_is_no_name_is_a_usage_error(name):
  with pytest.raises(errors.UsageError, match="`input`: expected hf:OWNER/NAME, "):
    hub.parse(name)


def test_names_are_read_in_their_parts():
  assert hub.parse("hf:a/b") == ("a/b", "", "main")
  assert hub.parse("hf:a/b.c/unet/x.bin@refs/pr/1") == ("a/b.c", "unet/x.bin", "refs/pr/1")


def test_bytes_are_reported_as_they_come(here, monkeypatch):
  reports = []
  monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
  monkeypatch.setattr(hub.progress.Bar, "part", lambda self, size, label: lambda done, of: reports.append((done, of)))
  hub.fetch(f"hf:{OURS}")
  size = len(here.repositories[OURS]["main"][WEIGHTS])
  of_weights = [done for done, of in reports if of == size]
  assert of_weights[:2] == [1000, 2000] and of_weights == sorted(of_weights) and len(of_weights) == (size - 1) // 1000


def test_a_library_that_is_missing_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  with pytest.raises(ValueError, match=r'needs the package huggingface_hub; pip install "diffinv\[hub\]"'):
    hub.fetch(f"hf:{OURS}")
