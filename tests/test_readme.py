"""The Python of the README and its pages runs as it stands there; commands are parsed and checked, not run."""

import importlib
import pathlib
import re
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffinv import METHODS, load_prior, noise, priors, sample, simulate
from diffinv.apps import flags as flagging
from diffinv.apps.main import COMMANDS, parse
from diffinv.baselines import BASELINES
from diffinv.data import bundled, images
from diffinv.methods import needs
from diffinv.operators import super_resolution
from diffinv.schedules import Schedule
from diffinv.studies import entrants, presets, settings
from diffinv.studies.study import overrides
from diffinv.tasks import TASKS, WORDS

ROOT = pathlib.Path(__file__).parent.parent
PAGES = (
  "README.md",
  *(
    f"docs/{name}.md"
    for name in ("methods", "train", "extend", "lead", "recipes", "checkpoints", "jpeg", "scale", "performance")
  ),
)
JOBS = tuple(f"docs/jobs/{path.name}" for path in sorted((ROOT / "docs" / "jobs").glob("*.md")))
MORE = (*(f"docs/{name}.md" for name in ("index", "choose", "coming", "built", "publishing", "learn")), *JOBS)
README = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.S)
EVERY = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in (*PAGES, *MORE))
LINES = [line for line in dict.fromkeys(EVERY.splitlines()) if line.startswith("diffinv ")]


def defined(snippet):
  """Run a snippet as it is pasted, and return the class that it defines."""
  scope = {"__name__": "snippet"}
  exec(snippet, scope)
  return next(value for value in scope.values() if getattr(value, "__module__", None) == "snippet")


def photo():
  return images.read(bundled.ASTRONAUT)[64:96, 64:96]


@pytest.mark.slow
def test_library_snippet_restores_a_photograph(tmp_path, monkeypatch):
  images.write(tmp_path / "photo.png", photo())
  monkeypatch.chdir(tmp_path)
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    exec(SNIPPETS[1], {})
  restored = images.read(tmp_path / "restored.png")
  assert restored.shape == (32, 32, 3)
  assert 0.0 < np.mean((restored - photo()) ** 2) < 0.1
  assert len(SNIPPETS[1].splitlines()) <= 15


@pytest.mark.slow
def test_study_snippet_compares_and_writes_a_page(tmp_path, monkeypatch):
  images.write(tmp_path / "photo.png", photo())
  monkeypatch.chdir(tmp_path)
  scope = {}
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    exec(SNIPPETS[0], scope)
  assert [row["method"] for row in scope["results"].rows] == ["diffpir", "dps"]
  assert (tmp_path / "page.html").stat().st_size > 10_000 and (tmp_path / "out" / "mine" / "sheet.png").is_file()


def test_method_of_the_readme_meets_the_measurement():
  method = defined(SNIPPETS[2])()
  x0 = jnp.asarray(photo())
  problem = simulate(jax.random.key(0), super_resolution(x0.shape, 4), noise.Gaussian(0.05), x0)
  prior = priors.natural()
  x, _ = sample(jax.random.key(1), method, prior, problem, prior.schedule.grid("20"))
  # The last level has no noise: there A x is y.
  np.testing.assert_allclose(problem.operator(x), problem.y, atol=1e-4)


def test_operator_of_the_readme_has_its_adjoint():
  operator = defined(SNIPPETS[3])(in_shape=(4, 6, 3))
  x, y = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
  np.testing.assert_allclose(jnp.vdot(operator(x), y), jnp.vdot(x, operator.adjoint(y)), rtol=1e-5)
  np.testing.assert_allclose(operator.pinv(operator(x)), x, atol=1e-4)


# Priors that other commands write.
MADE = tuple(f"checkpoints/{name}" for name in ("mine", "ffhq256", "celebahq", "classes", "drunet"))


@pytest.mark.parametrize("line", LINES)
def test_commands_of_the_readme_pass_their_checks(line, tmp_path, monkeypatch):
  """Flags are parsed and checked, priors of the package are loaded and asked for the steps; nothing is run."""
  monkeypatch.chdir(tmp_path)
  _, name, *arguments = shlex.split(line)
  module = importlib.import_module(COMMANDS[name][0])
  parse(name, module.FLAGS, arguments)
  if hasattr(module, "CONFIG"):
    flagging.make(module.FLAGS, module.CONFIG)
  chosen = module.FLAGS.flag_values_dict()
  assert set(chosen.get("tasks") or []) <= set(TASKS)
  assert set(chosen.get("methods") or []) <= {*METHODS, *BASELINES}
  if chosen.get("prior") not in (None, *MADE):
    load_prior(chosen["prior"]).schedule.grid(chosen["steps"] or "100")
  if "tasks" in chosen and "set" in chosen:
    overrides(flagging.make(module.FLAGS, module.CONFIG))


