"""Figures as inline SVG that take their colors from the page: one drawing for light and dark.

Matplotlib draws with stand-ins for colors, which CSS variables replace: `var(--ink)`, and `var(--series-3)` for the
fourth series. Text stays text, in the page's font. What is drawn for a series is a group of class `series`.
"""

import io
import math
import re
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Stand-ins: the drawings use these colors for nothing else.
INK, MUTED, LINE, PAPER = "#010101", "#010102", "#010103", "#010104"
NAMES = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", PAPER: "var(--paper)"}
SERIES = 12  # colors that the page defines; further series start over with other markers
MARKERS = "os^DvPX<>ph"  # 11, coprime to the number of colors, so that a pair returns only after 132 series
STYLE: dict[Any, Any] = {
  "svg.fonttype": "none",
  "font.size": 11,  # points: of the drawing, whose width the page sets
  "axes.edgecolor": LINE,
  "axes.labelcolor": MUTED,
  "axes.linewidth": 1.0,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.axisbelow": True,
  "grid.color": LINE,
  "grid.linewidth": 0.6,
  "text.color": INK,
  "text.parse_math": False,
  "xtick.color": LINE,
  "ytick.color": LINE,
  "xtick.labelcolor": MUTED,
  "ytick.labelcolor": MUTED,
  "xtick.minor.bottom": False,
}
COST_SIZE = (5.0, 3.9)  # inches, of 72 CSS pixels where the page does not scale
COVERAGE_SIZE = (2.8, 2.75)
BESIDE = 0.022  # of the width of the axes, between points of the same cost
FEW = 8  # up to so many costs are ticks themselves
BETWEEN_TICKS = 0.09  # of the width of the axes, at the least
LONGEST = 22  # letters of a label
LETTER = 0.56  # mean width of a letter over the size of the text, a little more than in fonts


class Point(NamedTuple):
  """A method in a plane of cost and quality."""

  title: str
  series: int
  x: float  # cost, positive
  y: float  # quality, larger is better
  low: float | None  # of its interval
  high: float | None
  competes: bool = True  # whether its quality is of the same pictures as that of the others


