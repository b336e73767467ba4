"""Two kernels drawn by hand, to show what a convolution does."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["blob_kernel", "square_kernel"]

Array = npt.NDArray[Any]


def square_kernel() -> Array:
    """Return 4 x 4 weights that answer to a bright square of 2 x 2 pixels and add up to nothing."""
    return np.pad(np.full((2, 2), 3, np.float32), 1, constant_values=-1)


def blob_kernel(side: int = 15, sigma: float = 3.5) -> Array:
    """Return a Laplacian of a Gaussian, turned so that it answers to round bright spots; its sum is zero.

    Parameters
    ----------
    side : int
        Rows and columns, in pixels.
    sigma : float
        Of the Gaussian, in pixels; a spot of radius 1.4 sigma is answered loudest.
    """
    rows, columns = np.indices((side, side)) - (side - 1) / 2
    radius = (rows**2 + columns**2) / (2 * sigma**2)
    kernel = (1 - radius) * np.exp(-radius)
    return np.asarray((kernel - kernel.mean()) / np.abs(kernel).sum(), np.float32)
