"""The scans of a JPEG file: bits to the whole numbers that its quantization left, sequential and progressive.

ITU-T T.81 (ISO/IEC 10918-1), Annexes F and G, with Huffman codes. No decoder of pictures gives these numbers, and they
cannot be found again from its pixels: those are clipped, rounded, and cut at the edge of the picture. Plain Python:
some seconds for a megabyte.
"""

import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

BLOCK = 64  # coefficients
CODE_BITS = 16  # of a Huffman code, at most
PADDING = 64  # bits past the end that a decoder may look at, or encoders leave out
RESTART = re.compile(rb"\xff+[\xd0-\xd7]")
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # what ends a scan
# Places of a block, row after row, in the order in which a file has them (Figure 5).
ZIGZAG = tuple(
  8 * row + column
  for row, column in sorted(
    ((row, column) for row in range(8) for column in range(8)),
    key=lambda place: (sum(place), place[1 - sum(place) % 2]),
  )
)


class Damaged(ValueError):
  """The bits of a file make no sense."""


class Component:
  """One of the planes of a picture, with what decoding has found of it."""

  def __init__(self, number: int, across: int, down: int, table: int):
    """Take its `number` in the file, its blocks in each unit of the file, and the number of its table."""
    self.number, self.across, self.down, self.table = number, across, down, table
    self.columns = self.rows = 0  # blocks that the picture covers
    self.stride = 0  # blocks in a row, those that fill up units among them
    self.values = array("i")  # coefficients, block after block
    self.steps: tuple[int, ...] | None = None  # the table, row after row, once a scan had it
    self.last = 0  # constant part of the block before

  def allot(self, columns: int, rows: int, units: tuple[int, int]) -> None:
    """Make room for a plane that covers so many blocks, in so many units across and down."""
    self.columns, self.rows, self.stride = columns, rows, units[0] * self.across
    self.values = array("i", bytes(4 * BLOCK * self.stride * units[1] * self.down))


class Scan(NamedTuple):
  """What the head of a scan says."""

  components: Sequence[Component]
  constant: Sequence[list[int]]  # Huffman table of each component's constant parts
  others: Sequence[list[int]]  # and of its other coefficients
  first: int  # place of the first coefficient, in zigzag order
  last: int
  high: int  # bits that were sent before, 0 for none
  low: int  # bits that are left out

  @property
  def decode_block(self) -> Callable[["Bits", Component, int, int, "Scan"], None]:
    """What decodes a block: (bits, component, place of the block, number of the component in the scan, scan)."""
    if self.first == 0 and self.last == BLOCK - 1:
      return _sequential
    if self.first == 0:
      return _constant if self.high == 0 else _constant_refined
    return _others if self.high == 0 else _others_refined


class Bits:
  """The bits between two restarts."""

  def __init__(self, data: bytes):
    """Take the bytes, as the file has them."""
    self._data, self._at = data.replace(b"\xff\x00", b"\xff"), 0
    self._held, self._count = 0, 0
    self.run = 0  # blocks that follow without another coefficient

  def take(self, count: int) -> int:
    """Return the number that the next bits are, at most CODE_BITS of them."""
    found = self._ahead() >> (CODE_BITS - count)
    self._count -= count
    return found

  def signed(self, count: int) -> int:
    """Return the number that a category and its bits are (F.2.2.1)."""
    if count == 0:
      return 0
    found = self.take(count)
    return found if found >> (count - 1) else found - (1 << count) + 1

  def symbol(self, table: list[int]) -> int:
    """Return the next symbol."""
    found = table[self._ahead()]
    if found < 0:
      raise Damaged("no such code")
    self._count -= found >> 8
    return found & 255

  def _ahead(self) -> int:
    """Return the next CODE_BITS bits, zeros past the end."""
    if self._count < CODE_BITS:
      more = self._data[self._at : self._at + 4]
      self._at += 4
      if 8 * (self._at - len(self._data)) > 2 * PADDING:
        raise Damaged("it ends early")
      left = self._held & ((1 << self._count) - 1)
      self._held, self._count = left << 32 | int.from_bytes(more.ljust(4, b"\0"), "big"), self._count + 32
    return self._held >> (self._count - CODE_BITS) & 0xFFFF