def test_costs_of_the_table_are_those_of_the_methods():
  """At the default hyper-parameters, of the steps that are done: SDEdit begins at t0."""
  for name, method in METHODS.items():
    spent = entrants.cost(method(), Schedule("linear").grid(100))
    steps = 1 if name == "mmse" else 100 * getattr(method(), "t0", 1)
    (row,) = re.findall(rf"^\| `{name}` .*$", README, re.M)
    evaluations, gradients = (
      row.split("|")[-2].replace("iterations", str(getattr(method(), "iterations", 0))).split(",")
    )
    wanted = int(evaluations), sum(map(int, gradients.split("+")))
    assert (round(spent.evaluations / steps), round(spent.gradients / steps)) == wanted, name


def test_rows_of_the_methods_are_what_their_classes_say():
  for name, method in METHODS.items():
    paper = re.sub(r"arXiv (\S+)", r"[\1](https://arxiv.org/abs/\1)", method.citation)
    row = f"| `{name}` | {paper} | {method.entering} | {needs(method).replace('SVD in closed form', 'SVD known')} |"
    assert row in README, name


def test_rows_of_presets_are_what_the_settings_of_every_prior_say():
  count = lambda steps: f"{steps} step" if steps == "1" else f"{steps} steps"

  def words(choice):
    steps, samples = choice.get("steps"), choice.get("samples")
    parts = [METHODS[choice["method"]].title, *([count(re.search("[0-9]+", steps)[0])] if steps else [])]
    return ", ".join([*parts, *([f"mean of {samples}"] if samples else [])])

  for path in settings.FOLDER.glob("*.json"):
    table = settings.read_settings(path)
    for quality in presets.QUALITIES:
      lists = {aim: "; else ".join(map(words, settings.preset(table, aim, quality))) for aim in presets.AIMS}
      names = [presets.Preset(quality, aim).name for aim in presets.AIMS]
      assert f"| `{quality}` | {lists['mean']} | `{names[0]}` | {lists['sample']} | `{names[1]}` |" in README, path


def test_rows_of_what_needs_no_network_are_what_its_table_says():
  for name, baseline in BASELINES.items():
    row = f"| `{name}` | {baseline.citation} | {baseline.entering} | {baseline.needs} |"
    assert row in README, name


def test_tables_list_every_method_and_task():
  first_cells = set(re.findall(r"^\| `(\w+)`", README, re.M))
  assert first_cells >= {*METHODS, *BASELINES, *TASKS, *WORDS}


def test_rows_of_words_are_what_their_tasks_say():
  flags = {"mask": "`--mask`", "kernel": "`--blur` or `--kernel`", None: ""}
  for word, task in WORDS.items():
    (row,) = re.findall(rf"^\| `{word}` .*$", README, re.M)
    _, _, _, given, settings_of, _ = row.split("|")
    assert settings_of.strip() == f"`{task.settings}`" and given.strip().startswith(flags[task.given])


@pytest.mark.slow
def test_tasks_that_a_method_cannot_solve_are_listed():
  """The last column of the table of tasks, against what the methods accept, MMSE left out."""
  from diffinv.methods import check

  for name, task in TASKS.items():
    operator = task.make(jax.random.key(0), (64, 64, 3))
    refused = []
    for title, method in METHODS.items():
      try:
        check(method(), operator)
      except ValueError:
        refused += [title] if title != "mmse" else []
    (row,) = re.findall(rf"^\| `{name}` .*$", README, re.M)
    assert re.findall(r"`(\w+)`", row.split("|")[-2]) == refused, name


def test_readme_is_short_and_its_links_lead_somewhere():
  text = (ROOT / "README.md").read_text(encoding="utf-8")
  assert len(text.splitlines()) <= 180
  for page in (*PAGES, *MORE):
    place = (ROOT / page).parent
    words = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)#][^)]*)\)", words):
      assert target.startswith("https://") or (place / target.partition("#")[0]).exists(), (page, target)
