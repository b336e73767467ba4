"""Training as a loop that shows its progress, validates, stops early, and can be interrupted and gone on with."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from voxconv.errors import rejection
from voxconv.nn.module import Array, Module
from voxconv.nn.norm import Dropout
from voxconv.nn.optim import _Optimizer
from voxconv.nn.schedule import _Schedule

__all__ = ["History", "fit", "load_checkpoint", "progress", "save_checkpoint"]

Loss = Callable[[Array, Array], tuple[float, Array]]
Batches = Iterable[tuple[Array, Array]]


def progress(items: Iterable[int], total: int, label: str, stream: TextIO | None = None) -> Iterator[int]:
    """Pass items through and show on standard error how far they are: a bar on a terminal, else a few lines."""
    stream = sys.stderr if stream is None else stream
    terminal = stream.isatty()
    for done, item in enumerate(items, 1):
        yield item
        if terminal:
            filled = 30 * done // total
            stream.write(f"\r{label} [{'#' * filled}{'.' * (30 - filled)}] {done}/{total}")
        elif done == total or done % max(1, total // 4) == 0:
            stream.write(f"{label} {done}/{total}\n")
        stream.flush()
    if terminal:
        stream.write("\n")


@dataclass(slots=True)
class History:
    """What `fit` saw.

    Attributes
    ----------
    losses : list of float
        Loss of each training step.
    validation : list of float
        Validation loss after each epoch.
    epochs : int
        Epochs done.
    best_epoch : int
        The epoch, counted from 1, with the lowest validation loss; 0 without validation.
    stopped_early : bool
        Whether ``patience`` ran out.
    """

    losses: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    epochs: int = 0
    best_epoch: int = 0
    stopped_early: bool = False


def _batches(data: Any, rng: np.random.Generator, size: int) -> Batches:
    """Batches of one epoch: what a function draws, or a pair of arrays in a new order."""
    if callable(data):
        yield from data(rng)
        return
    x, y = data
    order = rng.permutation(len(x))
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        yield x[chosen], y[chosen]


def _validate(model: Module, loss: Loss, validation: tuple[Array, Array], size: int) -> float:
    """Mean loss over the samples, in evaluation mode."""
    x, y = validation
    model.eval()
    total = sum(loss(model(x[i : i + size]), y[i : i + size])[0] * len(x[i : i + size]) for i in range(0, len(x), size))
    model.train()
    return float(total / len(x))


def save_checkpoint(
    path: str | os.PathLike[str], model: Module, optimizer: _Optimizer, history: History | None = None,
    best: dict[str, Array] | None = None,
) -> None:  # fmt: skip
    """Write model, optimiser and history into one npz file, which is replaced as a whole or not at all.

    Parameters
    ----------
    path : path
        The file.
    model, optimizer : Module, optimiser
        Whose state is kept.
    history : History, optional
        What `fit` has seen so far.
    best : dict, optional
        State of the model at its best epoch.
    """
    arrays = {f"model/{name}": array for name, array in model.state_dict().items()}
    arrays |= {f"optimizer/{name}": array for name, array in optimizer.state_dict().items()}
    arrays |= {f"best/{name}": array for name, array in (best or {}).items()}
    arrays["history"] = np.array(json.dumps(asdict(history or History())))
    target = Path(path)
    partial = target.with_name(target.name + ".part")
    with partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    partial.replace(target)


def load_checkpoint(
    path: str | os.PathLike[str], model: Module, optimizer: _Optimizer
) -> tuple[History, dict[str, Array]]:
    """Put model and optimiser back where `save_checkpoint` found them.

    Returns
    -------
    history : History
    best : dict
        State of the model at its best epoch; empty if there was none.

    Raises
    ------
    ValueError
        If the file is not a checkpoint, or one of another model.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        history = History(**json.loads(str(arrays.pop("history"))))
    except OSError:
        raise
    except Exception as error:
        raise ValueError(rejection("load_checkpoint", "path", str(path), f"is no checkpoint: {error}")) from None
    parts: dict[str, dict[str, Array]] = {"model": {}, "optimizer": {}, "best": {}}
    for name, array in arrays.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = array
    model.load_state_dict(parts["model"])
    optimizer.load_state_dict(parts["optimizer"])
    return history, parts["best"]