def cost(points: Sequence[Point], x_label: str, y_label: str, name: str) -> str:
  """Draw quality against cost on a logarithmic axis, with the best quality at each cost as a line.

  Args:
    points: at least one.
    x_label: of the costs, with the unit.
    y_label: of the quality, with the unit.
    name: of the figure, unique on the page.

  Returns:
    SVG.
  """
  with matplotlib.rc_context(STYLE):
    figure = Figure(COST_SIZE, dpi=72, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("log")
    _limits(axes, points)
    places = _beside(points, axes)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(axis="y")
    best = frontier([point for point in points if point.competes])
    axes.step([p.x for p in best], [p.y for p in best], where="post", color=MUTED, linewidth=6, zorder=1, alpha=0.22)
    for point, x in zip(points, places):
      _draw_point(axes, point, x)
    figure.draw_without_rendering()  # the layout, which places the labels
    _label(axes, points, places)
    return _svg(figure, name)


def frontier(points: Sequence[Point]) -> list[Point]:
  """Return the points that no other beats at the same or a lower cost, in order of cost."""
  best: list[Point] = []
  for point in sorted(points, key=lambda p: (p.x, -p.y)):
    if not best or point.y > best[-1].y:
      best.append(point)
  return best


def coverage(
  levels: Sequence[float], mean: Sequence[float], tasks: Sequence[Sequence[float]], series: int, name: str
) -> str:
  """Draw empirical against nominal coverage: the mean over tasks, each task as a thin line, the diagonal.

  Args:
    levels: nominal, within (0, 1).
    mean: empirical, at each level.
    tasks: curves at the same levels.
    series: of the method, for its color.
    name: of the figure, unique on the page.

  Returns:
    SVG.
  """
  with matplotlib.rc_context(STYLE):
    figure = Figure(COVERAGE_SIZE, dpi=72)
    axes = figure.add_axes((0.18, 0.19, 0.68, 0.7), xlim=(0, 1), ylim=(0, 1))
    ticks = [0, 0.5, 1]
    axes.set_xticks(ticks, ["0", "50", "100 %"])
    axes.set_yticks(ticks, ["0", "50", "100"])
    axes.set_xlabel("should lie within", loc="left")
    axes.set_title("lies within", loc="left", fontsize=STYLE["font.size"], color=MUTED)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
    color = _color(series)
    for curve in tasks:
      axes.plot(levels, curve, color=color, linewidth=1, alpha=0.4)
    axes.fill_between(levels, mean, levels, color=color, alpha=0.14, linewidth=0)
    axes.plot(levels, mean, color=color, linewidth=2.5, marker="o", markersize=5, clip_on=False)
    axes.text(0.97, 0.03, "too sure", ha="right", va="bottom", color=MUTED, fontsize=10)
    axes.text(0.03, 0.97, "too unsure", ha="left", va="top", color=MUTED, fontsize=10)
    return _svg(figure, name)


def _limits(axes: Axes, points: Sequence[Point]) -> None:
  """Leave room for labels beside the outermost points; cut whiskers that are far longer than the points' range."""
  left, right = min(p.x for p in points), max(p.x for p in points)
  pad = max(0.12 * math.log10(right / left), 0.18)
  axes.set_xlim(left / 10**pad, right * 10 ** (1.6 * pad))
  bottom, top = min(p.y for p in points), max(p.y for p in points)
  room = max(top - bottom, 1.0)
  low = max(bottom - room, min(p.y if p.low is None else p.low for p in points))
  high = min(top + room, max(p.y if p.high is None else p.high for p in points))
  axes.set_ylim(low - 0.07 * room, high + 0.07 * room)
  axes.set_xticks(_ticks(sorted({p.x for p in points}), *axes.get_xlim()))
  axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:g}"))
  axes.xaxis.set_minor_locator(ticker.NullLocator())
  axes.yaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))


def _ticks(costs: Sequence[float], low: float, high: float) -> list[float]:
  """Return the ticks of a logarithmic axis: the costs themselves where they are few whole numbers."""
  if len(costs) <= FEW and all(cost == round(cost) for cost in costs):
    least = (high / low) ** BETWEEN_TICKS
    kept = list(costs[:1])
    for cost in costs[1:]:
      kept += [cost] if cost > kept[-1] * least else []
    return kept
  factors = (1, 2, 5) if math.log10(high / low) < 4 else (1,)
  exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
  return [f * 10.0**e for e in exponents for f in factors if low <= f * 10.0**e <= high]


def _beside(points: Sequence[Point], axes: Axes) -> list[float]:
  """Return where to draw points along x: those of about the same cost side by side, by cost and then quality."""
  low, high = axes.get_xlim()
  step = 10 ** (BESIDE * math.log10(high / low))
  groups: list[list[int]] = []
  for i in sorted(range(len(points)), key=lambda i: (points[i].x, -points[i].y)):
    if groups and points[i].x < points[groups[-1][0]].x * step:
      groups[-1].append(i)
    else:
      groups.append([i])
  places = [point.x for point in points]
  for group in (group for group in groups if len(group) > 1):
    center = math.exp(math.fsum(math.log(points[i].x) for i in group) / len(group))
    for rank, i in enumerate(group):
      places[i] = center * step ** (rank - (len(group) - 1) / 2)
  return places


def _draw_point(axes: Axes, point: Point, x: float) -> None:
  color = _color(point.series)
  if point.low is not None and point.high is not None:
    (whisker,) = axes.plot([x] * 2, [point.low, point.high], color=color, linewidth=1.5, alpha=0.45, zorder=3)
    whisker.set_gid(f"series {point.series}")
  marker = MARKERS[point.series % len(MARKERS)]
  size = 10 if marker in "PX" else 8  # crosses look smaller
  (dot,) = axes.plot(x, point.y, marker, color=color, markersize=size, markeredgecolor=PAPER, zorder=4)
  dot.set_gid(f"series {point.series}")


