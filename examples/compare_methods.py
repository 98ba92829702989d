"""Compare two methods on your own pictures, look at the numbers, write the page.

usage: python examples/compare_methods.py [PICTURE ...]
"""

import sys

import diffinv

study = diffinv.Study(
  prior="natural",  # no weights: "photo" or a folder for a trained network
  data=sys.argv[1:] or (),  # files or folders; none: a portrait that comes with the package
  fit="resize",
  size=32,
  tasks=["super_resolution", "inpaint_random"],
  methods=["diffpir", diffinv.METHODS["dps"](scale=1.0)],  # by name with shipped settings, or as you want it
  steps=10,
  num_samples=2,
)
results = diffinv.compare(study, folder="out/example")  # stopped, it goes on; finished, it is read

print(results.table())
for row in results.rows[:2]:  # pandas.DataFrame(results.rows) works, too
  print({name: row[name] for name in ("task", "method", "image", "psnr", "ssim", "seconds")})
print(diffinv.write_report(results, "out/example/page.html"))
