"""The report in a real browser: what moves, what is seen; with keys, without scripts, narrow and wide."""

import contextlib
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from test_report import FRAMES, METHODS, SIZE, fail, picture, write_run

from diffinv.report import page as report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[test]'")
expect = playwright.expect
PATIENCE = 60_000  # milliseconds that a busy machine may take for what is there at once elsewhere
expect.set_options(timeout=PATIENCE)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--force-color-profile=srgb",  # bytes of pictures are those of the screen
)
WIDE, NARROW = {"width": 1600, "height": 1000}, {"width": 360, "height": 800}
AA = 4.5  # contrast that WCAG 2.1 asks of text, 3 for large text

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium was found on the path: apt-get install chromium")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
  return report.write(write_run(tmp_path_factory.mktemp("browser") / "run")).as_uri()


@contextlib.contextmanager
def launched_browser():
  """Give a browser without a window."""
  with playwright.sync_playwright() as driver:
    browser = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=list(FLAGS))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def browser():
  with launched_browser() as browser:
    yield browser


@pytest.fixture
def visit(browser, address):
  """Open the page; at the end, check that nothing was complained about and nothing was loaded."""
  contexts, complaints, loaded = [], [], []

  def open_page(viewport=WIDE, at=address, **options):
    context = browser.new_context(viewport=viewport, **options)
    context.set_default_timeout(PATIENCE)
    contexts.append(context)
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: loaded.append(request.url))
    page.goto(at)
    return page

  yield open_page
  for context in contexts:
    context.close()
  assert complaints == []
  assert [url for url in loaded if not url.startswith(("file:", "data:"))] == []


def settled(page):
  """Wait until every picture shows what was asked for, all at the same moment: a chain that plays asks for others."""
  page.wait_for_function(
    """() => [...document.querySelectorAll("#pictures canvas[data-wanted]")]
      .every((canvas) => canvas.dataset.shown === canvas.dataset.wanted)"""
  )
  return page


def choose(page, name, value):
  page.locator(f'input[name="{name}"][value="{value}"]').check(force=True)  # the label covers it
  return settled(page)


def seen(page, place, selector="#stage"):
  """Return the color at a relative place (x, y) of an element as it is on the screen."""
  shot = Image.open(io.BytesIO(page.locator(selector).screenshot())).convert("RGB")
  return shot.getpixel((int(place[0] * shot.width), int(place[1] * shot.height)))


def drawn(page, selector):
  """Return the pixels of a canvas."""
  canvas = page.locator(selector).first
  values = canvas.evaluate("c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]")
  return np.array(values, np.uint8).reshape(SIZE, SIZE, 4)[..., :3]


def tile(title):
  return f'#tiles figure:has(.name:text-is("{title}")) canvas'


def pixel_of(pixels, place):
  return tuple(int(v) for v in pixels[int(place[1] * SIZE), int(place[0] * SIZE)])


SPOT = (0.72, 0.28)  # within a pixel, away from the divider's handle


def compare_truth_with_sample(page):
  page.locator("#left").select_option("truth")
  page.locator("#right").select_option("2:sample:1")
  return settled(page)


LEFT, RIGHT = picture(0), picture(100 + 20 + 1)  # of image a, task 0


@pytest.mark.slow
def test_page_opens_with_pictures_and_numbers(visit):
  page = settled(visit())
  expect(page.locator("h1")).to_have_text("3 methods on 2 inverse problems")
  expect(page.locator("#tiles figure")).to_have_count(5)
  np.testing.assert_array_equal(drawn(page, tile("DDRM")), picture(110))
  np.testing.assert_array_equal(drawn(page, tile("Truth")), LEFT)
  expect(page.locator("#right")).to_have_value("0:sample:0")  # the best of the picture
  expect(page.locator("table.sortable").first).to_be_visible()


