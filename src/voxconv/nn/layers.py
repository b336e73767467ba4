"""Layers with torch.nn's names, constructor arguments and parameters; each backward pass is written out."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from voxconv import functional, grad
from voxconv.errors import rejection
from voxconv.memory import empty
from voxconv.nn.module import Array, Module, Parameter
from voxconv.plan import choose, choose_backend
from voxconv.problem import ConvProblem, is_ready

if TYPE_CHECKING:
    from voxconv.nn.maxpool import _MaxPool

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "Flatten",
    "LeakyReLU",
    "Linear",
    "ReLU",
]

Seed = np.random.Generator | int | None
Size = int | Sequence[int]


def _uniform(shape: tuple[int, ...], fan_in: int, rng: np.random.Generator, dtype: np.dtype[Any]) -> Parameter:
    """Initialise as torch's layers do: kaiming uniform with a = sqrt(5) is a bound of 1 / sqrt(fan_in)."""
    bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
    return Parameter(rng.uniform(-bound, bound, shape).astype(dtype))


def _float_dtype(function: str, dtype: npt.DTypeLike) -> np.dtype[Any]:
    """float32 or float64, the dtypes that layers compute in."""
    result = np.dtype(dtype)
    if result not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(rejection(function, "dtype", dtype, "must be float32 or float64"))
    return result


