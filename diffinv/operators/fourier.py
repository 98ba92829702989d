"""Measurements in the Fourier domain: magnitudes (phase retrieval) and samples of k-space (MRI).

The transform is centered and orthonormal, F = fftshift fft2 ifftshift, for even and odd sizes: ||F x|| = ||x||, the
zero frequency in the middle (fastMRI's convention). k-space is real here: the real parts of all its channels, then the
imaginary parts, so that noise of standard deviation sigma_y is put on each of the two.

A measured picture is one of two kinds:

  complex   `[h, w, 2]`, real part and imaginary part, as MRI reconstructs it. A A^T = M, the mask.
  real      `[h, w, c]`, each channel a real picture of its own, so that priors of photographs can be used. Its spectrum
            is conjugate symmetric, X(-k) = conj X(k), whether the mask is or not: where M samples both of a pair the
            singular value is 1, where one of them sqrt(1/2), and the real and imaginary parts of the frequency are
            seen alike. V is therefore the Hartley transform, Re F - Im F, and s^2(k) = (M(k) + M(-k)) / 2.

With several coils, y_j = M F (S_j x) (Pruessmann et al., "SENSE: Sensitivity Encoding for Fast MRI", MRM 42, 1999),
nothing is diagonal and solves are by conjugate gradients.
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffinv.operators.base import LinearOperator, Operator, Spectral, as_picture, image_shape, over
from diffinv.pytree import pytree, static

CENTER_FRACTIONS = {4: 0.08, 8: 0.04}  # of the lines, by acceleration (Zbontar et al., fastMRI, arXiv 1811.08839)
MIN_COIL = 1e-6  # of the largest root of sum |S|^2: a place below it is seen by no coil


def centered_fft2(x: jax.Array) -> jax.Array:
  """Return the orthonormal 2-D Fourier transform of `x` `[h, w, ...]`, zero frequency in the middle, complex."""
  shifted = jnp.fft.fft2(jnp.fft.ifftshift(x, axes=(0, 1)), axes=(0, 1), norm="ortho")
  return jnp.fft.fftshift(shifted, axes=(0, 1))


def centered_ifft2(x: jax.Array) -> jax.Array:
  """Return the inverse of `centered_fft2`, which is its adjoint, complex."""
  shifted = jnp.fft.ifft2(jnp.fft.ifftshift(x, axes=(0, 1)), axes=(0, 1), norm="ortho")
  return jnp.fft.fftshift(shifted, axes=(0, 1))


def hartley2(x: jax.Array) -> jax.Array:
  """Return Re F x - Im F x of a real `x` `[h, w, ...]`: orthonormal, symmetric, its own inverse."""
  return hartley_of(centered_fft2(x))


def hartley_of(spectrum: jax.Array) -> jax.Array:
  """Return the Hartley coordinates of a real image from its spectrum F x, both `[h, w, ...]`."""
  return spectrum.real - spectrum.imag


def split(z: jax.Array) -> jax.Array:
  """Return the real parts of the channels of `z` `[h, w, c]`, then the imaginary parts, `[h, w, 2c]`."""
  return jnp.concatenate([z.real, z.imag], axis=-1)


def join(y: jax.Array) -> jax.Array:
  """Return the complex channels `[h, w, c]` whose parts `y` `[h, w, 2c]` holds."""
  return jax.lax.complex(*jnp.split(y, 2, axis=-1))


# Phase retrieval


@pytree
class FourierMagnitude(Operator):
  """y = |F P x| with P zero padding and F the centered orthonormal Fourier transform, `[h + 2p, w + 2q, c]`; nonlinear.

  Two conventions, which are two problems. signed: x is used on its [-1, 1] scale, as in DPS; x, -x and x rotated by 180
  degrees have the same y. Not signed: (x + 1) / 2 on [0, 1] is padded and transformed, as in DAPS; an image is no
  longer confused with its negative, the zero frequency gives its brightness, and only the rotation remains ambiguous.
  """

  padding: tuple[int, int] = static()  # p, q: pixels on each side
  signed: bool = static(default=True)

  is_picture = False

  def __call__(self, x):
    p, q = self.padding
    light = x if self.signed else (x + 1.0) / 2.0
    return jnp.abs(centered_fft2(jnp.pad(light, ((p, p), (q, q), (0, 0)))))

  def picture(self, y):
    """Return log(1 + |y|), its largest value white: `[h + 2p, w + 2q, 1 or 3]`."""
    size = jnp.log1p(jnp.abs(as_picture(y)))
    return 2.0 * size / jnp.maximum(jnp.max(size), jnp.finfo(size.dtype).tiny) - 1.0


def phase_retrieval(shape: tuple[int, int, int], *, oversample: float = 2.0, signed: bool = True) -> FourierMagnitude:
  """Build phase retrieval from an oversampled Fourier magnitude.

  Args:
    shape: of the image, (h, w, c).
    oversample: the image is padded by oversample / 8 of its size on each side: 2 pads 256 pixels to 384.
    signed: transform x on [-1, 1] (Chung et al., DPS, arXiv 2209.14687), or else (x + 1) / 2 on [0, 1] (Zhang et al.,
      DAPS, arXiv 2407.01521, authors' code).

  Raises:
    ValueError: `oversample` is negative.
  """
  shape = image_shape(shape)
  if oversample < 0:
    raise ValueError(f"oversample: expected 0 or more, got {oversample}")
  return FourierMagnitude(shape, (int(oversample / 8.0 * shape[0]), int(oversample / 8.0 * shape[1])), signed)


# k-space


@pytree
class ComplexFourier(LinearOperator):
  """y = M F x of a complex picture, `[h, w, 2]` to `[h, w, 2]`, zero off the mask: A A^T = M, A^+ = A^T."""

  mask: jax.Array  # sampled frequencies, [h, w, 1], 0 or 1, the zero frequency in the middle

  is_picture = False

  def __call__(self, x):
    return self.mask * split(centered_fft2(join(x)))

  def adjoint(self, y):
    return split(centered_ifft2(join(self.mask * y)))

  def pinv(self, y):
    return self.adjoint(y)

  def solve(self, v, gamma):
    return v / (self.mask + gamma)

  def spectral(self):
    return Spectral(
      self.mask,
      lambda x: split(centered_fft2(join(x))),
      lambda coords: split(centered_ifft2(join(coords))),
      lambda y: y,
    )

  def observed(self, y):
    return jnp.broadcast_to(self.mask, y.shape)

  def picture(self, y):
    """Return the magnitude of the zero-filled picture, 0 black and 1 white, `[h, w, 1]`."""
    return _magnitude(self.adjoint(y))


@pytree
class RealFourier(LinearOperator):
  """y = M F x of real pictures, `[h, w, c]` to `[h, w, 2c]`, zero off the mask: s^2(k) = (M(k) + M(-k)) / 2."""

  mask: jax.Array  # sampled frequencies, [h, w, 1], 0 or 1, the zero frequency in the middle

  is_picture = False

  def __call__(self, x):
    return self.mask * split(centered_fft2(x))

  def adjoint(self, y):
    return centered_ifft2(join(self.mask * y)).real

  def ridge(self, y, gamma):
    """Return A^T (A A^T + gamma I)^-1 y: in `solve` the terms in 1 / gamma, which A^T cancels, would swamp it."""
    s = self._values()
    return hartley2(s / (s**2 + gamma) * self._measure(y))

  def solve(self, v, gamma):
    """Return (A A^T + gamma I)^-1 v: 1 / (s^2 + gamma) on the range of A, 1 / gamma off it."""
    power = self._values() ** 2
    # U diag(p) U^T = A V diag(p / s^2) V^T A^T, of p = 1 / gamma - 1 / (s^2 + gamma).
    excess = hartley2(hartley2(self.adjoint(v)) / (gamma * (power + gamma)))
    return v / gamma - self(excess)

  def spectral(self):
    return Spectral(self._values(), hartley2, hartley2, self._measure)

  def observed(self, y):
    return jnp.broadcast_to(self.mask, y.shape)

  def picture(self, y):
    """Return the zero-filled picture A^T y, clipped to [-1, 1], `[h, w, 1 or 3]`."""
    return jnp.clip(as_picture(self.adjoint(y)), -1.0, 1.0)

  def _values(self):
    """Return s, `[h, w, 1]`: 0, sqrt(1/2) or 1."""
    height, width, _ = self.in_shape
    # -k of the frequency at place i of n is at 2 (n // 2) - i, modulo n.
    rows, cols = (np.mod(2 * (n // 2) - np.arange(n), n) for n in (height, width))
    return jnp.sqrt((self.mask + self.mask[rows][:, cols]) / 2.0)

  def _measure(self, y):
    """Return U^T y = V^T A^T y / s, `[h, w, c]`."""
    return over(self._values(), hartley2(self.adjoint(y)))


@pytree
class MultiCoil(LinearOperator):
  """y_j = M F (S_j x) for every coil j, `[h, w, 2 c coils]`, zero off the mask; no closed forms.

  Complex pictures, `[h, w, 2]`, have c = 1; real ones, `[h, w, c]`, have every coil of the first channel first. With
  sum |S|^2 = 1 and every frequency sampled, A^T A = I.
  """

  mask: jax.Array  # sampled frequencies, [h, w, 1], 0 or 1, the zero frequency in the middle
  coils: jax.Array  # sensitivities S, [h, w, coils], complex
  kind: str = static()  # of KINDS

  is_picture = False

  def __call__(self, x):
    light = join(x) if self.kind == "complex" else jax.lax.complex(x, jnp.zeros_like(x))
    spread = light[:, :, :, None] * self.coils[:, :, None, :]
    return self.mask * split(centered_fft2(spread.reshape(*x.shape[:2], -1)))

  def adjoint(self, y):
    spread = centered_ifft2(join(self.mask * y))
    light = spread.reshape(*y.shape[:2], -1, self.coils.shape[-1]) * jnp.conj(self.coils)[:, :, None, :]
    total = jnp.sum(light, axis=-1)
    return split(total) if self.kind == "complex" else total.real

  def observed(self, y):
    return jnp.broadcast_to(self.mask, y.shape)

  def picture(self, y):
    """Return the zero-filled picture A^T y: its magnitude, 0 black and 1 white, or the real channels clipped."""
    x = self.adjoint(y)
    return _magnitude(x) if self.kind == "complex" else jnp.clip(as_picture(x), -1.0, 1.0)


KINDS = {"real": RealFourier, "complex": ComplexFourier}


def masked_fourier(mask, *, channels: int = 3, kind: str = "real", coils=None) -> LinearOperator:
  """Build the measurement of the frequencies in a mask.

  Args:
    mask: sampled frequencies, `[h, w]` or `[h, w, 1]`, 0 or 1 (or boolean), the zero frequency in the middle.
    channels: of the picture; 2 for a complex one, its real and its imaginary part.
    kind: "real" or "complex", see the module.
    coils: sensitivities, `[h, w, coils]`, complex; None for one coil that sees everything alike. They are divided by
      the root of sum |S|^2 at each place, so that ||A|| <= 1; places that no coil sees stay unseen.

  Raises:
    ValueError: an argument has another shape or other values, or the mask samples nothing.
  """
  mask = np.asarray(mask)
  if mask.ndim not in (2, 3) or mask.shape[2:] not in ((), (1,)):
    raise ValueError(f"mask: expected [h, w] or [h, w, 1], got {mask.shape}; channels are sampled alike")
  if not np.all((mask == 0) | (mask == 1)):
    raise ValueError(f"mask: expected 0 and 1 (sampled) only, got values in [{mask.min()}, {mask.max()}]; threshold it")
  if not np.any(mask):
    raise ValueError("mask: expected at least one sampled frequency (1), got none; is it inverted?")
  return _build((*mask.shape[:2], channels), jnp.asarray(mask.reshape(*mask.shape[:2], 1), float), kind, coils)


def mri(
  key: jax.Array,
  shape: tuple[int, int, int],
  *,
  acceleration: int = 4,
  center_fraction: float | None = None,
  lines: str = "random",
  kind: str = "real",
  coils=None,
) -> LinearOperator:
  """Build Cartesian MRI: whole columns of k-space, by the rules of fastMRI (Zbontar et al., arXiv 1811.08839).

  Args:
    key: of the lines.
    shape: of the picture, (h, w, c); c = 2 for a complex one.
    acceleration: R, 4 or 8 there: 1 / R of the columns are sampled.
    center_fraction: part of the columns that are sampled in the middle in any case; None: 0.08 at 4, 0.04 at 8.
    lines: "random" or "equispaced", see `random_lines` and `equispaced_lines`.
    kind, coils: see `masked_fourier`.

  Raises:
    ValueError: an argument is none of these, or the middle alone has more lines than 1 / R of them.
  """
  shape = image_shape(shape)
  if lines not in LINES:
    raise ValueError(f"lines: expected one of {', '.join(LINES)}, got {lines!r}")
  if center_fraction is None and acceleration not in CENTER_FRACTIONS:
    known = " or ".join(map(str, CENTER_FRACTIONS))
    raise ValueError(f"acceleration: expected {known}, got {acceleration}; or give a center_fraction too")
  fraction = CENTER_FRACTIONS[acceleration] if center_fraction is None else center_fraction
  columns = LINES[lines](key, shape[1], acceleration=acceleration, center_fraction=fraction)
  return _build(shape, jnp.broadcast_to(columns[None, :, None], (*shape[:2], 1)), kind, coils)


def random_lines(key: jax.Array, width: int, *, acceleration: int, center_fraction: float) -> jax.Array:
  """Draw columns of k-space: the middle, and each other one with the probability that makes width / R of them.

  Returns:
    `[width]`, 0 or 1; W / R columns on average, n of them the middle: p = (W / R - n) / (W - n).
  """
  middle = middle_lines(width, acceleration, center_fraction)
  count = int(middle.sum())
  probability = (width / acceleration - count) / max(width - count, 1)
  drawn = jax.random.uniform(key, (width,)) < probability
  return jnp.maximum(drawn.astype(float), jnp.asarray(middle, float))


def equispaced_lines(key: jax.Array, width: int, *, acceleration: int, center_fraction: float) -> jax.Array:
  """Draw columns of k-space: the middle, and equidistant ones after a random first one.

  Returns:
    `[width]`, 0 or 1; about W / R columns.
  """
  offsets = max(1, round(_spacing(width, acceleration, center_fraction) or 1))
  table = np.stack([equispaced_mask(width, acceleration, center_fraction, offset) for offset in range(offsets)])
  return jnp.asarray(table, float)[jax.random.randint(key, (), 0, offsets)]


LINES = {"random": random_lines, "equispaced": equispaced_lines}


def equispaced_mask(width: int, acceleration: int, center_fraction: float, offset: int) -> np.ndarray:
  """Return the columns round(offset, offset + d, ...) < width - 1 and the middle, `[width]`, boolean.

  d = R (n - W) / (n R - W), n lines in the middle: 1 / R of all are sampled in total.
  """
  mask = middle_lines(width, acceleration, center_fraction)
  spacing = _spacing(width, acceleration, center_fraction)
  if spacing is not None:
    mask[np.around(np.arange(offset, width - 1, spacing)).astype(int)] = True
  return mask


def middle_lines(width: int, acceleration: int, center_fraction: float) -> np.ndarray:
  """Return the round(W center_fraction) columns in the middle, at least one, `[width]`, boolean.

  Raises:
    ValueError: they are more than W / R.
  """
  count = max(1, round(width * center_fraction))
  if acceleration < 1 or not 0.0 <= center_fraction <= 1.0 or count * acceleration > max(width, acceleration):
    raise ValueError(
      f"center_fraction: expected at most 1 / acceleration of {width} columns in the middle, got {count} at "
      f"acceleration {acceleration}; lower one of them"
    )
  first = (width - count + 1) // 2
  return (np.arange(width) >= first) & (np.arange(width) < first + count)


def _spacing(width, acceleration, center_fraction):
  """Return the distance of equispaced columns, or None where the middle is all there is."""
  count = int(middle_lines(width, acceleration, center_fraction).sum())
  if count * acceleration >= width:
    return None
  return acceleration * (count - width) / (count * acceleration - width)


def _build(shape, mask, kind, coils):
  shape = image_shape(shape)
  if kind not in KINDS:
    raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
  if kind == "complex" and shape[2] != 2:
    raise ValueError(f"shape: expected [h, w, 2], real and imaginary part, of a complex picture, got {shape}")
  if coils is None:
    return KINDS[kind](shape, mask)
  coils = np.asarray(coils)
  if coils.ndim != 3 or coils.shape[:2] != shape[:2] or coils.shape[2] < 1:
    raise ValueError(f"coils: expected sensitivities of shape ({shape[0]}, {shape[1]}, coils), got {coils.shape}")
  total = np.sqrt(np.sum(np.abs(coils) ** 2, axis=-1, keepdims=True))
  seen = total > MIN_COIL * np.max(total)
  coils = np.where(seen, coils / np.where(seen, total, 1.0), 0.0)
  return MultiCoil(shape, mask, jnp.asarray(coils, jnp.result_type(complex)), kind)


def _magnitude(x):
  """Return the magnitude of a complex picture `[h, w, 2]`, 0 black and 1 white, `[h, w, 1]`."""
  return jnp.clip(2.0 * jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True)) - 1.0, -1.0, 1.0)
