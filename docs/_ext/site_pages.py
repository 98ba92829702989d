"""What the site takes from the package when it is built: docstrings, options, flags, tables and links.

Directives of MyST pages:

  options CLASS     a table of the options of a configuration: name, meaning, bounds, default
  command NAME      the flags of a command, as `diffinv NAME --help` has them
  paper METHOD      how y enters a method, and its source
  marks             a table of the marks of a comparison
  rooms             the drawing of the architecture, made from the imports
  run [sh|python]   commands that are run when the site is built, in a folder of the page, with what they print
  shown             pictures of that folder, `file | caption | words for those who cannot see it` a line
"""

import ast
import html
import importlib
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap

from docutils import nodes
from docutils.parsers.rst import Directive

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCE = "https://github.com/diffinv/diffinv/blob/main/"
# Files beside docs/ that are pages of the site.
PAGES = {
  "../README.md#methods": "choose.md#all-of-them",
  "../README.md": "index.md",
  "../CONTRIBUTING.md": "contributing.md",
  "../CHANGELOG.md": "changes.md",
  "../checkpoints/README.md": "shipped.md",
}
SPAN = re.compile(r"(``.*?``|`[^`]+`(?:__?)?)")
SPECIAL = re.compile(r"([\\*|]|_(?=\W|$))")


def relink(app, docname: str, source: list[str]) -> None:
  """Lead links to files beside docs/ to their page, or to the repository; list no pages that are not there."""
  up = "../" * docname.count("/")

  def target(found):
    path = found[1]
    if path in PAGES:
      return f"]({up}{PAGES[path]})"
    if docname.count("/") == 0 and path.startswith("../"):
      return f"]({SOURCE}{path[3:]})"
    return found[0]

  def kept(found):
    return found[0] if any(pathlib.Path(app.srcdir).glob(f"{found[1]}.md")) else ""

  source[0] = re.sub(r"\]\((\.\./[^)\s]+)\)", target, source[0])
  source[0] = re.sub(r"^([\w/]+\*)\n", kept, source[0], flags=re.M)  # pages that are not there in any case


def escape(app, what, name, obj, options, lines: list[str]) -> None:
  """Make a docstring, which is plain text with names in backticks, what reStructuredText reads as the same."""
  del app, what, name, obj, options
  example = False
  for number, line in enumerate(lines):
    example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
    if not example:
      parts = SPAN.split(line)
      parts[::2] = [SPECIAL.sub(r"\\\1", part) for part in parts[::2]]
      parts[1::2] = [part if part.startswith("``") else f"`{part.rstrip('_')}`" for part in parts[1::2]]
      lines[number] = "".join(parts)


def named(path: str):
  """Return the object of a dotted path."""
  module, _, name = path.rpartition(".")
  return getattr(importlib.import_module(module), name)


def table(head: tuple[str, ...], rows: list[tuple[nodes.Node, ...]], widths: tuple[int, ...]) -> nodes.table:
  """Return a table of paragraphs."""
  made, group = nodes.table(), nodes.tgroup(cols=len(head))
  group += [nodes.colspec(colwidth=width) for width in widths]
  header, body = nodes.thead(), nodes.tbody()
  for part, lines in ((header, [tuple(nodes.paragraph(text=word) for word in head)]), (body, rows)):
    for line in lines:
      row = nodes.row()
      row += [nodes.entry("", cell) for cell in line]
      part += row
  group += [header, body]
  made += group
  return made


def prose(text: str) -> nodes.paragraph:
  """Return a paragraph of plain text with names in backticks."""
  made = nodes.paragraph()
  for number, part in enumerate(re.split(r"`([^`]+)`", " ".join(text.split()))):
    made += nodes.literal(text=part) if number % 2 else nodes.Text(part)
  return made


def code(text: str) -> nodes.paragraph:
  """Return a paragraph of code."""
  return nodes.paragraph("", "", nodes.literal(text=text))


class Options(Directive):
  """The options of a configuration class."""

  required_arguments = 1

  def run(self):
    """Return the table."""
    from diffinv import options
    from diffinv.apps.flags import described

    rows = []
    for name, (field, about) in options.options(named(self.arguments[0])).items():
      default = "required" if not _has_default(field) else repr(field.default)
      rows.append((code(name), prose(described(about.help, options.kind(field), about)), code(shortened(default))))
    return [table(("option", "meaning", "default"), rows, (20, 60, 20))]


def _has_default(field) -> bool:
  import dataclasses

  return field.default is not dataclasses.MISSING


def shortened(text: str, most: int = 60) -> str:
  """Return a text of at most so many letters."""
  return text if len(text) <= most else f"{text[: most - 4]} ..."


class Command(Directive):
  """The flags of a command, made from the flags."""

  required_arguments = 1

  def run(self):
    """Return the command's own words and a table of its flags."""
    from absl import flags

    from diffinv.apps.main import COMMANDS

    module = importlib.import_module(COMMANDS[self.arguments[0]][0])
    about = nodes.literal_block(text=(module.__doc__ or "").strip())
    about["language"] = "text"
    rows = []
    for place, defined in getattr(module, "FLAGS", flags.FLAGS).flags_by_module_dict().items():
      if place.startswith("diffinv"):
        rows += [flag_row(flag) for flag in defined]
    return [about, *([table(("flag", "meaning", "default"), rows, (25, 55, 20))] if rows else [])]


