"""Square and cubic patches, and a trained network's response at every pixel of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from voxconv import functional, nn
from voxconv.errors import rejection

__all__ = ["cut_patches", "dense_response", "window_mean"]

Array = npt.NDArray[Any]


def cut_patches(image: Array, centres: Array, size: int) -> Array:
    """Cut squares or cubes of ``size`` voxels, each from ``centre - size // 2``.

    Parameters
    ----------
    image : (rows, columns) or (slices, rows, columns) ndarray
        The slice or volume.
    centres : (n, ndim) ndarray of int
        Position of each patch's centre.
    size : int
        Side of a patch.

    Returns
    -------
    (n, 1, size, ...) ndarray
    """
    corners = np.asarray(centres) - size // 2
    if len(corners) and ((corners < 0).any() or (corners + size > image.shape).any()):
        first = np.argmax(((corners < 0) | (corners + size > image.shape)).any(axis=1))
        rule = f"must lie at least half a patch of {size} inside the image"
        where = tuple(int(v) for v in centres[first])
        raise ValueError(rejection("cut_patches", "centres", where, rule, image=image.shape))
    windows = np.lib.stride_tricks.sliding_window_view(image, (size,) * image.ndim)
    return np.ascontiguousarray(windows[tuple(corners.T)])[:, None]


def window_mean(image: Array, size: int) -> Array:
    """Mean of the patch around each pixel, placed as `cut_patches` places patches; outside the image counts as 0."""
    before = size // 2
    padding = ((before, size - 1 - before),) * image.ndim
    pool = functional.avg_pool2d if image.ndim == 2 else functional.avg_pool3d
    mean: Array = pool(image[None], size, stride=1, padding=padding)[0]
    return mean


def _data(bias: nn.Parameter | None) -> Array | None:
    return None if bias is None else bias.data


def dense_response(model: nn.Sequential, image: Array, size: int, *, backend: str = "auto") -> Array:
    """What the network answers for the patch around each pixel, without running patch by patch.

    Neighbouring patches share nearly all of their work.  So the layers run once over the whole slice:
    a pool of stride s is replaced by one of stride 1, and from then on every window reaches s times as
    far (dilation).  The linear layer is a convolution with windows of its input's size.  The answers are
    those of ``model(cut_patches(image, centres, size))``.

    Parameters
    ----------
    model : Sequential
        Conv2d (stride 1, no padding), ReLU, MaxPool2d (no padding), then Flatten and one Linear.
    image : (rows, columns) ndarray
        The slice, as the network was trained to see it.
    size : int
        Side of the patches that the network was trained on.
    backend : str
        As in `voxconv.conv2d`.

    Returns
    -------
    (outputs, rows, columns) ndarray
        NaN where the patch does not fit into the image.
    """
    x = image[None]
    reach = 1
    side = size
    for layer in model:
        match layer:
            case nn.Conv2d(stride=1, padding=0, dilation=1, weight=weight, bias=bias):
                x = functional.conv2d(x, weight.data, _data(bias), dilation=reach, backend=backend)
                side -= weight.data.shape[2] - 1
            case nn.MaxPool2d(kernel_size=int(window), padding=0, dilation=1) if layer.stride in (None, window):
                x = functional.max_pool2d(x, window, stride=1, dilation=reach, backend=backend)
                side //= window
                reach *= window
            case nn.Linear(weight=weight, bias=bias):
                kernel = weight.data.reshape(len(weight.data), -1, side, side)
                x = functional.conv2d(x, kernel, _data(bias), dilation=reach, backend=backend)
            case nn.ReLU():
                x = layer(x)
            case nn.Flatten():
                pass
            case _:
                rule = "must be Conv2d, ReLU, MaxPool2d, Flatten or Linear, unpadded, its pools as wide as their stride"
                raise ValueError(rejection("dense_response", "model", layer, rule))
    response = np.full((len(x), *image.shape), np.nan, x.dtype)
    corner = size // 2
    rows, columns = (extent - size + 1 for extent in image.shape)
    response[:, corner : corner + rows, corner : corner + columns] = x[:, :rows, :columns]
    return response