def test_divider_moves_with_keys_and_shows_the_other_picture(visit):
  page = compare_truth_with_sample(visit())
  divider = page.locator("#divider")
  assert seen(page, SPOT) == pixel_of(RIGHT, SPOT)
  divider.focus()
  page.keyboard.press("ArrowRight")
  expect(divider).to_have_attribute("aria-valuenow", "52")
  page.keyboard.press("PageUp")
  expect(divider).to_have_attribute("aria-valuenow", "62")
  assert seen(page, SPOT) == pixel_of(RIGHT, SPOT)
  page.keyboard.press("End")
  expect(divider).to_have_attribute("aria-valuenow", "100")
  assert seen(page, SPOT) == pixel_of(LEFT, SPOT)
  page.keyboard.press("Home")
  page.keyboard.press("ArrowLeft")
  expect(divider).to_have_attribute("aria-valuetext", "0 % Truth, the rest ΠGDM, sample 2")


def test_divider_moves_with_the_pointer(visit):
  page = compare_truth_with_sample(visit())
  page.locator("#stage").scroll_into_view_if_needed()
  box = page.locator("#stage").bounding_box()
  x = lambda part: box["x"] + part * box["width"]
  middle = box["y"] + box["height"] / 2
  page.mouse.move(x(0.5), middle)
  page.mouse.down()
  page.mouse.move(x(0.9), middle, steps=3)
  assert seen(page, SPOT) == pixel_of(LEFT, SPOT)
  page.mouse.up()
  expect(page.locator("#divider")).to_have_attribute("aria-valuenow", "90")
  page.mouse.move(x(0.2), middle)  # no button is held any more
  expect(page.locator("#divider")).to_have_attribute("aria-valuenow", "90")
  page.mouse.click(x(0.3), middle)
  expect(page.locator("#divider")).to_have_attribute("aria-valuenow", "30")


def test_divider_moves_by_touch(visit):
  page = compare_truth_with_sample(visit(NARROW, has_touch=True, is_mobile=True))
  page.locator("#stage").scroll_into_view_if_needed()
  box = page.locator("#stage").bounding_box()
  page.touchscreen.tap(box["x"] + 0.8 * box["width"], box["y"] + 0.5 * box["height"])
  expect(page.locator("#divider")).to_have_attribute("aria-valuenow", re.compile("^(79|80|81)$"))


def test_tile_goes_to_either_side(visit):
  page = settled(visit())
  page.get_by_role("button", name="Put ΠGDM, sample 1 on the left").click()
  expect(page.locator("#left")).to_have_value("2:sample:0")
  np.testing.assert_array_equal(drawn(settled(page), "#left-picture"), picture(120))
  page.locator("#swap").click()
  expect(page.locator("#right")).to_have_value("2:sample:0")
  expect(page.get_by_role("button", name="Put ΠGDM, sample 1 on the right")).to_have_attribute("aria-pressed", "true")


def test_task_and_picture_are_chosen(visit):
  page = choose(settled(visit()), "task", 1)
  expect(page.locator("#tiles figure")).to_have_count(4)
  expect(page.locator("#absent")).to_contain_text("DDRM: ddrm: expected an operator whose SVD is known")
  np.testing.assert_array_equal(drawn(page, tile("DPS")), picture(150))
  choose(page, "image", 1)
  np.testing.assert_array_equal(drawn(page, tile("Truth")), picture(1))
  expect(page.locator(tile("DPS"))).to_have_attribute("aria-label", "DPS, sample 1, 32.00 dB, Motion deblurring, b")


def test_views_show_mean_deviation_and_all_samples(visit):
  page = choose(settled(visit()), "view", "mean")
  np.testing.assert_array_equal(drawn(page, tile("DPS")), picture(300))
  choose(page, "view", "all")
  expect(page.locator(tile("DPS"))).to_have_count(4)
  choose(page, "view", "spread")
  ends = drawn(page, tile("DPS")).astype(int)
  assert ends[0, 0].sum() < 20 and ends[-1, -1].sum() > 550  # the ends of the color map
  expect(page.locator("#scale-end")).to_have_text("0.2")
  assert page.locator("#error").is_disabled()


def test_error_map_is_dark_where_the_error_is_small(visit):
  page = settled(visit())
  page.locator("#error").check()
  shown = drawn(settled(page), tile("DPS")).astype(int).sum(axis=-1)
  error = np.abs(picture(100).astype(int) - LEFT).sum(axis=-1)
  expect(page.locator("#scale")).to_be_visible()
  order = np.argsort(error, axis=None)
  assert shown.flat[order[:10]].mean() < shown.flat[order[118:138]].mean() < shown.flat[order[-10:]].mean()
  expect(page.locator("#right")).to_have_value("0:error:0")  # the desk follows


