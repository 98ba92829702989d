"""What the code of EDM's authors is to a checkpoint: the classes that its pickle names."""

import torch


class SongUNet(torch.nn.Module):
  """Holds tensors by their names."""

  def __init__(self, tensors):
    super().__init__()
    for name, value in tensors.items():
      *path, leaf = name.split(".")
      place = self
      for part in path:
        if not hasattr(place, part):
          place.add_module(part, torch.nn.Module())
        place = getattr(place, part)
      place.register_buffer(leaf, torch.from_numpy(value))


class EDMPrecond(torch.nn.Module):
  """Holds the network and what it says of its preconditioning."""

  def __init__(self, tensors, sigma_data=0.5):
    super().__init__()
    self.sigma_min, self.sigma_max, self.sigma_data = 0, float("inf"), sigma_data
    self.model = SongUNet(tensors)


class UNetModel(SongUNet):
  """Is guided-diffusion's network, which InverseBench has, too."""
