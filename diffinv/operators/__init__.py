"""Measurement operators: frozen pytrees that act on ONE image `[h, w, c]` in [-1, 1], by the name of what builds them.

What is drawn at random (a box, a mask, a path) takes a key first. Add an operator by a class in its family's file, a
function that builds it and a line here.
"""

from diffinv.operators.algebra import compose, stack
from diffinv.operators.base import LinearOperator, Operator
from diffinv.operators.blur import blur, gaussian_blur, motion_blur
from diffinv.operators.fourier import masked_fourier, mri, phase_retrieval
from diffinv.operators.jpeg import jpeg
from diffinv.operators.nonlinear import hdr, nonlinear_blur
from diffinv.operators.pixels import box, grayscale, identity, inpainting, random_mask
from diffinv.operators.resize import block_average, super_resolution
from diffinv.operators.sensing import compressed_sensing, gaussian_sensing

__all__ = ["OPERATORS", "LinearOperator", "Operator"]

OPERATORS = {
  "inpainting": inpainting,
  "box": box,
  "random_mask": random_mask,
  "identity": identity,
  "grayscale": grayscale,
  "super_resolution": super_resolution,
  "block_average": block_average,
  "gaussian_blur": gaussian_blur,
  "blur": blur,
  "motion_blur": motion_blur,
  "phase_retrieval": phase_retrieval,
  "nonlinear_blur": nonlinear_blur,
  "hdr": hdr,
  "masked_fourier": masked_fourier,
  "mri": mri,
  "compressed_sensing": compressed_sensing,
  "gaussian_sensing": gaussian_sensing,
  "jpeg": jpeg,
  "compose": compose,
  "stack": stack,
}
