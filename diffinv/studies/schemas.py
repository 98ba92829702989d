"""What the JSON in the folders of studies holds, as types that `diffinv.reading` checks it against.

They name what is read again: by a run that goes on, by a command that finds its work done, and by the page. What they
do not name may be anything.
"""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec

from diffinv.metrics import table

Number = float | None  # None where it is not finite, which JSON lacks
MOST = 10**18  # beyond any count, bytes or seconds, and within what can be drawn
Count = Annotated[int, msgspec.Meta(ge=0, le=MOST)]
Cost = Annotated[float, msgspec.Meta(ge=0, le=MOST)]
Shape = Annotated[list[Annotated[int, msgspec.Meta(ge=1)]], msgspec.Meta(min_length=3, max_length=3)]  # [h, w, c]


class Settings(TypedDict):
  """The options that the page reads."""

  batch_size: NotRequired[int | None]
  devices: NotRequired[int | None]
  remat: NotRequired[bool | None]


class Plan(TypedDict):
  """What every run.json says."""

  settings: Settings
  versions: dict[str, Any]
  device: dict[str, Any]
  objects: NotRequired[list[str] | None]


class Named(TypedDict):
  """A task or a method of a comparison."""

  name: str
  title: str
  network: NotRequired[bool]
  citation: NotRequired[str | None]
  noise: NotRequired[dict[str, Any] | None]


class Image(TypedDict):
  """A picture of a comparison."""

  name: str
  shape: list[int]


class Run(TypedDict):
  """A method on a task."""

  task: str
  method: str
  skipped: NotRequired[str | None]
  steps: NotRequired[Count | None]
  evaluations: NotRequired[Count | None]
  gradients: NotRequired[Count | None]
  samples: NotRequired[Literal[1]]  # where all would be the same picture
  network: NotRequired[bool]
  spacing: NotRequired[str | int | None]
  fields: NotRequired[dict[str, Any] | None]


class Prior(TypedDict):
  """A prior."""

  name: NotRequired[str]


class Comparison(Plan):
  """The run.json of a comparison."""

  prior: Prior
  num_samples: int
  tasks: list[Named]
  methods: list[Named]
  images: list[Image]
  runs: list[Run]


# Rows


class Curve(TypedDict):
  """The coverage of a picture."""

  levels: list[float]
  empirical: list[float]


SCORES = {mark.key: NotRequired[Number] for mark in table.marks() if mark.of == table.SINGLE}  # of one picture
OF_ROW = {table.SAMPLE: list[Number] | None, table.PICTURE: Number}  # what a mark is in a row
MARKS = {mark.key: NotRequired[OF_ROW[mark.per]] for mark in table.summed() if mark.per in OF_ROW}
ABOUT = {"task": str, "method": str, "image": str, "failed": NotRequired[str | None]}
SPENT = {"seconds": Cost, "compile_seconds": Cost, "peak_bytes": Cost}
WITH = {"batch_size": int, "devices": int, "remat": bool}  # what these depend on
COSTS = {name: NotRequired[kind | None] for name, kind in {**SPENT, **WITH}.items()}

# Made from the table of marks.
Scored = TypedDict("Scored", SCORES)  # type: ignore[misc]
Compared = TypedDict("Compared", {**ABOUT, **MARKS, **COSTS, "coverage": NotRequired[Curve | None]})  # type: ignore[misc]
Tried = TypedDict("Tried", {"failed": NotRequired[str | None], **MARKS})  # type: ignore[misc]


class Candidate(TypedDict):
  """A row of a search."""

  task: str
  method: str
  candidate: int
  images: Annotated[list[Tried], msgspec.Meta(min_length=1)]


class Entry(TypedDict):
  """A restored picture, in the results of a restoration."""

  name: str
  failed: NotRequired[str]
  samples: NotRequired[Annotated[list[Scored], msgspec.Meta(min_length=1)]]
  mean: NotRequired[Scored]
  notes: NotRequired[list[str]]
  run_seconds: Cost


class Restored(Entry):
  """A row of a restoration."""

  compile_seconds: Cost


class Found(TypedDict):
  """What was estimated of a measurement."""

  key: str  # a digest of what it was estimated from
  name: str  # of the picture
  sigma: NotRequired[float]
  channels: NotRequired[list[float]]  # variances of the noise, see `diffinv.blind.uneven_noise`
  brightness: NotRequired[list[float]]  # the same of noise that grows with brightness
  blur: NotRequired[str]  # in words
  kernel: NotRequired[list[list[float]]]  # of it, [k, l]


class Drawn(TypedDict):
  """A row of a drawing."""

  number: int
  file: str
  shape: Shape
  clipped_fraction: float
  run_seconds: Cost
  compile_seconds: Cost


# Results


class Method(TypedDict):
  """The method of a restoration."""

  name: str


class Restoration(TypedDict):
  """The results.json of a restoration."""

  method: Method
  network_evaluations: Count
  network_gradients: Count
  compile_seconds: Cost
  images: Annotated[list[Entry], msgspec.Meta(min_length=1)]
  notes: NotRequired[list[str]]


class Drawing(TypedDict):
  """The results.json of a drawing."""

  files: list[str]
  shape: Shape
  network_evaluations: Count
  run_seconds: Cost
  compile_seconds: Cost