def _size(function: str, argument: str, value: Any, least: int = 1) -> int:
    """Check a number of channels or features."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(rejection(function, argument, value, "must be an integer"))
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(rejection(function, argument, value, "must be an integer")) from None
    if number < least:
        raise ValueError(rejection(function, argument, value, f"must be at least {least}"))
    return number


class _Conv(Module):
    """What the three ranks share; ``rank`` picks the functions."""

    rank: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Any = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        dtype: npt.DTypeLike = np.float32,
        rng: Seed = None,
        backend: str = "auto",
        precision: str = "default",
    ) -> None:
        name = type(self).__name__
        self.in_channels = _size(name, "in_channels", in_channels)
        self.out_channels = _size(name, "out_channels", out_channels)
        self.groups = _size(name, "groups", groups)
        for argument, channels in (("in_channels", self.in_channels), ("out_channels", self.out_channels)):
            if channels % self.groups:
                raise ValueError(rejection(name, argument, channels, f"must be divisible by groups={self.groups}"))
        per_axis = kernel_size if isinstance(kernel_size, Sequence) else (kernel_size,) * self.rank
        if len(per_axis) != self.rank:
            raise ValueError(rejection(name, "kernel_size", kernel_size, f"must be an integer or {self.rank} of them"))
        self.kernel_size = tuple(_size(name, "kernel_size", size) for size in per_axis)
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.backend = backend
        self.precision = precision
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        fan_in = math.prod(shape[1:])
        generator = np.random.default_rng(rng)
        real = _float_dtype(name, dtype)
        self.weight = _uniform(shape, fan_in, generator, real)
        self.bias = _uniform((self.out_channels,), fan_in, generator, real) if bias else None

    def _gradient(self, target: str, *arguments: Any) -> Array:
        """Call the gradient function of this rank, say ``conv2d_weight``."""
        function: Callable[..., Array] = getattr(grad, f"conv{self.rank}d_{target}")
        walk = (self.stride, self.padding, self.dilation, self.groups)
        return function(*arguments, *walk, backend=self.backend, precision=self.precision)

    def forward(self, x: Array, activation: str | None = None) -> Array:
        """Convolve x (N, C, *spatial), or (C, *spatial); a ReLU behind it costs no pass of its own."""
        convolve: Callable[..., Array] = getattr(functional, f"conv{self.rank}d")
        bias = None if self.bias is None else self.bias.data
        y = convolve(
            x, self.weight.data, bias, self.stride, self.padding, self.dilation, self.groups, backend=self.backend,
            precision=self.precision, activation=activation,
        )  # fmt: skip
        self._save(x)
        return y

    def rectify(self, y: Array, grad_output: Array, in_place: bool = False) -> Array:
        """Pass the gradient to a ReLU's result y behind this layer, or to a pool's behind both, through the ReLU.

        What comes out has the bias's gradient for its sums, which are taken in the same pass.  ``in_place``: it may
        take the place of what came in.
        """
        shape = (-1, self.out_channels, math.prod(y.shape[-self.rank :]))
        arrays = y.reshape(shape), grad_output.reshape(shape)
        out = arrays[1] if in_place else None
        if self.bias is None:
            return grad.relu(*arrays, out=out, backend=self.backend).reshape(y.shape)
        gradient, sums = grad.relu_bias(*arrays, out=out, backend=self.backend)
        self.bias.accumulate(sums)
        return gradient.reshape(y.shape)

    def rectify_pooled(self, y: Array, pool: _MaxPool, grad_output: Array, add: Array | None = None) -> Array:
        """As `rectify`, through a pool behind the ReLU too; add is another gradient to the ReLU's own result.

        y is the ReLU's result or, where there is nothing to add, the pool's.
        """
        if pool.keeps_taps:
            sums = None if self.bias is None else np.zeros(self.bias.data.shape, self.bias.data.dtype)
            gradient = pool.backward_through_relu(y, grad_output, add, sums)
            if self.bias is not None and sums is not None:
                self.bias.accumulate(sums)
            return gradient
        if y.shape == grad_output.shape:  # a maximum's gradient is the only one that comes through a pool
            unpooled = pool.backward(self.rectify(y, grad_output))
            assert unpooled is not None
            return unpooled
        unpooled = pool.backward(grad_output)
        assert unpooled is not None
        return self.rectify(y, unpooled if add is None else unpooled + add)

    def backward(self, grad_output: Array, input_grad: bool = True, bias_grad: bool = True) -> Array | None:
        """Three gradients: to the weight, the bias, unless it has its own already, and the input."""
        (x,) = self._restore()
        shape, weight = x.shape, self.weight.data
        self.weight.accumulate(self._gradient("weight", x, weight.shape, grad_output))
        del x  # so that its memory serves for the gradient to it
        if self.bias is not None and bias_grad:
            bias_gradient: Callable[..., Array] = getattr(grad, f"conv{self.rank}d_bias")
            self.bias.accumulate(bias_gradient(grad_output, backend=self.backend))
        return self._gradient("input", shape, weight, grad_output) if input_grad else None

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding})"
        )


class Conv1d(_Conv):
    """Convolution of signals (N, C, L), as `voxconv.conv1d`.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias
        As in torch.nn.  The padding may be any that `voxconv.conv1d` takes.
    dtype : float32 or float64
        Dtype of the parameters, and so of the arithmetic.
    rng : numpy.random.Generator or int, optional
        Source of the initial parameters; the weight is drawn first.
    backend, precision : str
        As in `voxconv.conv1d`.
    """

    rank = 1


class Conv2d(_Conv):
    """Convolution of images (N, C, H, W), as `voxconv.conv2d`; arguments as for `Conv1d`."""

    rank = 2


class Conv3d(_Conv):
    """Convolution of volumes (N, C, D, H, W), as `voxconv.conv3d`; arguments as for `Conv1d`."""

    rank = 3


class LeakyReLU(Module):
    """``x`` where positive, ``negative_slope * x`` elsewhere; NaN stays NaN.

    Parameters
    ----------
    negative_slope : float
        Slope below zero, and the gradient at zero as in torch.
    """

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = negative_slope

    def forward(self, x: Array) -> Array:
        """Apply the slope to what is not positive."""
        self._save(x)
        return np.where(x <= 0, x * self.negative_slope, x)

    def backward(self, grad_output: Array, input_grad: bool = True) -> Array | None:
        """Scale the gradient where the input was not positive."""
        (x,) = self._restore()
        return np.where(x <= 0, grad_output * self.negative_slope, grad_output) if input_grad else None

    def __repr__(self) -> str:
        return f"LeakyReLU(negative_slope={self.negative_slope})"


class ReLU(Module):
    """``max(x, 0)``; NaN stays NaN, and the gradient at zero is zero."""

    def forward(self, x: Array) -> Array:
        """Replace what is negative by zero."""
        y: Array = np.maximum(x, 0)
        self._save(y)
        return y

    def backward(self, grad_output: Array, input_grad: bool = True) -> Array | None:
        """Pass the gradient where the output was positive."""
        (y,) = self._restore()
        if not input_grad:
            return None
        shape = (1, y.shape[0] if y.ndim else 1, -1)  # the pass goes by the second axis
        return grad.relu(y.reshape(shape), grad_output.reshape(shape)).reshape(y.shape) if y.size else grad_output

    def __repr__(self) -> str:
        return "ReLU()"


class Flatten(Module):
    """Join the axes from ``start_dim`` to ``end_dim``; by default all but the samples'."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, x: Array) -> Array:
        """Reshape."""
        axes = range(x.ndim)
        try:
            first, last = axes[self.start_dim], axes[self.end_dim]
        except IndexError:
            rule = f"must have the axes start_dim={self.start_dim} to end_dim={self.end_dim}"
            raise ValueError(rejection("Flatten", "x", f"array of shape {x.shape}", rule)) from None
        if first > last:
            raise ValueError(rejection("Flatten", "start_dim", self.start_dim, f"must not come after {self.end_dim}"))
        self._save(x.shape)
        return x.reshape(*x.shape[:first], math.prod(x.shape[first : last + 1]), *x.shape[last + 1 :])

    def backward(self, grad_output: Array, input_grad: bool = True) -> Array | None:
        """Reshape back."""
        (shape,) = self._restore()
        return grad_output.reshape(shape) if input_grad else None

    def __repr__(self) -> str:
        return f"Flatten(start_dim={self.start_dim}, end_dim={self.end_dim})"