def _label(axes: Axes, points: Sequence[Point], beside: Sequence[float]) -> None:
  """Write the names beside the points, where there is room."""
  size = STYLE["font.size"]
  places = [(float(x), float(y)) for x, y in axes.transData.transform([(x, p.y) for p, x in zip(points, beside)])]
  frame = axes.get_window_extent()
  # Width and height of each label; a box around each point, which labels keep clear of.
  extents = [(LETTER * size * len(_short(p.title)), 1.15 * size) for p in points]
  taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
  for i in sorted(range(len(points)), key=lambda i: -places[i][1]):
    box = place_label(places[i], extents[i], taken, (frame.x0, frame.y0, frame.x1, frame.y1))
    taken.append(box)
    anchor = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    x, y = places[i]
    near = (min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3]))
    inverse = axes.transData.inverted().transform
    if math.dist(near, (x, y)) > 10:
      ends = inverse([near, (x, y)])
      axes.plot(*ends.T, color=_color(points[i].series), linewidth=0.8, alpha=0.6, zorder=2, scalex=False, scaley=False)
    across, up = inverse(anchor)
    text = axes.text(across, up, _short(points[i].title), ha="center", va="center", fontsize=size, zorder=5)
    text.set_gid(f"series {points[i].series}")


def place_label(
  point: tuple[float, float],
  extent: tuple[float, float],
  taken: Sequence[tuple[float, float, float, float]],
  frame: tuple[float, float, float, float],
) -> tuple[float, float, float, float]:
  """Choose the place of a label around a point: the nearest that overlaps nothing, else the one that overlaps least.

  Args:
    point: x, y.
    extent: width and height of the label.
    taken: boxes x0, y0, x1, y1 to keep clear of.
    frame: the box to stay within.

  Returns:
    its box.
  """
  (x, y), (width, height) = point, extent
  best, least = (x, y, x + width, y + height), math.inf
  for distance in (9, 16, 26, 38, 52, 70, 90):
    for angle in (0, 180, 90, 270, 35, -35, 145, 215):
      # On an ellipse around the point, so that the label's nearest edge is `distance` away.
      across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
      center = (x + across * (distance + width / 2), y + up * (distance + height / 2))
      box = (center[0] - width / 2, center[1] - height / 2, center[0] + width / 2, center[1] + height / 2)
      outside = width * height - _overlap(box, frame)
      bad = 4 * outside + sum(_overlap(box, other) for other in taken)
      if bad < least - 1e-9:
        best, least = box, bad
    if least == 0:
      break
  return best


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
  width = min(one[2], other[2]) - max(one[0], other[0])
  height = min(one[3], other[3]) - max(one[1], other[1])
  return max(0.0, width) * max(0.0, height)


def _short(title: str) -> str:
  return title if len(title) <= LONGEST else title[: LONGEST - 1] + "…"


def _color(series: int) -> str:
  return f"#0102{series % SERIES:02x}"


def _svg(figure: Figure, name: str) -> str:
  """Return the drawing as an SVG element with identifiers of its own."""
  text = io.StringIO()
  with matplotlib.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about letters that the measuring font lacks: the browser has them
    figure.savefig(text, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
  svg = text.getvalue()
  svg = svg[svg.index("<svg") :]
  for color, variable in NAMES.items():
    svg = svg.replace(color, variable)
  svg = re.sub(r"#0102([0-9a-f]{2})", lambda m: f"var(--series-{int(m[1], 16)})", svg)
  svg = re.sub(r'id="series (\d+)"', r'class="series" data-series="\1"', svg)
  svg = re.sub(r"<style.*?</style>|font-family: [^;\"]*; ", "", svg, flags=re.S)  # the page has its own
  return re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)  # figure_1, axes_1, ...: every drawing has them
