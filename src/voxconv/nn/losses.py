"""Losses: a number and its gradient at once, since they share their work."""

from __future__ import annotations

import numpy as np

from voxconv.errors import rejection
from voxconv.nn.module import Array

__all__ = ["cross_entropy"]


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
    classes = logits.shape[1]
    wrong = labels[(labels < 0) | (labels >= classes)]
    if wrong.size:
        raise ValueError(rejection("cross_entropy", "labels", int(wrong[0]), f"must lie in 0..{classes - 1}"))
    chosen = np.expand_dims(labels.astype(np.intp), 1)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = -np.take_along_axis(log_probability, chosen, axis=1).mean(dtype=np.float64)
    gradient = np.exp(log_probability)
    np.put_along_axis(gradient, chosen, np.take_along_axis(gradient, chosen, axis=1) - 1, axis=1)
    gradient /= labels.size
    return float(loss), gradient