WORTH_KERNELS, ROWS, LEAST_FEATURES = 1 << 20, range(8, 4097), 64
"""Of a linear layer's products that the compiled library takes: multiplications and additions from which on, numbers of
samples, and least features, as measured.  All others are NumPy's."""


@lru_cache(maxsize=256)
def _products(rows: int, features: int, outputs: int, dtype: np.dtype[Any]) -> tuple[Callable[..., Array], ...] | None:
    """What gives x @ weight.T, grad_output.T @ x and grad_output @ weight, or None where that is left to NumPy.

    They are the three operations of one convolution: of the weight, as `outputs` channels of `features` positions, with
    grad_output, one tap, to x of `rows` channels.
    """
    known_call = getattr(choose_backend("Linear"), "known_call", None)
    small = 2 * rows * features * outputs < WORTH_KERNELS or features < LEAST_FEATURES or outputs < 2
    if known_call is None or small or rows not in ROWS:
        return None
    problem = ConvProblem(
        n=1, c=outputs, k=rows, groups=1, spatial=(features,), kernel=(1,), stride=(1,), padding=((0, 0),),
        dilation=(1,), output=(features,), dtype=dtype,
    )  # fmt: skip
    operations = "conv_weight_grad", "conv_input_grad", "conv"
    choices = [choose(problem, operation, "native", precision="strict", function="Linear") for operation in operations]
    return tuple(known_call(problem, *each) for each in zip(operations, (c.algorithm for c in choices), strict=True))


class Linear(Module):
    """``x @ weight.T + bias`` on the last axis.

    Products of a million operations and more, of 8 to 4096 rows and 64 features or more, are the compiled library's,
    where that is there; all others are NumPy's own, so their last bits are those of the BLAS that it was built with.

    Parameters
    ----------
    in_features, out_features : int
        Sizes of the last axis before and after.
    bias : bool
        Whether to add a learned bias.
    dtype, rng
        As for `Conv1d`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: npt.DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        self.in_features = _size("Linear", "in_features", in_features, 0)
        self.out_features = _size("Linear", "out_features", out_features, 0)
        generator = np.random.default_rng(rng)
        real = _float_dtype("Linear", dtype)
        self.weight = _uniform((self.out_features, self.in_features), self.in_features, generator, real)
        self.bias = _uniform((self.out_features,), self.in_features, generator, real) if bias else None

    def forward(self, x: Array) -> Array:
        """Multiply x (*, in_features)."""
        weight = self.weight.data
        if x.ndim < 1 or x.shape[-1] != self.in_features:
            rule = f"must have in_features={self.in_features} on its last axis"
            raise ValueError(rejection("Linear", "x", f"array of shape {x.shape}", rule))
        if x.dtype.kind not in "iu" and x.dtype != weight.dtype:
            raise TypeError(rejection("Linear", "x", f"array of dtype {x.dtype}", f"must be {weight.dtype} or integer"))
        x = x.astype(weight.dtype, copy=False)
        self._save(x)
        rows = x.reshape(math.prod(x.shape[:-1]), self.in_features)
        products = self._kernels(rows)
        y = rows @ weight.T if products is None else products[0](weight, rows)
        y = y.reshape(*x.shape[:-1], self.out_features)
        if self.bias is not None:
            y += self.bias.data
        return y

    def _kernels(self, rows: Array, gradient: Array | None = None) -> tuple[Callable[..., Array], ...] | None:
        """`_products` for these arrays, unless they have to be copied for that."""
        weight, count = self.weight.data, len(rows)
        ready = is_ready(rows, (count, self.in_features), weight.dtype) and is_ready(weight, weight.shape, weight.dtype)
        if ready and (gradient is None or is_ready(gradient, (count, self.out_features), weight.dtype)):
            return _products(count, self.in_features, self.out_features, weight.dtype)
        return None

    def backward(self, grad_output: Array, input_grad: bool = True) -> Array | None:
        """Three gradients: to the weight, the bias and the input."""
        (x,) = self._restore()
        weight = self.weight.data
        count = math.prod(x.shape[:-1])
        gradient, rows = grad_output.reshape(count, self.out_features), x.reshape(count, self.in_features)
        products = self._kernels(rows, gradient)
        self.weight.accumulate(
            gradient.T @ rows if products is None else products[1](rows, gradient).reshape(weight.shape)
        )
        if self.bias is not None:
            self.bias.accumulate(gradient.sum(axis=0))
        if not input_grad:
            return None
        if products is None:
            into = empty(rows.shape, np.result_type(gradient, weight))
            return np.matmul(gradient, weight, out=into).reshape(x.shape)
        return products[2](weight, gradient).reshape(x.shape)

    def __repr__(self) -> str:
        return f"Linear({self.in_features}, {self.out_features}, bias={self.bias is not None})"