def test_zoom_is_of_all_pictures(visit):
  page = settled(visit())
  page.locator("#in").click()
  page.locator("#in").click()
  expect(page.locator("#zoom")).to_have_text("4×")
  transforms = page.locator("#pictures .frame canvas").evaluate_all(
    "all => all.map(c => getComputedStyle(c).transform)"
  )
  assert all(transform.startswith("matrix(4, 0, 0, 4, ") for transform in transforms)
  spot = (0.3, 0.3)  # of the picture's middle quarter
  wanted = pixel_of(picture(110), (0.375 + 0.3 / 4, 0.375 + 0.3 / 4))
  frame = '#tiles figure:has(.name:text-is("DDRM")) .frame'
  assert seen(page, spot, frame) == wanted
  page.locator('[data-move="-1 0"]').click()
  assert seen(page, spot, frame) == pixel_of(picture(110), (0.3125 + 0.3 / 4, 0.375 + 0.3 / 4))
  page.locator(frame).dblclick()
  expect(page.locator("#zoom")).to_have_text("1×")
  assert page.locator('[data-move="-1 0"]').is_disabled()


@pytest.mark.slow
def test_chain_plays_to_its_end(visit):
  page = choose(settled(visit()), "view", "steps")
  expect(page.locator("#frame-words")).to_have_text("100 % of the steps")
  expect(page.locator("#play")).to_have_text("Replay")
  last = drawn(settled(page), tile("DPS"))
  page.locator("#frame").focus()
  page.keyboard.press("Home")
  expect(page.locator("#frame-words")).to_have_text("0 % of the steps")
  first = drawn(settled(page), tile("DPS"))
  near = lambda a, b: np.abs(a.astype(int) - b).mean()
  # Chains are stored with loss, which is large for noise.
  assert near(first, picture(1000)) < near(first, picture(1000 + FRAMES - 1))
  assert near(last, picture(1000 + FRAMES - 1)) < near(last, picture(1000))
  page.locator("#play").click()
  expect(page.locator("#frame-words")).not_to_have_text("0 % of the steps")


def test_chain_waits_for_who_wants_less_motion(visit):
  page = choose(settled(visit(reduced_motion="reduce")), "view", "steps")
  expect(page.locator("#play")).to_have_text("Replay")
  expect(page.locator("#frame-words")).to_have_text("100 % of the steps")
  page.locator("#play").click()
  expect(page.locator("#play")).to_have_text("Pause")
  page.locator("#play").click()
  expect(page.locator("#play")).to_have_text("Play")


def order(page):
  return page.locator(".panel:visible tbody th").all_inner_texts()


def test_table_is_sorted_by_mouse_and_keys(visit):
  page = visit()
  heading = lambda name: page.locator(".panel:visible thead th").filter(has_text=name)
  expect(heading("PSNR").first).to_have_attribute("aria-sort", "descending")
  assert order(page) == ["DPS", "DDRM", "ΠGDM"]
  heading("Time").get_by_role("button").click()
  expect(heading("Time")).to_have_attribute("aria-sort", "ascending")
  expect(page.locator(".panel:visible [aria-sort]")).to_have_count(1)
  assert order(page) == ["DDRM", "DPS", "ΠGDM"]
  heading("Method").get_by_role("button").focus()
  page.keyboard.press("Enter")
  assert order(page) == ["DDRM", "DPS", "ΠGDM"]
  page.keyboard.press("Space")
  expect(heading("Method")).to_have_attribute("aria-sort", "descending")
  assert order(page) == ["ΠGDM", "DPS", "DDRM"]
  heading("Memory").get_by_role("button").click()
  assert order(page)[0] == "DPS"  # unknown values last
  heading("Memory").get_by_role("button").click()
  assert order(page)[0] == "DPS"


def test_tables_of_tasks_are_one_key_away(visit):
  page = visit()
  expect(page.locator(".panel:visible h3")).to_have_text("All tasks")
  page.locator('input[name="panel"]').first.focus()
  page.keyboard.press("ArrowRight")
  expect(page.locator(".panel:visible h3")).to_have_text("Inpainting, box")


