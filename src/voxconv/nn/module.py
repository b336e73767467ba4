"""Parameter and Module: what every layer and every model is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from voxconv.errors import rejection

__all__ = ["Module", "Parameter"]

Array = npt.NDArray[Any]


class Parameter:
    """An array that is learned, and the gradient of the loss to it.

    Parameters
    ----------
    data : ndarray
        The values; optimisers change them in place.

    Attributes
    ----------
    grad : ndarray or None
        Sum of the gradients since the last ``zero_grad``; None where there was none.
    """

    def __init__(self, data: Array) -> None:
        self.data = data
        self.grad: Array | None = None

    def accumulate(self, gradient: Array) -> None:
        """Add a gradient, as several backward passes before one step do."""
        self.grad = gradient if self.grad is None else self.grad + gradient

    def __repr__(self) -> str:
        return f"Parameter(shape={self.data.shape}, dtype={self.data.dtype})"


class Module:
    """A differentiable function with parameters.

    A subclass writes ``forward`` and ``backward``.  Parameters and modules that it keeps as
    attributes are found in the order in which they were set.  In training mode a forward pass saves
    what the backward pass needs, and each backward pass uses that up; in evaluation mode nothing is saved.
    """

    training: bool = True
    _saved: Any = None
    _buffers: tuple[str, ...] = ()
    """Attributes that are arrays, part of the state but not learned; None where there is none."""

    def forward(self, x: Array) -> Array:
        """Compute the output."""
        raise NotImplementedError

    def backward(self, grad_output: Array, input_grad: bool = True) -> Array | None:
        """Add to the parameters' gradients and return the input's.

        Parameters
        ----------
        grad_output : ndarray
            Gradient of the loss to what the last forward pass returned.
        input_grad : bool
            False leaves out the gradient to the input, which the first layer in training has no use for.

        Returns
        -------
        ndarray or None
            Gradient to the input; None without ``input_grad``.
        """
        raise NotImplementedError

    def __call__(self, x: Array) -> Array:
        """Run ``forward``."""
        return self.forward(np.asarray(x))

    def _save(self, *values: Any) -> None:
        """Keep what ``backward`` needs, while training."""
        self._saved = values if self.training else None

    def _restore(self) -> Any:
        """Return what the forward pass saved, once."""
        if self._saved is None:
            name = type(self).__name__
            raise RuntimeError(f"{name}.backward: needs a forward pass before it, in training mode and not used up yet")
        values, self._saved = self._saved, None
        return values

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Iterate over the modules directly inside this one."""
        return ((name, value) for name, value in vars(self).items() if isinstance(value, Module))

    def modules(self) -> Iterator[Module]:
        """Iterate over this module and all inside it."""
        yield self
        for _, child in self.named_children():
            yield from child.modules()

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """All parameters with the names that torch gives them, such as "0.weight"."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value
        for name, child in self.named_children():
            yield from child.named_parameters(f"{prefix}{name}.")

    def parameters(self) -> Iterator[Parameter]:
        """All parameters, as an optimiser takes them."""
        return (parameter for _, parameter in self.named_parameters())

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def train(self, mode: bool = True) -> Self:
        """Turn training mode on or off, here and inside."""
        for module in self.modules():
            module.training = mode
            module._saved = None
        return self

    def eval(self) -> Self:
        """Turn training mode off."""
        return self.train(False)

    def named_state(self, prefix: str = "") -> Iterator[tuple[str, Array]]:
        """All arrays that make up the model, in torch's order: own parameters, own buffers, then the children's."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value.data
        for name in self._buffers:
            if getattr(self, name) is not None:
                yield prefix + name, getattr(self, name)
        for name, child in self.named_children():
            yield from child.named_state(f"{prefix}{name}.")

    def state_dict(self) -> dict[str, Array]:
        """Copy all parameters and buffers by name; unlike torch's, later training leaves them alone."""
        return {name: array.copy() for name, array in self.named_state()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over parameters and buffers by name, all or none.

        Parameters
        ----------
        state_dict : mapping of str to array_like
            One array of the right shape for each, converted to its dtype.  A torch
            ``state_dict()`` of tensors on the CPU will do.

        Raises
        ------
        ValueError
            If a name is missing, unknown, or its shape differs; the text lists each.
        TypeError
            If an array does not hold real numbers.
        """
        own = dict(self.named_state())
        problems = [f"{name!r} is missing" for name in own if name not in state_dict]
        problems += [f"{name!r} is not a parameter of this model" for name in state_dict if name not in own]
        values = {name: np.asarray(state_dict[name]) for name in own if name in state_dict}
        for name, value in values.items():
            if value.dtype.kind not in "fiu":
                rule = "must hold real numbers"
                raise TypeError(rejection("load_state_dict", name, f"array of dtype {value.dtype}", rule))
            if value.shape != own[name].shape:
                problems.append(f"{name!r} has shape {value.shape} instead of {own[name].shape}")
        if problems:
            raise ValueError("load_state_dict: state_dict does not fit: " + "; ".join(problems))
        for name, value in values.items():
            own[name][...] = value
