"""The site that `make docs` built, in a real browser: every page, narrow and wide, light and dark, and the search.

The site is in out/site, or where the variable DIFFINV_SITE says. Where it was not built, these tests are skipped.
"""

import functools
import http.server
import os
import pathlib
import threading

import pytest
from test_report_browser import CHROMIUM, PATIENCE, launched_browser

ROOT = pathlib.Path(__file__).resolve().parent.parent
SITE = pathlib.Path(os.environ.get("DIFFINV_SITE", ROOT / "out" / "site"))
PAGES = sorted(page.relative_to(SITE).as_posix() for page in SITE.rglob("*.html") if "_" not in page.parts[0][:1])
WIDE, NARROW = {"width": 1400, "height": 900}, {"width": 400, "height": 800}

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(CHROMIUM is None, reason="no Chromium was found on the path: apt-get install chromium"),
  pytest.mark.skipif(not PAGES, reason=f"no site was found in {SITE}: make docs"),
]

# What a page says of itself: its links within the site, the names that may be linked to, pictures, and what is cut off.
SAID = """
() => ({
  links: [...document.links].map((a) => a.href).filter((href) => href.startsWith(location.origin)),
  names: [...document.querySelectorAll("[id]")].map((e) => e.id),
  silent: [...document.images].filter((i) => !(i.getAttribute("alt") ?? "").trim()).map((i) => i.src),
  broken: [...document.images].filter((i) => i.loading !== "lazy" && !i.naturalWidth).map((i) => i.src),
  untold: [...document.querySelectorAll("article svg[role=img]:not([aria-label])")].length,
  headings: document.querySelectorAll("h1").length,
})
"""
WIDER = """
() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  return [...document.querySelectorAll("body *")]
    .filter((e) => e.getBoundingClientRect().right > width + 1 && e.checkVisibility())
    .map((e) => `${e.tagName}.${e.className}: ${e.textContent.slice(0, 40)}`).slice(0, 5);
}
"""


class Quiet(http.server.SimpleHTTPRequestHandler):
  """Serve files without a word."""

  def log_message(self, *_):
    """Say nothing."""


@pytest.fixture(scope="module")
def address():
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SITE)))
  threading.Thread(target=server.serve_forever, daemon=True).start()
  yield f"http://127.0.0.1:{server.server_port}"
  server.shutdown()


@pytest.fixture(scope="module")
def browser():
  with launched_browser() as browser:
    yield browser


def opened(browser, **options):
  """Return a page, and the lists of what it will complain about and ask for."""
  page = browser.new_context(**options).new_page()
  page.set_default_timeout(PATIENCE)
  complaints, asked = [], []
  page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
  page.on("pageerror", lambda error: complaints.append(str(error)))
  # What the page before had asked for, such as its icon, is given up when the next one is opened.
  failed = lambda request: complaints.append(f"failed: {request.url}") if request.url in asked else None
  page.on("requestfailed", failed)
  page.on("response", lambda response: complaints.append(response.url) if response.status >= 400 else None)
  page.on("request", lambda request: asked.append(request.url))
  return page, complaints, asked


@pytest.fixture(scope="module")
def visited(browser, address):
  """Open every page once, wide and then narrow; return what was seen, by page."""
  page, complaints, asked = opened(browser, viewport=WIDE)
  seen = {}
  for name in PAGES:
    complaints.clear(), asked.clear()
    page.set_viewport_size(WIDE)
    page.goto(f"{address}/{name}", wait_until="load")
    page.evaluate("() => window.MathJax?.startup?.promise?.then(() => null)")  # formulas are set
    wide = page.evaluate(WIDER)
    page.set_viewport_size(NARROW)
    seen[name] = {
      **page.evaluate(SAID),
      **{"wide": wide, "narrow": page.evaluate(WIDER), "complaints": [*complaints], "asked": [*asked]},
    }
  page.context.close()
  return seen


def found(visited, what):
  return {name: entry[what] for name, entry in visited.items() if entry[what]}


def test_no_page_complains(visited):
  assert found(visited, "complaints") == {}


def test_nothing_is_loaded_from_elsewhere(visited, address):
  elsewhere = lambda urls: [url for url in urls if not url.startswith((f"{address}/", "data:"))]
  assert {name: urls for name, entry in visited.items() if (urls := elsewhere(entry["asked"]))} == {}


def test_every_link_within_the_site_leads_to_a_place(visited, address):
  dead = []
  for name, entry in visited.items():
    for link in set(entry["links"]):
      path, _, anchor = link.removeprefix(f"{address}/").partition("#")
      path = path.partition("?")[0] or "index.html"
      there = path in visited or (SITE / path).is_file()
      if not there or (anchor and path in visited and anchor not in visited[path]["names"]):
        dead.append((name, path, anchor))
  assert dead == []


def test_every_picture_has_words_and_is_there(visited):
  assert found(visited, "silent") == {} and found(visited, "broken") == {} and found(visited, "untold") == {}


def test_every_page_has_one_title(visited):
  counts = {name: entry["headings"] for name, entry in visited.items() if name != "search.html"}
  assert {name for name, count in counts.items() if count != 1} == set()


def test_no_page_is_wider_than_the_screen(visited):
  assert found(visited, "wide") == {} and found(visited, "narrow") == {}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_the_page(browser, address, theme):
  """4.5 : 1, what WCAG asks of text."""
  from test_report_browser import AA, luminance

  page, _, _ = opened(browser, viewport=WIDE, color_scheme=theme)
  page.goto(f"{address}/index.html")
  value = "name => getComputedStyle(document.body).getPropertyValue(name)"
  names = ("background-primary", "foreground-primary", "foreground-secondary", "brand-content")
  shown = [
    page.evaluate(
      "color => { const c = document.createElement('canvas').getContext('2d'); c.fillStyle = color;"
      " return c.fillStyle; }",
      page.evaluate(value, f"--color-{name}").strip(),
    )
    for name in names
  ]
  paper, *inks = map(luminance, shown)
  assert all((max(paper, ink) + 0.05) / (min(paper, ink) + 0.05) >= AA for ink in inks)
  page.context.close()


def test_search_finds_a_name_and_a_word(browser, address):
  page, complaints, _ = opened(browser, viewport=WIDE)
  for word, wanted in (("sample_batch", "reference/sampling.html"), ("scratches", "jobs/fill.html")):
    page.goto(f"{address}/search.html?q={word}")
    page.wait_for_selector("ul.search li a")
    page.wait_for_load_state("networkidle")  # it fetches the pages that it found, which leaving would break off
    assert any(wanted in link for link in page.locator("ul.search li a").evaluate_all("all => all.map(a => a.href)"))
  assert complaints == []
  page.context.close()
