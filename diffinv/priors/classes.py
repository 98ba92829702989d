"""Networks that were trained with classes: one class, no class, and more of a class than there is of it.

Guidance without a classifier, Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022, arXiv 2207.12598, Eq. 6:

  eps = eps_null + guidance (eps_class - eps_null),

of a network whose training took the class away now and then, that is, told a null class in its place. `guidance` is
1 + w in the paper: 1 is the class, 0 no class. What a network predicts is affine in eps at a given x_t, so that the
same holds of it. A learned variance stays that of the class.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

MAX_GUIDANCE = 100.0
KNOWN_COUNTS = (10, 100, 1000)  # classes of CIFAR-10, CIFAR-100 and ImageNet: one row more of a table is for no class


def rows(config: Any) -> int | None:
  """Return how many labels a network of a config takes, a null class among them; None where it has no classes."""
  classes = getattr(config, "num_classes", None)
  return getattr(config, "num_labels", classes)


def null_of(config: Any, said: int | str) -> int | None:
  """Return the null class of a network.

  Args:
    config: of the network.
    said: which it is; "none" for none; "auto" for the last of a table that has a row more than a known set has classes.

  Raises:
    ValueError: the network has no such class.
  """
  count, classes = rows(config), getattr(config, "num_classes", None)
  if said == "auto":
    return classes - 1 if classes is not None and classes - 1 in KNOWN_COUNTS else None
  if said == "none":
    return None
  if count is None:
    raise ValueError(f"null_label: expected none, the network is unconditional, got {said}; leave it out")
  if not 0 <= int(said) < count:
    raise ValueError(f"null_label: expected one of the network's 0..{count - 1}, got {said}; see how it was trained")
  return int(said)


def conditioned(
  apply: Callable, params: Any, count: int | None, null: int | None, label: int | None, guidance: float | None
) -> tuple[Any, Callable]:
  """Return parameters and the function of a network that is told a class: `(params, x_t, t) -> output`.

  Args:
    apply: the network, (params, x_t, t, label) -> output; of one without classes, without a label.
    params: its parameters.
    count: labels that it takes, see `rows`.
    null: which of them is no class; None where none is known.
    label: the class; None for a network without, or for no class.
    guidance: in [0, MAX_GUIDANCE]; None for none, which is one evaluation of the network and not two.

  Raises:
    ValueError: the network has no such class, or none that is null.
  """
  _check(count, null, label, guidance)
  if count is None:
    return params, apply
  told = {"network": params, "label": jnp.asarray(null if label is None else label, jnp.int32)}
  if guidance is None:
    return told, conditional_apply(apply)
  return {**told, "null": jnp.asarray(null, jnp.int32), "guidance": jnp.asarray(guidance, jnp.float32)}, guided_apply(
    apply
  )


def _check(count, null, label, guidance):
  if count is None and label is not None:
    raise ValueError(f"label: expected none, the network is unconditional, got {label}; leave it out")
  if guidance is not None and null is None:
    what = "is unconditional" if count is None else "has no null class that is known"
    advice = (
      "leave it out" if count is None else "convert it with `null_label` if it was trained with one, or leave it out"
    )
    raise ValueError(f"guidance: expected none, the network {what}, got {guidance:g}; {advice}")
  if guidance is not None and not 0.0 <= guidance <= MAX_GUIDANCE:
    raise ValueError(f"guidance: expected a number in [0, {MAX_GUIDANCE:g}], got {guidance:g}")
  if count is not None and not _is_class(count, null, label, guidance):
    raise ValueError(_no_class(count, null, label, guidance))


def _is_class(count, null, label, guidance):
  if label is None:
    return null is not None and guidance is None
  return 0 <= label < count and (guidance is None or label != null)


def _no_class(count, null, label, guidance):
  classes = f"0..{count - 1}" if null != count - 1 else f"0..{count - 2}"
  got = "none" if label is None else label
  if label is None and guidance is not None:
    return f"label: expected a class in {classes} with guidance, got none; choose one with `label`"
  if label is not None and label == null:
    return f"label: expected a class in {classes} with guidance, got {label}, which is no class; choose another"
  advice = "it is class-conditional, choose one with `label`"
  return f"label: expected a class in {classes} for this network, got {got}; {advice}"


@functools.cache
def conditional_apply(apply: Callable) -> Callable:
  """Return `({"network": params, "label": []}, x_t, t) -> output`: another class does not recompile."""
  return lambda params, x_t, t: apply(params["network"], x_t, t, params["label"])


@functools.cache
def guided_apply(apply: Callable) -> Callable:
  """Return the function of a network under guidance, two evaluations as one batch; another guidance does not recompile.

  `({"network": params, "label": [], "null": [], "guidance": []}, x_t [h, w, c], t []) -> output`.
  """

  def guided(params, x_t, t):
    labels = jnp.stack([params["label"], params["null"]])
    of_class, of_none = jax.vmap(lambda label: apply(params["network"], x_t, t, label))(labels)
    mean, guidance = slice(x_t.shape[-1]), params["guidance"].astype(of_class.dtype)
    # In this form it is the class alone at 1 and none at 0, exactly.
    found = guidance * of_class[..., mean] + (1 - guidance) * of_none[..., mean]
    return jnp.concatenate([found, of_class[..., mean.stop :]], axis=-1)

  return guided
