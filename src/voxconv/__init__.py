"""Convolution and pooling for NumPy arrays on a CPU.

Functions carry the names and argument order of ``torch.nn.functional``; convolution is
cross-correlation, as everywhere in the field.  `grad` holds the gradients, `nn` (imported on first
use) layers made of both.
"""

from importlib import import_module
from types import ModuleType

from voxconv import grad
from voxconv.errors import MissingExtra
from voxconv.functional import (
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
    fold,
    fold1d,
    fold3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
    max_unpool1d,
    max_unpool2d,
    max_unpool3d,
    unfold,
    unfold1d,
    unfold3d,
)
from voxconv.memory import release_memory
from voxconv.plan import ConvPlan, plan_conv1d, plan_conv2d, plan_conv3d
from voxconv.runtime import get_num_threads, runtime_info, set_num_threads

__all__ = [
    "ConvPlan",
    "MissingExtra",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "fold",
    "fold1d",
    "fold3d",
    "get_num_threads",
    "grad",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
    "nn",
    "plan_conv1d",
    "plan_conv2d",
    "plan_conv3d",
    "release_memory",
    "runtime_info",
    "set_num_threads",
    "unfold",
    "unfold1d",
    "unfold3d",
]

# Reading the installed metadata would take longer than all other imports together.
__version__ = "0.1.0"


def __getattr__(name: str) -> ModuleType:
    if name == "nn":
        return import_module("voxconv.nn")
    raise AttributeError(f"module 'voxconv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
