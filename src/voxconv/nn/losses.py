"""Losses: a number and its gradient at once, since they share their work."""

from __future__ import annotations

import numpy as np

from voxconv.errors import rejection
from voxconv.memory import empty
from voxconv.nn.module import Array

__all__ = [
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "dice_loss",
    "l1_loss",
    "mse_loss",
    "sigmoid_focal_loss",
]


def cross_entropy(logits: Array, labels: Array) -> tuple[float, Array]:
    """Mean over samples (and pixels) of ``-log softmax(logits)[label]``.

    Parameters
    ----------
    logits : (N, classes, *spatial) ndarray of float
        Scores before softmax.
    labels : (N, *spatial) ndarray of int
        The true class of each sample, 0 to classes - 1.

    Returns
    -------
    loss : float
    gradient : ndarray
        Gradient of the loss to the logits, of their shape and dtype.

    Examples
    --------
    >>> import numpy as np
    >>> loss, gradient = cross_entropy(np.zeros((1, 2)), np.array([0]))
    >>> round(loss, 4), gradient.tolist()
    (0.6931, [[-0.5, 0.5]])
    """
    logits = np.asarray(logits)
    labels = np.asarray(labels)
    if logits.dtype.kind != "f":
        raise TypeError(rejection("cross_entropy", "logits", f"array of dtype {logits.dtype}", "must be floating"))
    if labels.dtype.kind not in "iu":
        raise TypeError(rejection("cross_entropy", "labels", f"array of dtype {labels.dtype}", "must be integer"))
    if logits.ndim < 2 or labels.shape != (logits.shape[0], *logits.shape[2:]):
        rule = "must have the shape of logits without its axis 1"
        shapes = {"logits.shape": logits.shape}
        raise ValueError(rejection("cross_entropy", "labels", f"array of shape {labels.shape}", rule, **shapes))
    if not labels.size:
        raise ValueError(rejection("cross_entropy", "labels", f"array of shape {labels.shape}", "must not be empty"))
    classes, size = logits.shape[1], labels.size
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels[(labels < 0) | (labels >= classes)]
        raise ValueError(rejection("cross_entropy", "labels", int(wrong[0]), f"must lie in 0..{classes - 1}"))
    shifted = np.subtract(logits, logits.max(axis=1, keepdims=True), out=empty(logits.shape, logits.dtype))
    at = (np.arange(size), labels) if logits.ndim == 2 else None
    if at is not None:
        scores = shifted[at].sum(dtype=np.float64)
    else:
        # to choose by a mask, or by positions, takes ten times as long for many pixels
        true = np.expand_dims(labels, 1) == np.arange(classes).reshape(-1, *(1,) * (labels.ndim - 1))
        with np.errstate(invalid="ignore"):
            scores = np.multiply(shifted, true).sum(dtype=np.float64)
        if np.isnan(scores):  # perhaps of a class with a score of -inf, times 0
            scores = np.where(true, shifted, 0).sum(dtype=np.float64)
    gradient = np.exp(shifted, out=shifted)
    total = gradient.sum(axis=1, keepdims=True)
    loss = (np.log(total).sum(dtype=np.float64) - scores) / size
    total *= size
    gradient /= total
    share = logits.dtype.type(1 / size)
    if at is not None:
        gradient[at] -= share
    else:
        gradient -= np.multiply(true, share)
    return float(loss), gradient


def _pair(function: str, values: Array, target: Array, name: str) -> tuple[Array, Array]:
    """Check and return prediction and target, the latter in the prediction's dtype."""
    values, target = np.asarray(values), np.asarray(target)
    if values.dtype.kind != "f":
        raise TypeError(rejection(function, name, f"array of dtype {values.dtype}", "must be floating"))
    if target.dtype.kind not in "fiub":
        raise TypeError(rejection(function, "target", f"array of dtype {target.dtype}", "must hold real numbers"))
    if target.shape != values.shape or not values.size:
        rule = f"must be of the shape of {name}, and not empty"
        shapes = {f"{name}.shape": values.shape}
        raise ValueError(rejection(function, "target", f"array of shape {target.shape}", rule, **shapes))
    return values, target.astype(values.dtype, copy=False)


def _sigmoid(logits: Array) -> Array:
    """``1 / (1 + exp(-z))`` without overflow."""
    small = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits < 0, small, 1) / (1 + small))