def fit(
    model: Module,
    optimizer: _Optimizer,
    loss: Loss,
    data: tuple[Array, Array] | Callable[[np.random.Generator], Batches],
    epochs: int,
    *,
    batch_size: int = 32,
    validation: tuple[Array, Array] | None = None,
    patience: int | None = None,
    schedule: _Schedule | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    seed: int = 0,
    label: str = "training",
    show: Callable[[Iterable[int], int, str], Iterable[int]] | None = progress,
) -> History:
    """Train a model.

    All that is random in epoch e comes from ``numpy.random.default_rng([seed, e])``, dropout included.  So a run
    that goes on from a checkpoint ends with the same bits as one that was never interrupted.

    Parameters
    ----------
    model : Module
        What to train; left in evaluation mode, with the parameters of its best epoch if there is validation.
    optimizer : optimiser
        Made from ``model.parameters()``.
    loss : function
        ``loss(prediction, target) -> (float, gradient)``, such as `cross_entropy`.
    data : (x, y) or function
        Arrays that are cut into batches in a new order in each epoch, or a function that draws the batches of one
        epoch from a random generator.
    epochs : int
        How many in all, those before a checkpoint included.
    batch_size : int
        Samples in a batch, where ``data`` is a pair of arrays.
    validation : (x, y), optional
        Arrays whose loss is taken after each epoch.
    patience : int, optional
        Stop after so many epochs without a lower validation loss.
    schedule : learning-rate schedule, optional
        Set at the start of each epoch.
    checkpoint : path, optional
        Written after each epoch; training goes on from it if it is there.
    seed : int
        Source of all randomness.
    label : str
        Shown beside the progress.
    show : function or None
        Called as ``show(epochs, total, label)``; passes the epochs through.  None shows nothing.

    Returns
    -------
    History

    Raises
    ------
    FloatingPointError
        If the loss is not finite; the message says at which step.
    """
    if epochs < 1 or batch_size < 1:
        raise ValueError(rejection("fit", "epochs, batch_size", (epochs, batch_size), "must be at least 1"))
    if patience is not None and validation is None:
        raise ValueError(rejection("fit", "patience", patience, "must come with validation"))
    history, best = History(), dict[str, Array]()
    if checkpoint is not None and Path(checkpoint).exists():
        history, best = load_checkpoint(checkpoint, model, optimizer)
    remaining: Iterable[int] = [] if history.stopped_early else range(history.epochs, epochs)
    model.train()
    for epoch in remaining if show is None else show(remaining, epochs - history.epochs, label):
        if schedule is not None:
            schedule.set_epoch(epoch)
        for position, module in enumerate(model.modules()):
            if isinstance(module, Dropout):
                module.rng = np.random.default_rng([seed, epoch, position])
        for x, y in _batches(data, np.random.default_rng([seed, epoch]), batch_size):
            value, gradient = loss(model(x), y)
            if not np.isfinite(value):
                raise FloatingPointError(f"fit: the loss is {value} at step {len(history.losses)} of epoch {epoch + 1}")
            optimizer.zero_grad()
            model.backward(gradient, input_grad=False)
            optimizer.step()
            history.losses.append(value)
        history.epochs = epoch + 1
        if validation is not None:
            history.validation.append(_validate(model, loss, validation, batch_size))
            if history.validation[-1] == min(history.validation):
                history.best_epoch, best = history.epochs, model.state_dict()
            elif patience is not None and history.epochs - history.best_epoch >= patience:
                history.stopped_early = True
        if checkpoint is not None:
            save_checkpoint(checkpoint, model, optimizer, history, best)
        if history.stopped_early:
            break
    if best:
        model.load_state_dict(best)
    model.eval()
    return history