def flag_row(flag) -> tuple[nodes.Node, ...]:
  """Return a flag's name, meaning with choices, and default."""
  choices = getattr(flag.parser, "enum_values", None)
  text = f"One of {', '.join(choices)}: {flag.help}" if choices else flag.help
  default = "" if flag.default in (None, []) else (flag.default_as_str or "").strip("'")
  name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
  return code(name), prose(text), code(default) if default else nodes.paragraph(text="not set")


class Paper(Directive):
  """How y enters a method, and where it is from."""

  required_arguments = 1

  def run(self):
    """Return a paragraph."""
    from diffinv.methods import METHODS, needs

    method = METHODS[self.arguments[0]]
    return [prose(f"{method.title}, {method.citation}. How y enters: {method.entering}. Operators: {needs(method)}.")]


class Marks(Directive):
  """The marks of a comparison, made from their table."""

  def run(self):
    """Return the table."""
    from diffinv.metrics.table import HIGH, LOW, marks

    better = {HIGH: "higher", LOW: "lower"}
    rows = [
      (code(mark.key), prose(mark.meaning), nodes.paragraph(text=better.get(mark.better, "nearer to 1")))
      for mark in marks()
    ]
    return [table(("key", "meaning", "better"), rows, (25, 60, 15))]


MADE = "_made"  # in the source folder, where Sphinx looks for pictures; git ignores it


def work(srcdir, docname: str) -> pathlib.Path:
  """Return the folder in which the commands of a page run."""
  return pathlib.Path(srcdir) / MADE / docname


def forget(app, env, docname: str) -> None:
  """Remove what the commands of a page wrote, before the page is read again."""
  del env
  shutil.rmtree(work(app.srcdir, docname), ignore_errors=True)


PROGRESS = re.compile(r"^ *\d+% .* left$")  # what a terminal draws over
LONGEST = 96  # letters of a line that is no table


def printed_lines(text: str) -> str:
  """Return what a command printed without its progress, its notes in lines that fit the page."""
  lines = [line for line in text.strip("\n").splitlines() if not PROGRESS.match(line)]
  folded = [textwrap.wrap(line, LONGEST) if line.startswith(("note:", "warning:")) else [line] for line in lines]
  return "\n".join(line for part in folded for line in part)


class Run(Directive):
  """Commands, or Python, that are run in the page's folder; shown with what they print."""

  optional_arguments = 1
  has_content = True

  def run(self):
    """Run them; return two blocks."""
    language = self.arguments[0] if self.arguments else "sh"
    text = "\n".join(self.content)
    env = self.state.document.settings.env
    folder = work(env.srcdir, env.docname)
    folder.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-c", text] if language == "python" else ["sh", "-e", "-c", text]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
      argv, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
    )
    said = printed_lines(done.stdout.decode().replace(str(folder) + "/", ""))
    if done.returncode:
      raise self.error(f"status {done.returncode} of:\n{text}\n{said}")
    block = nodes.literal_block(text=text)
    block["language"] = language
    printed = nodes.literal_block(text=said, classes=["printed"])
    printed["language"] = "text"
    return [block, printed] if said else [block]


class Shown(Directive):
  """Pictures that the commands of the page wrote, side by side where there is room."""

  has_content = True

  def run(self):
    """Return a figure a line."""
    env = self.state.document.settings.env
    pair = nodes.container(classes=["pair"])
    for line in self.content:
      path, caption, words = (part.strip() for part in line.split("|"))
      if not (work(env.srcdir, env.docname) / path).is_file():
        raise self.error(f"expected a picture that a command of the page wrote, got {path}")
      image = nodes.image(uri=f"/{MADE}/{env.docname}/{path}", alt=words)
      pair += nodes.figure("", image, nodes.caption(text=caption))
    return [pair]


# The drawing of the rooms: the work above, the theory below, each with what it asks.
FLOORS = (
  ("the work", (("apps", "What was asked for?"), ("report", "What does it look like?"))),
  ("", (("studies", "Which runs, which results?"), ("training", "How is a prior made?"))),
  ("", (("verification", "Is it right?"), ("metrics", "How good is it?"), ("baselines", "And without a network?"))),
  ("the theory", (("methods", "How does y enter?"), ("blind", "What is not known of y?"))),
  ("", (("operators", "What was measured?"), ("priors", "What is known of pictures?"))),
  ("", (("nets", "Which networks know it?"), ("data", "Which pictures?"))),
  ("the words", (("root", "schedules, noise, problems, sampler, batch, tasks; errors, options, output, files, ..."),)),
)
WIDTH, HEIGHT, GAP, LEFT = 760, 58, 26, 96