@pytest.mark.slow
def test_theme_follows_the_system_until_it_is_chosen(visit):
  background = lambda page: page.evaluate("getComputedStyle(document.body).backgroundColor")
  light, dark = "rgb(255, 255, 255)", "rgb(17, 19, 24)"
  page = visit(color_scheme="dark")
  assert background(page) == dark
  page.emulate_media(color_scheme="light")
  assert background(page) == light
  page.get_by_role("button", name="Switch to the dark theme").click()
  assert background(page) == dark
  page.reload()
  assert background(page) == dark
  page.get_by_role("button", name="Switch to the light theme").click()
  page.emulate_media(color_scheme="dark")
  assert background(page) == light


@pytest.mark.parametrize("view", ["sample", "all", "steps"])
@pytest.mark.parametrize("viewport", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.slow
def test_page_is_as_wide_as_the_window(visit, viewport, view):
  page = choose(settled(visit(viewport, reduced_motion="reduce")), "view", view)
  assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]


def test_long_names_do_not_widen_the_page(visit, tmp_path):
  """160 letters without a place to break, as `compare` may name a picture."""

  def change(plan):
    plan["images"].append({**plan["images"][0], "name": "x" * 160, "source": f"{'y' * 200}.png"})

  page = settled(visit(NARROW, at=report.write(write_run(tmp_path / "run", change=change)).as_uri()))
  assert page.evaluate("document.documentElement.scrollWidth") == NARROW["width"]


