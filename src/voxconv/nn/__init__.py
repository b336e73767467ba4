"""A small torch.nn on voxconv's kernels: the same names, arguments, parameters and state_dict keys.

There is no tape: each layer writes its backward pass out, and ``model.backward`` runs them in turn.

    model = nn.Sequential(nn.Conv2d(1, 8, 3, rng=rng), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1800, 2))
    optimizer = nn.SGD(model.parameters(), lr=0.01, momentum=0.9)
    loss, gradient = nn.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    model.backward(gradient, input_grad=False)
    optimizer.step()
"""

from voxconv.nn.layers import (
    Conv1d,
    Conv2d,
    Conv3d,
    Flatten,
    LeakyReLU,
    Linear,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    ReLU,
    Sequential,
)
from voxconv.nn.losses import cross_entropy
from voxconv.nn.module import Module, Parameter
from voxconv.nn.optim import SGD, Adam

__all__ = [
    "SGD",
    "Adam",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "Flatten",
    "LeakyReLU",
    "Linear",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "Module",
    "Parameter",
    "ReLU",
    "Sequential",
    "cross_entropy",
]
