"""Max-pooling, and the way back through it, which training takes together with a ReLU before it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from voxconv import functional, grad
from voxconv import problem as rules
from voxconv.errors import rejection
from voxconv.memory import empty
from voxconv.nn.layers import Size
from voxconv.nn.module import Array, Module
from voxconv.plan import choose_backend
from voxconv.problem import WindowProblem, is_ready

__all__ = ["MaxPool1d", "MaxPool2d", "MaxPool3d"]

UINT8 = np.dtype(np.uint8)


class _MaxPool(Module):
    """What the three ranks share; ``rank`` picks the functions."""

    rank: ClassVar[int]
    _last: tuple[tuple[Any, ...], WindowProblem] | None = None
    """What the last problem that kept taps was made of, and that."""

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Any = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        *,
        backend: str = "auto",
    ) -> None:
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode
        self.backend = backend

    def forward(self, x: Array) -> Any:
        """Maximum of each window; with ``return_indices`` a pair (output, indices)."""
        walk = (self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        # The backward pass needs to know where maxima stand; without one that is not worth writing.
        wanted = self.training or self.return_indices
        if self.training and not self.return_indices:
            problem = self._known(x, walk)
            if problem is None:
                problem, batched, x = rules.window(f"max_pool{self.rank}d", self.rank, x, *walk, kinds="fiu")
                if not (problem.in_pairs and batched and x.size):
                    problem, x = None, x if batched else x[0]
                elif rules.is_plain(walk[:-1]):
                    self._last = walk, problem
            if problem is not None:
                shape = problem.output_shape
                y, taps = empty(shape, problem.dtype), empty(shape, UINT8)
                choose_backend(type(self).__name__, self.backend).max_pool_taps(problem, x, y, taps)
                self._save(taps, problem)
                return y
        pool: Callable[..., Any] = getattr(functional, f"max_pool{self.rank}d")
        result = pool(x, *walk, wanted, backend=self.backend)
        if not wanted:
            return result
        y, indices = result
        self._save(indices, np.shape(x))
        return (y, indices) if self.return_indices else y

    def _known(self, x: Array, walk: tuple[Any, ...]) -> WindowProblem | None:
        """The last problem if this is the same, by options that are the same objects: True, for one, is equal to 1."""
        if self._last is None:
            return None
        last, problem = self._last
        same = all(map(operator.is_, walk, last)) and is_ready(x, problem.input_shape, problem.dtype)
        return problem if same else None

    def backward(self, grad_output: Array, input_grad: bool = True) -> Array | None:
        """Send each gradient to where its maximum stood."""
        places, what = self._restore()
        if not input_grad:
            return None
        if isinstance(what, WindowProblem):
            return self._unpool(what, grad_output, places)
        scatter: Callable[..., Array] = getattr(grad, f"max_pool{self.rank}d_input")
        return scatter(grad_output, places, what, backend=self.backend)

    @property
    def keeps_taps(self) -> bool:
        """Whether the last forward pass kept a byte a window, from which one pass leads back through a ReLU too."""
        return self._saved is not None and isinstance(self._saved[1], WindowProblem)

    def backward_through_relu(self, y: Array, grad_output: Array, add: Array | None, sums: Array | None) -> Array:
        """Send each gradient, as `keeps_taps` allows, through the pool and the ReLU before it, whose result is y.

        Or, shaped as grad_output, the pool's.  ``add`` is another gradient to the ReLU's result; ``sums`` (C,) gets the
        sums of what is returned.
        """
        taps, problem = self._restore()
        if y.shape == problem.output_shape:
            return self._unpool(problem, grad_output, taps, np.ascontiguousarray(y, problem.dtype), None, add, sums)
        return self._unpool(problem, grad_output, taps, None, y, add, sums)

    def _unpool(
        self, problem: WindowProblem, grad_output: Array, taps: Array, pooled: Array | None = None,
        output: Array | None = None, add: Array | None = None, sums: Array | None = None,
    ) -> Array:  # fmt: skip
        name = type(self).__name__
        gradient = grad_output
        if not is_ready(gradient, problem.output_shape, problem.dtype):
            gradient = np.require(gradient, problem.dtype, ("C", "A"))
        if gradient.shape != problem.output_shape:
            rule = f"must have the shape of the output, {problem.output_shape}"
            raise ValueError(rejection(name, "grad_output", f"array of shape {gradient.shape}", rule))
        output, add = _samples(problem, output), _samples(problem, add)
        result = empty(problem.input_shape, problem.dtype)
        backend = choose_backend(name, self.backend)
        backend.max_pool_taps_grad(problem, gradient, taps, pooled, output, add, result, sums)
        return result

    def __repr__(self) -> str:
        return f"{type(self).__name__}(kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding})"


def _samples(problem: WindowProblem, array: Array | None) -> Array | None:
    """An array of the input's size, each sample of which is contiguous."""
    if array is None or (array.dtype == problem.dtype and array[:1].flags.c_contiguous):
        return array
    return np.ascontiguousarray(array, problem.dtype)


class MaxPool1d(_MaxPool):
    """Maximum over windows of signals (N, C, L), as `voxconv.max_pool1d`.

    Parameters
    ----------
    kernel_size, stride, padding, dilation, return_indices, ceil_mode
        As in torch.nn.
    backend : str
        As in `voxconv.max_pool1d`.
    """

    rank = 1


class MaxPool2d(_MaxPool):
    """Maximum over windows of images (N, C, H, W), as `voxconv.max_pool2d`; arguments as for `MaxPool1d`."""

    rank = 2


class MaxPool3d(_MaxPool):
    """Maximum over windows of volumes (N, C, D, H, W), as `voxconv.max_pool3d`; arguments as for `MaxPool1d`."""

    rank = 3