@pytest.mark.slow
def test_table_sorts_a_misfit_by_how_far_it_is_from_one(visit, tmp_path):
  folder = write_run(tmp_path / "run")
  lines = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
  found = {"dps": 4.0, "ddrm": 0.5, "pigdm": 1.1}
  rows = [{**line, "chi2": [found[line["method"]]]} for line in lines]
  (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  page = visit(at=report.write(folder).as_uri())
  page.locator(".panel:visible thead th").filter(has_text="χ²").get_by_role("button").click()
  assert order(page) == ["ΠGDM", "DDRM", "DPS"]


def test_tables_and_figures_need_no_script(visit):
  page = visit(java_script_enabled=False)
  assert page.locator("table.sortable").count() == 3
  assert all(table.is_visible() for table in page.locator("table").all())
  assert page.locator(".drawing svg").count() == 7
  assert all(svg.is_visible() for svg in page.locator(".drawing svg").all())
  assert page.locator(".card img").first.is_visible()
  assert page.locator("#without").is_visible()
  for hidden in ("#pictures", "#theme", "#panels", "#copy", ".look >> nth=0"):
    assert not page.locator(hidden).is_visible()


def test_comparison_that_has_just_begun_opens_without_pictures(visit, tmp_path):
  folder = write_run(tmp_path / "run")
  (folder / "rows.jsonl").unlink()
  (folder / "results.json").unlink()
  page = visit(at=report.write(folder).as_uri())
  expect(page.get_by_text("Incomplete.")).to_be_visible()
  expect(page.locator("#pictures")).to_be_hidden()


def test_comparison_that_is_going_shows_what_there_is(visit, tmp_path):
  folder = write_run(tmp_path / "run")
  (folder / "results.json").unlink()
  lines = (folder / "rows.jsonl").read_text().splitlines(keepends=True)
  (folder / "rows.jsonl").write_text("".join(lines[:3]))  # DPS on a and b, DDRM on a
  page = settled(visit(at=report.write(folder).as_uri()))
  expect(page.locator("#absent")).to_have_text("Not finished: ΠGDM.")
  assert page.locator('input[name="task"][value="1"]').is_disabled()
  choose(page, "image", 1)
  expect(page.locator("#absent")).to_have_text("Not finished: DDRM, ΠGDM.")


def test_method_that_failed_is_named_beside_the_others(visit, tmp_path):
  folder = write_run(tmp_path / "run")
  fail(folder, "inpaint_box", "ddrm", ["a"])
  page = settled(visit(at=report.write(folder).as_uri()))
  expect(page.locator("#absent")).to_have_text("DDRM failed: NaN or infinity in 1 of 4 chains.")
  choose(page, "image", 1)
  expect(page.locator("#absent")).to_have_text("")


def test_wild_titles_stay_text(visit, tmp_path):
  evil = '</script><img src=x onerror="document.title=1">'

  def change(plan):
    plan["methods"][0]["title"] = plan["tasks"][0]["title"] = evil

  page = settled(visit(at=report.write(write_run(tmp_path / "run", change=change)).as_uri()))
  expect(page.locator(".card h3").first).to_have_text(evil)
  expect(page.locator("#tiles figure .name").nth(2)).to_have_text(evil)
  assert page.locator("img[src=x]").count() == 0 and page.title() != "1"


# Every element that shows text of its own: its color against the first opaque background behind it.
CONTRASTS = """
() => {
  const numbers = (color) => (color.match(/[\\d.]+/g) ?? []).map(Number);
  const light = (color) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = numbers(color).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if ((numbers(color)[3] ?? 1) === 1) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !element.checkVisibility() || element.matches("script, noscript, :disabled, option")) continue;
    const style = getComputedStyle(element);
    const color = element instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(color), light(behind(element))].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const about = `${element.tagName}.${element.getAttribute("class")}: ${element.textContent.slice(0, 30)}`;
    found.push([(a + 0.05) / (b + 0.05), large, about]);
  }
  return found;
}
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.slow
def test_text_stands_out_from_its_background(visit, theme):
  page = choose(settled(visit(color_scheme=theme, reduced_motion="reduce")), "view", "steps")
  found = page.evaluate(CONTRASTS)
  assert len(found) > 150
  assert [entry for entry in found if entry[0] < (3.0 if entry[1] else AA)] == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.slow
def test_marks_of_methods_stand_out_from_the_page(visit, theme):
  """3 : 1, what WCAG asks of graphics."""
  page = visit(color_scheme=theme)
  value = "name => getComputedStyle(document.documentElement).getPropertyValue(name)"
  colors = [page.evaluate(value, name) for name in ("--paper", *(f"--series-{n}" for n in range(12)))]
  paper, *series = [luminance(color.strip()) for color in colors]
  assert all((max(paper, s) + 0.05) / (min(paper, s) + 0.05) >= 3 for s in series)


def luminance(color):
  linear = [
    v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in np.array(list(bytes.fromhex(color[1:]))) / 255
  ]
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# Of the focused element: what it is called, and whether it, the label beside it or its handle has an outline.
OUTLINED = """
(element) => {
  const styles = [element, element.nextElementSibling].filter(Boolean).map((e) => getComputedStyle(e));
  const outlined = (style) => parseFloat(style.outlineWidth) > 0 && style.outlineStyle !== "none";
  const shown = [...styles, getComputedStyle(element, "::after")].some(outlined);
  return [element.id || element.name || element.className, shown];
}
"""


@pytest.mark.slow
def test_everything_that_acts_has_a_name_and_shows_its_focus(visit):
  page = settled(visit())
  names = page.locator("button, select, input, [role=slider]").evaluate_all(
    "all => all.filter(e => e.checkVisibility())"
    ".map(e => e.getAttribute('aria-label') || (e.labels?.[0] ?? e).textContent.trim())"
  )
  assert len(names) > 30 and all(names)
  assert page.locator("img:not([alt]), canvas:not([aria-label]):not([aria-hidden])").count() == 0
  page.keyboard.press("Tab")
  expect(page.locator(":focus")).to_have_text("Skip to the content")
  reached = set()
  for _ in range(120):
    page.keyboard.press("Tab")
    focused = page.locator(":focus")
    if focused.count() == 0:
      break
    about = focused.evaluate(OUTLINED)
    assert about[1], about
    reached.add(about[0])
  assert {
    "theme",
    "task",
    "image",
    "view",
    "error",
    "left",
    "right",
    "divider",
    "in",
    "panel",
    "copy",
    "scroll",
  } <= reached


def test_method_that_is_pointed_at_stands_out(visit):
  page = visit()
  page.locator(".panel:visible tbody tr").filter(has_text=METHODS[1]["title"]).hover()
  expect(page.locator('.drawing [data-series="0"]').first).to_have_class("series faint")
  expect(page.locator('.drawing [data-series="1"]').first).to_have_class("series")
  page.locator("h1").hover()
  expect(page.locator(".faint")).to_have_count(0)
