"""How the site is built: `make docs`, which calls Sphinx with what stands here. It loads nothing from elsewhere."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "_ext"))

import diffinv  # noqa: E402


def _commit() -> str:
  """Return the commit that the site is built from, or an empty text outside a clone."""
  asked = ["git", "-C", str(ROOT), "describe", "--always", "--tags", "--dirty"]
  try:
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return ""


project = "diffinv"
author = "The diffinv developers"
copyright = "The diffinv developers"
version = release = diffinv.__version__
html_title = f"diffinv {release}"

extensions = [
  "myst_nb",
  "sphinx.ext.autodoc",
  "sphinx.ext.napoleon",
  "sphinx_copybutton",
  "sphinx_design",
  "sphinx.ext.mathjax",
  "site_pages",
]
exclude_patterns = ["_ext", "_made", "**/.ipynb_checkpoints"]
suppress_warnings = [
  "toc.empty_glob",  # pages that a part of the project does not have yet
  "toc.not_included",  # images and tables of a page may be pages of their own
]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "amsmath", "attrs_inline", "substitution"]
myst_heading_anchors = 3
myst_substitutions = {"version": release, "commit": _commit() or "none"}

# Every page with cells is run, in a kernel of its own; an error in a cell ends the build.
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_merge_streams = True
nb_output_stderr = "show"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / "out" / "site-cache"))
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "docs" / "course")])
os.environ["PATH"] = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ.get("PATH", "")])

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_use_rtype = False
default_role = "literal"
# Types of other libraries, and of annotations that name no page: nothing is looked up elsewhere.
nitpick_ignore_regex = [("py:.*", r".*")]

html_theme = "furo"
html_static_path = ["_static"]
html_favicon = "_static/icon.svg"
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_last_updated_fmt = None
html_theme_options = {
  "source_repository": "https://github.com/diffinv/diffinv/",
  "source_branch": "main",
  "source_directory": "docs/",
  "top_of_page_buttons": [],
}
copybutton_exclude = ".linenos, .gp, .go"
