"""Optimisers: one step along the gradients, with torch's formulas."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from voxconv.errors import rejection
from voxconv.nn.module import Array, Parameter

__all__ = ["SGD", "Adam", "AdamW"]


class _Optimizer:
    """The parameters, and what the two formulas share."""

    def __init__(self, parameters: Iterable[Parameter], lr: float, weight_decay: float) -> None:
        self.parameters = list(parameters)
        self.lr = float(lr)
        self.weight_decay = float(weight_decay)
        name = type(self).__name__
        if not self.parameters:
            raise ValueError(rejection(name, "parameters", self.parameters, "must hold at least one parameter"))
        for parameter in self.parameters:
            if not isinstance(parameter, Parameter):
                raise TypeError(rejection(name, "parameters", parameter, "must be Parameter objects"))
        self._check("lr", lr)
        self._check("weight_decay", weight_decay)

    def _check(self, argument: str, value: float, below: float = np.inf) -> None:
        if not 0 <= value < below:
            limit = "finite" if below == np.inf else f"below {below:g}"
            raise ValueError(rejection(type(self).__name__, argument, value, f"must be at least 0 and {limit}"))

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> None:
        """Change every parameter that has a gradient."""
        for index, parameter in enumerate(self.parameters):
            if parameter.grad is not None:
                gradient = parameter.grad
                if self.weight_decay:
                    gradient = gradient + self.weight_decay * parameter.data
                self._update(index, parameter.data, gradient)

    def _update(self, index: int, data: Array, gradient: Array) -> None:
        """Change ``data`` in place."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Array]:
        """Copy what the steps so far have left behind, by name and the parameter's position; empty before the first."""
        raise NotImplementedError

    def load_state_dict(self, state_dict: Mapping[str, Array]) -> None:
        """Go on from where `state_dict` was taken, with the same parameters in the same order."""
        raise NotImplementedError


class SGD(_Optimizer):
    """Gradient descent: ``v = momentum * v + g``, ``p -= lr * v``.

    Parameters
    ----------
    parameters : iterable of Parameter
        What to learn, from ``model.parameters()``.
    lr : float
        Step size.
    momentum : float
        Share of the last step that is kept.
    weight_decay : float
        Adds ``weight_decay * p`` to the gradient; an L2 penalty.
    nesterov : bool
        Looks one step ahead: ``p -= lr * (g + momentum * v)``.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 1e-3,
        momentum: float = 0.0,
        *,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(parameters, lr, weight_decay)
        self._check("momentum", momentum)
        self.momentum = momentum
        self.nesterov = nesterov
        self._velocity: dict[int, Array] = {}

    def _update(self, index: int, data: Array, gradient: Array) -> None:
        if self.momentum:
            last = self._velocity.get(index)
            if last is None:
                velocity = self._velocity[index] = gradient.astype(data.dtype)
            else:
                velocity = np.multiply(last, self.momentum, out=last)
                velocity += gradient
            gradient = gradient + self.momentum * velocity if self.nesterov else velocity
        data -= self.lr * gradient

    def state_dict(self) -> dict[str, Array]:
        """Velocities, as ``velocity.0`` for the first parameter."""
        return {f"velocity.{index}": velocity.copy() for index, velocity in self._velocity.items()}

    def load_state_dict(self, state_dict: Mapping[str, Array]) -> None:
        """Take over velocities."""
        self._velocity = {int(name.rpartition(".")[2]): np.array(value) for name, value in state_dict.items()}


class Adam(_Optimizer):
    """Adam (Kingma and Ba, 2015), with torch's placing of ``eps``.

    Parameters
    ----------
    parameters : iterable of Parameter
        What to learn, from ``model.parameters()``.
    lr : float
        Step size.
    betas : (float, float)
        Decay of the running means of the gradient and of its square.
    eps : float
        Added to the root of the second mean.
    weight_decay : float
        Adds ``weight_decay * p`` to the gradient; an L2 penalty.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr, weight_decay)
        for position, beta in enumerate(betas):
            self._check(f"betas[{position}]", beta, 1.0)
        self._check("eps", eps)
        self.betas = betas
        self.eps = eps
        self._means: dict[int, tuple[int, Array, Array]] = {}

    def _update(self, index: int, data: Array, gradient: Array) -> None:
        first, second = self.betas
        steps, mean, square = self._means.get(index, (0, np.zeros_like(data), np.zeros_like(data)))
        steps += 1
        mean += (1 - first) * (gradient - mean)
        square *= second
        square += (1 - second) * gradient * gradient
        self._means[index] = steps, mean, square
        root = np.sqrt(square) / math.sqrt(1 - second**steps) + self.eps
        data -= self.lr / (1 - first**steps) * mean / root

    def state_dict(self) -> dict[str, Array]:
        """Number of steps and both means, as ``steps.0``, ``mean.0`` and ``square.0`` for the first parameter."""
        state: dict[str, Array] = {}
        for index, (steps, mean, square) in self._means.items():
            state |= {f"steps.{index}": np.array(steps), f"mean.{index}": mean.copy(), f"square.{index}": square.copy()}
        return state

    def load_state_dict(self, state_dict: Mapping[str, Array]) -> None:
        """Take over numbers of steps and means."""
        positions = [int(name.rpartition(".")[2]) for name in state_dict if name.startswith("steps.")]
        self._means = {
            index: (
                int(state_dict[f"steps.{index}"]), np.array(state_dict[f"mean.{index}"]),
                np.array(state_dict[f"square.{index}"]),
            )
            for index in positions
        }  # fmt: skip


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019): ``p *= 1 - lr * weight_decay`` before each step.

    Parameters
    ----------
    parameters, lr, betas, eps
        As for `Adam`.
    weight_decay : float
        Share, in units of the step size, by which each step shrinks the parameters.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(parameters, lr, betas, eps, 0.0)
        self._check("weight_decay", weight_decay)
        self.decay = float(weight_decay)

    def _update(self, index: int, data: Array, gradient: Array) -> None:
        data *= 1 - self.lr * self.decay
        super()._update(index, data, gradient)
