"""Optimisers: one step along the gradients, with torch's formulas."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from voxconv.errors import rejection
from voxconv.nn.module import Array, Parameter

__all__ = ["SGD", "Adam"]


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
            velocity = gradient.copy() if last is None else self.momentum * last + gradient
            self._velocity[index] = velocity
            gradient = gradient + self.momentum * velocity if self.nesterov else velocity
        data -= self.lr * gradient


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