def huffman(counts: Sequence[int], symbols: bytes) -> list[int]:
  """Return by the next CODE_BITS bits the length of a code times 256, and its symbol; -1 where there is none (C.2).

  Args:
    counts: of codes of each length, 1 to CODE_BITS.
    symbols: in the order of their codes.
  """
  if sum(counts) != len(symbols):
    raise Damaged("a table of codes is short")
  found: list[int] = []
  place = 0
  for length, count in enumerate(counts, 1):
    for symbol in symbols[place : place + count]:
      found += [length << 8 | symbol] * (1 << (CODE_BITS - length))
    place += count
  if len(found) > 1 << CODE_BITS:
    raise Damaged("a table has too many codes")
  return found + [-1] * ((1 << CODE_BITS) - len(found))


def decode(scan: Scan, data: bytes, restart: int, units: tuple[int, int]) -> None:
  """Decode a scan into the values of its components.

  Args:
    scan: its head.
    data: its bits, as the file has them.
    restart: units between two restarts, 0 for none.
    units: of the picture, across and down.

  Raises:
    Damaged: the bits make no sense, or there are too few.
  """
  pieces = iter(RESTART.split(data) if restart else (data,))
  block, bits = scan.decode_block, Bits(b"")
  for number, places in enumerate(_units(scan.components, units)):
    if number == 0 or (restart and number % restart == 0):
      bits = Bits(next(pieces, b""))
      for component in scan.components:
        component.last = 0
    for index, place in places:
      block(bits, scan.components[index], BLOCK * place, index, scan)


def _units(components: Sequence[Component], units: tuple[int, int]) -> Iterator[list[tuple[int, int]]]:
  """Give for each unit of a scan its blocks: the number of the component in the scan, and the place of the block."""
  if len(components) == 1:  # block after block, those alone that the picture covers (A.2.2)
    one = components[0]
    yield from ([(0, one.stride * row + column)] for row in range(one.rows) for column in range(one.columns))
    return
  for row in range(units[1]):
    for column in range(units[0]):
      yield [
        (i, one.stride * (one.down * row + y) + one.across * column + x)
        for i, one in enumerate(components)
        for y in range(one.down)
        for x in range(one.across)
      ]


def _sequential(bits, component, place, index, scan):
  """Decode a whole block (F.2.2)."""
  _constant(bits, component, place, index, scan)
  values, table, k = component.values, scan.others[index], 1
  while k < BLOCK:
    symbol = bits.symbol(table)
    size = symbol & 15
    if size == 0 and symbol != 0xF0:
      return
    k += symbol >> 4
    if size:
      values[place + ZIGZAG[k]] = bits.signed(size)
    k += 1


def _constant(bits, component, place, index, scan):
  """Decode the constant part of a block (F.2.2.1, G.1.2.1)."""
  component.last += bits.signed(bits.symbol(scan.constant[index]))
  component.values[place] = component.last << scan.low


def _constant_refined(bits, component, place, index, scan):
  """Decode one more bit of the constant part (G.1.2.1)."""
  component.values[place] |= bits.take(1) << scan.low


def _others(bits, component, place, index, scan):
  """Decode the first bits of some coefficients (G.1.2.2)."""
  if bits.run:
    bits.run -= 1
    return
  values, table, k = component.values, scan.others[index], scan.first
  while k <= scan.last:
    symbol = bits.symbol(table)
    run, size = symbol >> 4, symbol & 15
    if size == 0 and run < 15:
      bits.run = (1 << run) + bits.take(run) - 1
      return
    k += run
    if size:
      values[place + ZIGZAG[k]] = bits.signed(size) << scan.low
    k += 1


def _others_refined(bits, component, place, index, scan):
  """Decode one more bit of some coefficients, and those that become other than zero (G.1.2.3)."""
  values, table, k, one = component.values, scan.others[index], scan.first, 1 << scan.low
  while k <= scan.last and not bits.run:
    symbol = bits.symbol(table)
    run, size = symbol >> 4, symbol & 15
    if size == 0 and run < 15:
      bits.run = (1 << run) + bits.take(run)
      break
    new = (one if bits.take(1) else -one) if size else 0
    k = _skip(bits, values, place, k, scan, run)
    if new:
      values[place + ZIGZAG[k]] = new
    k += 1
  if bits.run:
    _skip(bits, values, place, k, scan, BLOCK)
    bits.run -= 1


def _skip(bits, values, place, k, scan, zeros):
  """Refine what is not zero on the way past so many zeros; return the place of the next zero, or past the last one."""
  one = 1 << scan.low
  while k <= scan.last:
    at = place + ZIGZAG[k]
    value = values[at]
    if value == 0:
      if zeros == 0:
        return k
      zeros -= 1
    elif bits.take(1) and not abs(value) & one:
      values[at] = value + one if value > 0 else value - one
    k += 1
  return k
