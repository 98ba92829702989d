"""How a prior is made: the options of a run, its loss and step, its data, devices, folder, pace and loop.

`diffinv.train(diffinv.TrainConfig(...), folder)` is the way in; see `diffinv.training.run`.
"""
