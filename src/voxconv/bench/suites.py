"""Layers that speed is judged on, by the name of their suite."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from voxconv.bench.layers import Layer
from voxconv.bench.networks import NETWORKS

__all__ = ["default", "suite", "suites"]

TABLES: dict[str, tuple[str, ...]] = {
    "table32": ("table32",),
    "table32_b4": ("table32",),
    "resnet50": ("resnet50",),
    "vgg16": ("vgg16",),
    "mobilenetv2": ("mobilenetv2",),
    "unet2d": ("unet2d_256_b32",),
    "unet2d_512": ("unet2d_512_b64",),
    "unet3d": ("unet3d_64_b32",),
    "nnunet3d": ("nnunet3d_128",),
    "deepbench": ("deepbench_inf_server", "deepbench_inf_device"),
    "deepbench_train": ("deepbench_train",),
    "conv1d": ("conv1d",),
    "depthwise": ("mobilenetv2", "convnext_t_dw7", "efficientnet_b0_dw5", "dw3d"),
    "dilated": ("deeplab_dilated",),
    "grouped": ("resnext50_32x4d",),
    "alexnet": ("alexnet",),
    "r3d18": ("r3d18",),
    "resnet_train": ("resnet_train_bs8",),
    "small": ("small",),
    "wide": ("wide",),
}
"""Name of a suite, and the tables of ``layers.csv`` that it draws from."""


def _conv(row: dict[str, str], rank: int) -> Layer:
    def sizes(*columns: str) -> tuple[int, ...]:
        return tuple(int(row[column]) for column in columns[3 - rank :])

    name, _, mark = row["name"].partition("=")
    return Layer(
        name, "conv", int(row["n"]), int(row["c"]), int(row["k"]), sizes("d", "h", "w"), sizes("kd", "kh", "kw"),
        sizes("sd", "sh", "sw"), sizes("pd", "ph", "pw"), sizes("dd", "dh", "dw"), int(row["groups"]),
        mark == "bwd_data_of",
    )  # fmt: skip


SMALL = 14
"""Images up to this size come at least four at a time in ``table32_b4``, as gradients do."""


@cache
def _tables() -> dict[str, list[Layer]]:
    tables: dict[str, list[Layer]] = {}
    with (Path(__file__).parent / "layers.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            rank = 1 if row["suite"] == "conv1d" else 3 if row["d"] else 2
            tables.setdefault(row["suite"], []).append(_conv(row, rank))
    return tables


def _pool(name: str, kind: str, n: int, c: int, spatial: tuple[int, ...], kernel: int, stride: int, pad: int) -> Layer:
    every = (1,) * len(spatial)
    return Layer(
        name, kind, n, c, c, spatial, tuple(kernel * i for i in every), tuple(stride * i for i in every),
        tuple(pad * i for i in every), every, c,
    )  # fmt: skip


POOLS = (
    _pool("vgg.2x2", "max_pool", 1, 64, (224, 224), 2, 2, 0),
    _pool("vgg.2x2_late", "max_pool", 1, 512, (28, 28), 2, 2, 0),
    _pool("resnet.3x3s2", "max_pool", 1, 64, (112, 112), 3, 2, 1),
    _pool("inception.3x3s1", "max_pool", 1, 256, (28, 28), 3, 1, 1),
    _pool("yolo.5x5s1", "max_pool", 1, 256, (20, 20), 5, 1, 2),
    _pool("unet3d.2x2x2", "max_pool", 1, 32, (64, 64, 64), 2, 2, 0),
    _pool("audio.4", "max_pool", 1, 128, (16000,), 4, 4, 0),
    _pool("mnist.2x2", "max_pool", 32, 8, (28, 28), 2, 2, 0),
    _pool("densenet.avg2x2", "avg_pool", 1, 128, (56, 56), 2, 2, 0),
    _pool("resnet.avg7x7", "avg_pool", 1, 2048, (7, 7), 7, 7, 0),
    _pool("unet3d.avg2x2x2", "avg_pool", 1, 32, (64, 64, 64), 2, 2, 0),
)


def _dense(name: str, n: int, c: int, k: int, spatial: tuple[int, ...], kernel: tuple[int, ...]) -> Layer:
    every = (1,) * len(spatial)
    return Layer(name, "conv", n, c, k, spatial, kernel, every, tuple(size // 2 for size in kernel), every)


DEMO = (
    _dense("slice.5x5", 1, 1, 8, (300, 484), (5, 5)),
    _dense("patches.3x3", 32, 8, 16, (14, 14), (3, 3)),
    _pool("slice.2x2", "max_pool", 1, 8, (296, 480), 2, 2, 0),
)


def _up(n: int, c: int, size: int, rank: int) -> Layer:
    """As a U-Net doubles a map of ``size`` along each axis and halves its c channels; n images."""
    twos = (2,) * rank
    name, spatial = f"up{rank}d.{c}x{size}", (2 * size,) * rank
    return Layer(name, "conv", n, c // 2, c, spatial, twos, twos, (0,) * rank, (1,) * rank, 1, True)


TRANSPOSED = (
    *(_up(n, c, size, 2) for n, c, size in ((2, 128, 16), (2, 64, 32), (2, 32, 64), (1, 256, 28), (1, 512, 28))),
    *(_up(1, c, size, 3) for c, size in ((16, 24), (32, 12), (64, 16), (128, 8), (256, 8))),
)

IN_CODE: dict[str, Sequence[Layer]] = {
    "pool": POOLS, "demo": DEMO, "transposed": TRANSPOSED, "networks": NETWORKS,
}  # fmt: skip
"""Suites that are no table."""


def suites() -> tuple[str, ...]:
    """Names of all suites."""
    return (*TABLES, *IN_CODE)


def default(directions: Sequence[str]) -> str:
    """The suite that is taken where none is named."""
    return "networks" if list(directions) == ["step"] else "table32"


def suite(name: str) -> list[Layer]:
    """Layers of a suite.

    Parameters
    ----------
    name : str
        One of `suites`.

    Returns
    -------
    list of Layer

    Raises
    ------
    ValueError
        There is no such suite.
    """
    if name in IN_CODE:
        return list(IN_CODE[name])
    if name not in TABLES:
        raise ValueError(f"suite {name!r} does not exist; there are {', '.join(suites())}")
    found = [(table, layer) for table in TABLES[name] for layer in _tables()[table]]
    if name == "depthwise":
        found = [(table, layer) for table, layer in found if layer.groups == layer.c > 1]
    if name == "table32_b4":  # gradients come in batches, and packing is paid once for all of it
        few = [max(layer.n, 4 if max(layer.spatial) <= SMALL else 1) for _, layer in found]
        found = [(table, replace(layer, n=n)) for n, (table, layer) in zip(few, found, strict=True)]
    several = len(TABLES[name]) > 1
    return [replace(layer, name=f"{table}.{layer.name}") if several else layer for table, layer in found]
