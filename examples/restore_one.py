"""Restore one measurement: a picture with missing pixels, and the mask that says which are there.

usage: python examples/restore_one.py
"""

import numpy as np

import diffinv
from diffinv.data import bundled, images

x0 = images.read(bundled.ASTRONAUT)[64:192, 64:192]  # [h, w, c], [-1, 1]
rng = np.random.default_rng(0)
mask = (rng.random(x0.shape[:2]) > 0.7).astype(np.float32)  # 1 where a pixel was measured
y = mask[..., None] * (x0 + 0.05 * rng.standard_normal(x0.shape, np.float32))

restored = diffinv.restore(
  y, task="inpaint_random", mask=mask, prior="photo", method="diffpir", steps="logsnr20", num_samples=2
)
images.write("restored.png", restored.picture)  # the mean of the samples; restored.std says where they differ
print(f"chi2 {restored.marks[0]['chi2']:.2f} (1 where what is left of y is noise)")
print(
  f"mean squared error {np.mean((restored.picture - x0) ** 2):.4f}, of the measurement {np.mean((y - x0) ** 2):.4f}"
)
