"""Optimisers: one step along the gradients, with torch's formulas."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from voxconv.backends import Descend, Descent, Learned, get_backend
from voxconv.errors import rejection
from voxconv.nn.module import Array, Parameter
from voxconv.plan import choose_backend
from voxconv.problem import FLOAT32, FLOAT64, is_ready

__all__ = ["SGD", "Adam", "AdamW"]


@dataclass(frozen=True, slots=True)
class _Pass:
    """Parameters of one dtype, by their positions, and what makes their step; apart: (parameter's, contiguous copy)."""

    indices: list[int]
    data: list[Array]
    apart: list[tuple[Array, Array]]
    run: Descend


class _Optimizer:
    """The parameters, and what the two formulas share."""

    rule: ClassVar[str]

    def __init__(self, parameters: Iterable[Parameter], lr: float, weight_decay: float) -> None:
        self.parameters = list(parameters)
        self.lr = float(lr)
        self.weight_decay = float(weight_decay)
        self._passes: list[_Pass] = []
        self._seen: dict[int, Array] = {}
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
        """Change every parameter that has a gradient, those of one dtype in one pass."""
        given = [(index, p.data) for index, p in enumerate(self.parameters) if p.grad is not None]
        if len(given) != len(self._seen) or any(self._seen.get(index) is not data for index, data in given):
            self._prepare(given)
        descent = self._descent()
        for one in self._passes:
            gradients = [self._gradient(index, data) for index, data in zip(one.indices, one.data, strict=True)]
            for data, copy in one.apart:
                copy[...] = data
            one.run(descent, gradients, *self._rates(one.indices))
            for data, copy in one.apart:
                data[...] = copy

    def _gradient(self, index: int, data: Array) -> Array:
        """A parameter's gradient as a backend takes it."""
        gradient: Array = self.parameters[index].grad  # type: ignore[assignment]
        if not is_ready(gradient, data.shape, data.dtype):
            gradient = np.require(gradient, data.dtype, ("C", "A"))
        if gradient.shape != data.shape:
            rule = f"must have the shape of its data, {data.shape}"
            given = f"array of shape {gradient.shape}"
            raise ValueError(rejection(type(self).__name__, f"parameters[{index}].grad", given, rule))
        return gradient

    def _prepare(self, given: list[tuple[int, Array]]) -> None:
        """Sort arrays into passes: a backend's floats, or what NumPy alone computes in; none twice in one pass."""
        groups: dict[tuple[np.dtype[np.generic], int], list[tuple[int, Array]]] = {}
        times: dict[int, int] = {}
        for index, data in given:
            times[id(data)] = times.get(id(data), 0) + 1
            groups.setdefault((data.dtype, times[id(data)]), []).append((index, data))
        self._passes, self._seen = [], dict(given)
        for (dtype, _), members in groups.items():
            compiled = dtype in (FLOAT32, FLOAT64)
            backend = choose_backend(type(self).__name__) if compiled else get_backend("reference")
            indices, arrays = [index for index, _ in members], [data for _, data in members]
            used = [own if own.flags.carray or not compiled else np.empty_like(own, order="C") for own in arrays]
            apart = [(own, copy) for own, copy in zip(arrays, used, strict=True) if own is not copy]
            learned = [Learned(own, *self._memory(index, own)) for index, own in zip(indices, used, strict=True)]
            self._passes.append(_Pass(indices, used, apart, backend.descend(self.rule, learned)))

    def _forget(self) -> None:
        """Have the next step look at all arrays anew."""
        self._passes, self._seen = [], {}

    def _restored(self, state_dict: Mapping[str, Array], name: str) -> Array:
        """A copy of what `state_dict` holds by a name that ends with the parameter's position, in that one's dtype."""
        data = self.parameters[int(name.rpartition(".")[2])].data
        array = np.array(state_dict[name], data.dtype, order="C")
        if array.shape != data.shape:
            rule = f"must have the shape of its parameter, {data.shape}"
            raise ValueError(rejection(type(self).__name__, name, f"array of shape {array.shape}", rule))
        return array

    def _memory(self, index: int, data: Array) -> tuple[Array, ...]:
        """What a parameter's earlier steps have left behind, zeros before the first."""
        raise NotImplementedError

    def _descent(self) -> Descent:
        """What a step does to all parameters alike."""
        raise NotImplementedError

    def _rates(self, indices: Sequence[int]) -> tuple[list[float], list[float]]:
        """Each parameter's step size and scale; called once a step."""
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

    rule = "sgd"

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

    @property
    def momentum(self) -> float:
        """Share of the last step that is kept."""
        return self._momentum

    @momentum.setter
    def momentum(self, value: float) -> None:
        self._momentum = value
        self._forget()  # without momentum there is no velocity

    def _memory(self, index: int, data: Array) -> tuple[Array, ...]:
        return (self._velocity.setdefault(index, np.zeros(data.shape, data.dtype)),) if self.momentum else ()

    def _descent(self) -> Descent:
        return Descent(self.momentum, self.nesterov, weight_decay=self.weight_decay)

    def _rates(self, indices: Sequence[int]) -> tuple[list[float], list[float]]:
        return [self.lr] * len(indices), [1.0] * len(indices)

    def state_dict(self) -> dict[str, Array]:
        """Velocities, as ``velocity.0`` for the first parameter."""
        return {f"velocity.{index}": velocity.copy() for index, velocity in self._velocity.items()}

    def load_state_dict(self, state_dict: Mapping[str, Array]) -> None:
        """Take over velocities."""
        self._velocity = {int(name.rpartition(".")[2]): self._restored(state_dict, name) for name in state_dict}
        self._forget()


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

    rule = "adam"

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
        self._steps: dict[int, int] = {}
        self._means: dict[int, tuple[Array, Array]] = {}

    def _memory(self, index: int, data: Array) -> tuple[Array, ...]:
        if index not in self._means:
            self._steps[index] = 0
            self._means[index] = np.zeros(data.shape, data.dtype), np.zeros(data.shape, data.dtype)
        return self._means[index]

    def _descent(self) -> Descent:
        return Descent(self.betas[0], second=self.betas[1], eps=self.eps, weight_decay=self.weight_decay)

    def _rates(self, indices: Sequence[int]) -> tuple[list[float], list[float]]:
        first, second = self.betas
        for index in indices:
            self._steps[index] += 1
        steps = [self._steps[index] for index in indices]
        return [self.lr / (1 - first**n) for n in steps], [1 / math.sqrt(1 - second**n) for n in steps]

    def state_dict(self) -> dict[str, Array]:
        """Number of steps and both means, as ``steps.0``, ``mean.0`` and ``square.0`` for the first parameter."""
        state: dict[str, Array] = {}
        for index, (mean, square) in self._means.items():
            steps = np.array(self._steps[index])
            state |= {f"steps.{index}": steps, f"mean.{index}": mean.copy(), f"square.{index}": square.copy()}
        return state

    def load_state_dict(self, state_dict: Mapping[str, Array]) -> None:
        """Take over numbers of steps and means."""
        positions = [int(name.rpartition(".")[2]) for name in state_dict if name.startswith("steps.")]
        self._steps = {index: int(state_dict[f"steps.{index}"]) for index in positions}
        self._means = {
            index: (self._restored(state_dict, f"mean.{index}"), self._restored(state_dict, f"square.{index}"))
            for index in positions
        }
        self._forget()


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

    def _descent(self) -> Descent:
        return super()._descent()._replace(shrink=1 - self.lr * self.decay)