def mse_loss(input: Array, target: Array) -> tuple[float, Array]:
    """Mean of ``(input - target)^2``.

    Parameters
    ----------
    input : ndarray of float
        The prediction.
    target : ndarray
        The truth, of the same shape.

    Returns
    -------
    loss : float
    gradient : ndarray
        Gradient of the loss to the input.
    """
    input, target = _pair("mse_loss", input, target, "input")
    difference = input - target
    return float(np.square(difference).mean(dtype=np.float64)), difference * input.dtype.type(2 / input.size)


def l1_loss(input: Array, target: Array) -> tuple[float, Array]:
    """Mean of ``|input - target|``; arguments and result as for `mse_loss`."""
    input, target = _pair("l1_loss", input, target, "input")
    difference = input - target
    loss = np.abs(difference).mean(dtype=np.float64)
    return float(loss), np.sign(difference) * input.dtype.type(1 / input.size)


def binary_cross_entropy_with_logits(input: Array, target: Array) -> tuple[float, Array]:
    """Mean of ``-target log s - (1 - target) log(1 - s)`` with ``s = sigmoid(input)``, for targets from 0 to 1.

    Arguments and result as for `mse_loss`.
    """
    input, target = _pair("binary_cross_entropy_with_logits", input, target, "input")
    loss = (np.maximum(input, 0) - input * target + np.log1p(np.exp(-np.abs(input)))).mean(dtype=np.float64)
    return float(loss), (_sigmoid(input) - target) * input.dtype.type(1 / input.size)


def sigmoid_focal_loss(inputs: Array, targets: Array, alpha: float = 0.25, gamma: float = 2.0) -> tuple[float, Array]:
    """Cross-entropy that counts less where the answer is right already (Lin et al., 2017).

    Mean of ``-a (1 - s)^gamma log s`` with s the probability given to the true answer and a = alpha where it is 1,
    1 - alpha where it is 0.  The names are torchvision's.

    Parameters
    ----------
    inputs : ndarray of float
        Scores before the sigmoid.
    targets : ndarray
        0 or 1, of the same shape.
    alpha : float
        Weight of the targets that are 1, from 0 to 1; below 0, all weigh 1.
    gamma : float
        How fast an easy answer loses weight.

    Returns
    -------
    loss : float
    gradient : ndarray
        Gradient of the loss to the inputs.
    """
    inputs, targets = _pair("sigmoid_focal_loss", inputs, targets, "inputs")
    if gamma < 0 or alpha > 1:
        raise ValueError(rejection("sigmoid_focal_loss", "gamma, alpha", (gamma, alpha), "must be >= 0 and <= 1"))
    sign = 2 * targets - 1
    towards = inputs * sign
    right = _sigmoid(towards)
    log_right = np.minimum(towards, 0) - np.log1p(np.exp(-np.abs(towards)))
    wrong = 1 - right
    weight = alpha * targets + (1 - alpha) * (1 - targets) if alpha >= 0 else np.ones_like(targets)
    loss = (-weight * wrong**gamma * log_right).mean(dtype=np.float64)
    slope = weight * wrong**gamma * (gamma * right * log_right - wrong) * sign
    return float(loss), slope * inputs.dtype.type(1 / inputs.size)


def dice_loss(input: Array, target: Array, smooth: float = 1.0) -> tuple[float, Array]:
    """Mean over samples and channels of ``1 - (2 sum s t + smooth) / (sum s + sum t + smooth)``, s = sigmoid(input).

    Parameters
    ----------
    input : (N, C, *spatial) ndarray of float
        Scores before the sigmoid.
    target : ndarray
        The mask t, 0 to 1, of the same shape.
    smooth : float
        Keeps an empty mask from dividing by zero.

    Returns
    -------
    loss : float
    gradient : ndarray
        Gradient of the loss to the input.
    """
    input, target = _pair("dice_loss", input, target, "input")
    if input.ndim < 3:
        raise ValueError(rejection("dice_loss", "input", f"array of shape {input.shape}", "must have spatial axes"))
    axes = tuple(range(2, input.ndim))
    share = _sigmoid(input)
    overlap = 2 * (share * target).sum(axis=axes, keepdims=True, dtype=np.float64) + smooth
    total = (share.sum(axis=axes, keepdims=True, dtype=np.float64)
             + target.sum(axis=axes, keepdims=True, dtype=np.float64) + smooth)  # fmt: skip
    loss = (1 - overlap / total).mean()
    by_target, by_all = (-2 / total).astype(input.dtype), (overlap / total**2).astype(input.dtype)
    gradient = (by_target * target + by_all) * share * (1 - share)
    return float(loss), gradient * input.dtype.type(total.size**-1)
