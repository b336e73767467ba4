"""Training, in one way for every task: the validation part says after which epoch to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from voxconv import nn

__all__ = ["NOTE", "Show", "train"]

Array = npt.NDArray[Any]
Show = Callable[[Iterable[int], int, str], Iterable[int]] | None

NOTE = "Of the half to learn from, the lower rows train nothing: the epoch that does best on them goes into the test."


def train(
    model: nn.Module,
    loss: Callable[[Array, Array], tuple[float, Array]],
    batches: Callable[[np.random.Generator], Iterable[tuple[Array, Array]]],
    validation: tuple[Array, Array],
    epochs: int,
    rate: float,
    *,
    decay: float = 0.01,
    seed: int,
    label: str,
    show: Show,
) -> int:
    """Train with AdamW and a rate that falls as half a cosine, and keep the epoch that validates best.

    Parameters
    ----------
    model, loss, batches, seed, label, show
        As for `voxconv.nn.fit`.
    validation : (x, y)
        From the half to learn from, though not from the part that is trained on.
    epochs : int
        How many at most: what time allows.
    rate, decay : float
        Learning rate at first, and weight decay.

    Returns
    -------
    int
        The epoch whose weights the model has now, counted from 1.
    """
    optimizer = nn.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    schedule = nn.CosineAnnealingLR(optimizer, epochs)
    history = nn.fit(
        model, optimizer, loss, batches, epochs, validation=validation, schedule=schedule, seed=seed, label=label,
        show=show,
    )  # fmt: skip
    return history.best_epoch
