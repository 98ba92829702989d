"""Networks: the guided-diffusion UNet, a small network that ships with the package, and their convolution."""
