"""Learning-rate schedules with torch's names; the rate is a function of the number of epochs, nothing is carried."""

from __future__ import annotations

import math

from voxconv.errors import rejection
from voxconv.nn.optim import _Optimizer

__all__ = ["CosineAnnealingLR", "ExponentialLR", "LinearLR", "StepLR"]


class _Schedule:
    """Sets ``optimizer.lr`` to its first value times ``factor(epoch)``."""

    def __init__(self, optimizer: _Optimizer) -> None:
        self.optimizer = optimizer
        self.base_lr = optimizer.lr
        self.last_epoch = 0
        self.set_epoch(0)

    def factor(self, epoch: int) -> float:
        """The rate after this many epochs, in units of the first."""
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        """Set the rate for this epoch, counted from 0."""
        self.last_epoch = epoch
        self.optimizer.lr = self.base_lr * self.factor(epoch)

    def step(self) -> None:
        """Go on to the next epoch."""
        self.set_epoch(self.last_epoch + 1)


class StepLR(_Schedule):
    """Multiplies the rate by ``gamma`` every ``step_size`` epochs."""

    def __init__(self, optimizer: _Optimizer, step_size: int, gamma: float = 0.1) -> None:
        if step_size < 1:
            raise ValueError(rejection("StepLR", "step_size", step_size, "must be at least 1"))
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer)

    def factor(self, epoch: int) -> float:
        """``gamma`` to the number of whole steps."""
        return self.gamma ** (epoch // self.step_size)


class ExponentialLR(_Schedule):
    """Multiplies the rate by ``gamma`` every epoch."""

    def __init__(self, optimizer: _Optimizer, gamma: float) -> None:
        self.gamma = gamma
        super().__init__(optimizer)

    def factor(self, epoch: int) -> float:
        """``gamma`` to the number of epochs."""
        return self.gamma**epoch


class CosineAnnealingLR(_Schedule):
    """Half a cosine from the first rate to ``eta_min`` in ``T_max`` epochs (Loshchilov and Hutter, 2017)."""

    def __init__(self, optimizer: _Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        if T_max < 1:
            raise ValueError(rejection("CosineAnnealingLR", "T_max", T_max, "must be at least 1"))
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer)

    def factor(self, epoch: int) -> float:
        """The cosine, shifted and scaled."""
        low = self.eta_min / self.base_lr if self.base_lr else 0.0
        return low + (1 - low) * (1 + math.cos(math.pi * epoch / self.T_max)) / 2


class LinearLR(_Schedule):
    """A line from ``start_factor`` to ``end_factor`` in ``total_iters`` epochs: a warm-up, by default."""

    def __init__(
        self, optimizer: _Optimizer, start_factor: float = 1 / 3, end_factor: float = 1.0, total_iters: int = 5
    ) -> None:
        if total_iters < 1:
            raise ValueError(rejection("LinearLR", "total_iters", total_iters, "must be at least 1"))
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer)

    def factor(self, epoch: int) -> float:
        """The line, and its end from then on."""
        share = min(epoch, self.total_iters) / self.total_iters
        return self.start_factor + (self.end_factor - self.start_factor) * share