def imports() -> dict[str, set[str]]:
  """Return which rooms each room imports from, read from the code."""
  found: dict[str, set[str]] = {}
  for path in (ROOT / "diffinv").rglob("*.py"):
    parts = path.relative_to(ROOT / "diffinv").parts
    here = parts[0] if len(parts) > 1 else "root"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
      if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "diffinv":
        inner = node.module.split(".")[1:2]
        for name in inner or [alias.name for alias in node.names]:
          found.setdefault(here, set()).add(name if (ROOT / "diffinv" / name).is_dir() else "root")
  return {room: others - {room} for room, others in found.items()}


def places() -> dict[str, tuple[float, float, float, str]]:
  """Return left, top, width and question of every room's box."""
  found = {}
  for floor, (_, rooms) in enumerate(FLOORS):
    width = (WIDTH - LEFT - GAP * (len(rooms) - 1)) / len(rooms)
    for number, (name, question) in enumerate(rooms):
      found[name] = (LEFT + number * (width + GAP), 8 + floor * (HEIGHT + GAP), width, question)
  return found


def drawing() -> str:
  """Return the architecture as SVG: a box a room, a line an import from a room to one below."""
  boxes, lines, texts = [], [], []
  where = places()
  for room, others in sorted(imports().items()):
    for other in sorted(others - {"root"}):
      if room in where and other in where:
        (x1, y1, w1, _), (x2, y2, w2, _) = where[room], where[other]
        ends = (y1 + HEIGHT, y2) if y1 < y2 else (y1 + HEIGHT / 2, y2 + HEIGHT / 2)
        lines.append(f'<line x1="{x1 + w1 / 2:.0f}" y1="{ends[0]}" x2="{x2 + w2 / 2:.0f}" y2="{ends[1]}"/>')
  for name, (x, y, width, question) in where.items():
    boxes.append(f'<rect x="{x:.0f}" y="{y}" width="{width:.0f}" height="{HEIGHT}" rx="6"/>')
    title = "diffinv/*.py" if name == "root" else f"{name}/"
    texts.append(f'<text class="room" x="{x + width / 2:.0f}" y="{y + 24}">{title}</text>')
    texts.append(f'<text x="{x + width / 2:.0f}" y="{y + 44}">{html.escape(question)}</text>')
  for floor, (word, _) in enumerate(FLOORS):
    texts.append(f'<text class="floor" x="0" y="{8 + floor * (HEIGHT + GAP) + 34}">{word}</text>')
  tall = 8 + len(FLOORS) * (HEIGHT + GAP)
  label = "The rooms of diffinv from the work at the top to the theory at the bottom; lines are imports, all downward"
  return (
    f'<div class="rooms"><svg viewBox="0 0 {WIDTH} {tall}" role="img" aria-label="{label}">'
    f"<g>{''.join(lines)}</g>{''.join(boxes)}{''.join(texts)}</svg></div>"
  )


class Rooms(Directive):
  """The drawing of the architecture."""

  def run(self):
    """Return the drawing."""
    return [nodes.raw("", drawing(), format="html")]


def spread(app, env, docnames: list[str]) -> None:
  """Order the pages so that two processes share those that run something."""
  del env
  from sphinx.util.parallel import make_chunks

  runs = {name for name in docnames if re.search(r"\{(run|code-cell)\}", _text(app.srcdir, name))}
  heavy, light = sorted(runs), [name for name in docnames if name not in runs]
  ordered = []
  for part, chunk in zip((heavy[::2], heavy[1::2]), make_chunks(docnames, app.parallel)[:2]):
    beside = max(len(chunk) - len(part), 0)
    ordered += [*part, *light[:beside]]
    del light[:beside]
  docnames[:] = [*ordered, *light, *(name for name in heavy if name not in ordered)]


def _text(srcdir, docname: str) -> str:
  page = pathlib.Path(srcdir) / f"{docname}.md"
  return page.read_text(encoding="utf-8") if page.is_file() else ""


MATHJAX = "mathjax"  # the folder of the site


def copy_mathjax(app, error) -> None:
  """Put the script and the fonts of formulas into the site, without what only its speech needs."""
  if error is None and app.builder.format == "html":
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    source = pathlib.Path(package.origin).parent / "static" / "mathjax"
    left_out = shutil.ignore_patterns("sre", "a11y", "*svg*", "*full*", "mml*", "node-main.js", "latest.js")
    shutil.copytree(source, pathlib.Path(app.outdir) / "_static" / MATHJAX, ignore=left_out, dirs_exist_ok=True)


def setup(app):
  """Register what is above with Sphinx."""
  app.config.mathjax_path = f"{MATHJAX}/tex-chtml.js"
  app.connect("build-finished", copy_mathjax)
  app.connect("source-read", relink)
  app.connect("env-before-read-docs", spread)
  app.connect("env-purge-doc", forget)
  app.connect("autodoc-process-docstring", escape, priority=100)
  directives = {
    **{"options": Options, "command": Command, "paper": Paper, "marks": Marks},
    **{"rooms": Rooms, "run": Run, "shown": Shown},
  }
  for name, directive in directives.items():
    app.add_directive(name, directive)
  return {"parallel_read_safe": True, "parallel_write_safe": True}
