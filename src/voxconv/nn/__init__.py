"""A small torch.nn on voxconv's kernels: the same names, arguments, parameters and state_dict keys.

There is no tape: each layer writes its backward pass out, and ``model.backward`` runs them in turn.

    model = nn.Sequential(nn.Conv2d(1, 8, 3, rng=rng), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1800, 2))
    optimizer = nn.SGD(model.parameters(), lr=0.01, momentum=0.9)
    loss, gradient = nn.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    model.backward(gradient, input_grad=False)
    optimizer.step()
"""

from voxconv.nn.fit import History, fit, load_checkpoint, progress, save_checkpoint
from voxconv.nn.layers import (
    Conv1d,
    Conv2d,
    Conv3d,
    Flatten,
    LeakyReLU,
    Linear,
    ReLU,
)
from voxconv.nn.losses import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    dice_loss,
    l1_loss,
    mse_loss,
    sigmoid_focal_loss,
)
from voxconv.nn.maxpool import MaxPool1d, MaxPool2d, MaxPool3d
from voxconv.nn.models import ResidualBlock2d, ResidualBlock3d, UNet2d, UNet3d
from voxconv.nn.module import Module, Parameter
from voxconv.nn.norm import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    Dropout,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
)
from voxconv.nn.optim import SGD, Adam, AdamW
from voxconv.nn.pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
)
from voxconv.nn.predict import predict
from voxconv.nn.schedule import CosineAnnealingLR, ExponentialLR, LinearLR, StepLR
from voxconv.nn.sequential import Sequential
from voxconv.nn.transposed import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "CosineAnnealingLR",
    "Dropout",
    "ExponentialLR",
    "Flatten",
    "History",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LeakyReLU",
    "Linear",
    "LinearLR",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "Module",
    "Parameter",
    "ReLU",
    "ResidualBlock2d",
    "ResidualBlock3d",
    "Sequential",
    "StepLR",
    "UNet2d",
    "UNet3d",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "dice_loss",
    "fit",
    "l1_loss",
    "load_checkpoint",
    "mse_loss",
    "predict",
    "progress",
    "save_checkpoint",
    "sigmoid_focal_loss",
]
