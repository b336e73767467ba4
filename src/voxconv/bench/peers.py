"""Other libraries as contenders: an adapter of a few lines each, used where the library is installed.

Each gets its best float32 setting and, where its API has it, weights packed before the clock starts.
A peer whose arrays have a layout of their own is fed in it, and conversions to and from NCHW are not
timed; onnxruntime and OpenVINO take NCHW, and what they convert inside is.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from voxconv.bench import peers_graph
from voxconv.bench.layers import DIRECTIONS, Layer
from voxconv.bench.networks import Network, jax_step, torch_step
from voxconv.bench.task import Runner, Task, Unsupported, maxima, steps

__all__ = ["DEFAULT", "PEERS", "Peer", "peer"]


@dataclass(frozen=True, slots=True)
class Peer:
    """A library, how it is told of a task, and what a record says of it."""

    name: str
    package: str
    build: Callable[[Task], Runner]
    layout: str = "NCHW"
    weights: str = "as given, on each call"
    precision: str = "float32"
    dtypes: Sequence[str] = ("float32",)
    operations: Sequence[str] = ("forward",)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def python(self) -> str:
        """The interpreter that runs it: this one, unless VOXCONV_BENCH_PYTHON_<name> names another.

        A package whose pins clash with the others' lives in an environment of its own.
        """
        return os.environ.get(f"VOXCONV_BENCH_PYTHON_{self.name.upper()}", sys.executable)

    def installed(self) -> bool:
        """Whether the package is there; another interpreter is taken to have it."""
        if self.python != sys.executable:
            return shutil.which(self.python) is not None
        return find_spec(self.package) is not None

    def facts(self) -> dict[str, str]:
        """Version, precision, layout, what is done before the clock starts."""
        from importlib.metadata import packages_distributions, version

        distribution = packages_distributions().get(self.package, [self.package])[0]
        return {
            "version": version(distribution), "precision": self.precision, "layout": self.layout,
            "weights": self.weights,
        }  # fmt: skip

    def prepare(self, task: Task) -> Runner:
        """Do everything that is not timed."""
        if task.dtype not in self.dtypes:
            raise Unsupported(f"{self.name} computes {' and '.join(self.dtypes)}, not {task.dtype}")
        if task.operation not in self.operations:
            raise Unsupported(f"{self.name} is asked for the direction {' and '.join(self.operations)} only")
        return self.build(task)


def _torch(task: Task, channels_last: bool = False) -> Runner:
    torch = import_module("torch")
    torch.set_num_threads(task.threads)
    layer = task.layer
    if channels_last and layer.rank == 1:
        raise Unsupported("channels_last is a layout of 2-D and 3-D arrays")
    layout = {2: torch.channels_last, 3: torch.channels_last_3d}[layer.rank] if channels_last else None

    def tensor(array: Any) -> Any:
        given = torch.from_numpy(array)
        return given.contiguous(memory_format=layout) if layout is not None and given.ndim > 2 else given

    if isinstance(layer, Network):
        return steps(torch_step(torch, layer, task.x, layout))
    x, w, b, gy = (tensor(array) for array in (task.x, task.w, task.b, task.gy))
    walk = list(layer.stride), list(layer.padding), list(layer.dilation)
    if layer.kind != "conv":
        run = _inference(torch, _torch_pool(torch, task, x, gy))
    elif task.operation == "forward" and not layer.transposed:
        conv = getattr(torch.nn.functional, f"conv{layer.rank}d")
        run = _inference(torch, lambda: conv(x, w, b, *walk, layer.groups))
    elif task.operation == "input" and layer.transposed:  # its input is what the convolution gives
        conv = getattr(torch.nn.functional, f"conv_transpose{layer.rank}d")
        extra = [size - full for size, full in zip(layer.spatial, _reached(layer), strict=True)]
        run = _inference(torch, lambda: conv(gy, w, None, walk[0], walk[1], extra, layer.groups, walk[2]))
    else:
        to_weight = task.operation == "weight"
        mask = [not to_weight, to_weight, False]
        extra = [size - full for size, full in zip(layer.spatial, _reached(layer), strict=True)]
        rest = (*walk, layer.transposed, extra if layer.transposed else [0] * layer.rank, layer.groups, mask)
        pair = (x, gy) if layer.transposed else (gy, x)
        backward = torch.ops.aten.convolution_backward
        run = _inference(torch, lambda: backward(*pair, w, None, *rest)[mask.index(True)])
    if task.operation == "indices":
        return run, lambda pair: maxima(task, *(np.ascontiguousarray(result.numpy()) for result in pair))
    return run, lambda result: np.ascontiguousarray(result.numpy())


def _reached(layer: Layer) -> list[int]:
    """Positions along each axis that a transposed convolution gives without output padding."""
    axes = zip(layer.output_shape[2:], layer.stride, layer.padding, layer.kernel, layer.dilation, strict=True)
    return [(size - 1) * step - 2 * pad + (taps - 1) * rate + 1 for size, step, pad, taps, rate in axes]


def _torch_pool(torch: Any, task: Task, x: Any, gy: Any) -> Callable[[], Any]:
    layer, name = task.layer, f"{task.layer.kind}{task.layer.rank}d"
    walk = [list(sizes) for sizes in (layer.kernel, layer.stride, layer.padding)]
    if layer.kind == "max_pool":
        walk.append(list(layer.dilation))
    pool = getattr(torch.nn.functional, name)
    if task.operation == "forward":
        return lambda: pool(x, *walk)
    if task.operation == "indices":
        return lambda: pool(x, *walk, return_indices=True)
    if layer.rank == 1:
        raise Unsupported("torch has the gradient of a 1-D pool as part of its tape only")
    if layer.kind == "avg_pool":
        backward = getattr(torch.ops.aten, f"{name}_backward")
        return lambda: backward(gy, x, *walk, False, True, None)
    backward, indices = getattr(torch.ops.aten, f"{name}_with_indices_backward"), pool(x, *walk, return_indices=True)[1]
    return lambda: backward(gy, x, *walk, False, indices)


def _torch_packed(task: Task) -> Runner:
    """channels_last with the weight in oneDNN's blocks: what torch.compile makes of a frozen model's convolution."""
    torch, layer = import_module("torch"), task.layer
    if layer.kind != "conv" or layer.rank == 1:
        raise Unsupported("torch packs weights of 2-D and 3-D convolutions")
    torch.set_num_threads(task.threads)
    layout = {2: torch.channels_last, 3: torch.channels_last_3d}[layer.rank]
    x, b = torch.from_numpy(task.x).contiguous(memory_format=layout), torch.from_numpy(task.b)
    pad, step, rate = list(layer.padding), list(layer.stride), list(layer.dilation)
    ops = torch.ops.mkldnn
    w = ops._reorder_convolution_weight(
        torch.from_numpy(task.w), pad, step, rate, layer.groups, list(layer.input_shape)
    )
    run = _inference(torch, lambda: ops._convolution_pointwise(x, w, b, pad, step, rate, layer.groups, "none", [], ""))
    return run, lambda result: np.ascontiguousarray(result.numpy())


def _inference(torch: Any, run: Callable[[], Any]) -> Callable[[], Any]:
    wrapped: Callable[[], Any] = torch.inference_mode()(run)
    return wrapped


def _jax(task: Task) -> Runner:
    jax = import_module("jax")
    jax.config.update("jax_enable_x64", task.dtype == "float64")
    layer, lax = task.layer, jax.lax
    if isinstance(layer, Network):
        return steps(jax_step(jax, layer, task.x))
    pads = [(p, p) for p in layer.padding]
    x, w, b, gy = (jax.device_put(array) for array in (task.x, task.w, task.b, task.gy))

    def conv(x: Any, w: Any) -> Any:
        return lax.conv_general_dilated(
            x, w, layer.stride, pads, rhs_dilation=layer.dilation, feature_group_count=layer.groups
        )

    def pool(x: Any) -> Any:
        start, combine = (-np.inf, lax.max) if layer.kind == "max_pool" else (0.0, lax.add)
        dims, steps, rates = ((1, 1, *sizes) for sizes in (layer.kernel, layer.stride, layer.dilation))
        y = lax.reduce_window(x, start, combine, dims, steps, [(0, 0), (0, 0), *pads], window_dilation=rates)
        return y if layer.kind == "max_pool" else y / np.prod(layer.kernel).astype(task.dtype)

    functions: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "forward": (lambda x, w, b: conv(x, w) + b.reshape(-1, *(1,) * layer.rank), (x, w, b)),
        "input": (lambda w, gy: jax.vjp(lambda x: conv(x, w), x)[1](gy)[0], (w, gy)),
        "weight": (lambda x, gy: jax.vjp(lambda w: conv(x, w), w)[1](gy)[0], (x, gy)),
    }
    if layer.kind != "conv":
        functions = {"forward": (pool, (x,)), "input": (lambda x, gy: jax.vjp(pool, x)[1](gy)[0], (x, gy))}
    function, arguments = functions[task.operation]
    compiled = jax.jit(function).lower(*arguments).compile()
    return (lambda: compiled(*arguments).block_until_ready()), np.asarray


def _scipy(task: Task) -> Runner:
    ndimage = import_module("scipy.ndimage")
    layer, x, w, b = task.layer, task.x, task.w, task.b
    same = all(2 * p == d * (k - 1) for p, d, k in zip(layer.padding, layer.dilation, layer.kernel, strict=True))
    plain = same and set((*layer.stride, *layer.dilation)) == {1}
    if not plain or layer.kind != "conv" or layer.groups != layer.c or task.threads > 1:
        raise Unsupported("scipy.ndimage has one channel, stride 1, padding that keeps the size, and one thread")
    out = np.empty(task.shape, task.dtype)

    def run() -> Any:
        y = out if task.warm else np.empty_like(out)
        for n in range(layer.n):
            for k in range(layer.k):
                plane = x[n, k * layer.groups // layer.k]
                ndimage.correlate(plane, w[k, 0], output=y[n, k], mode="constant")
                y[n, k] += b[k]
        return y

    return run, np.asarray


GRADIENTS = ("forward", "input", "weight")
TRANSPOSED = ("forward", "input")
"""A convolution's input gradient is a transposed convolution, which inference has too."""
FLOATING = ("float32", "float64")
ONE_CPU = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}

PEERS = {
    found.name: found
    for found in (
        Peer("torch", "torch", _torch, dtypes=FLOATING, operations=DIRECTIONS),
        Peer("torch_cl", "torch", lambda task: _torch(task, channels_last=True), layout="channels_last",
             dtypes=FLOATING, operations=DIRECTIONS),
        Peer("torch_packed", "torch", _torch_packed, layout="channels_last", weights="packed for oneDNN"),
        Peer("onnxruntime", "onnxruntime", peers_graph.onnxruntime, layout="NCHW outside",
             weights="packed with the session", operations=TRANSPOSED),
        Peer("openvino", "openvino", peers_graph.openvino, layout="NCHW outside", weights="packed with the model",
             precision="float32 by INFERENCE_PRECISION_HINT", operations=TRANSPOSED),
        Peer("ncnn", "ncnn", peers_graph.ncnn, weights="packed with the net", layout="CHW, no batch",
             precision="float32, no 16-bit storage"),
        Peer("mnn", "MNN", peers_graph.mnn, weights="packed with the module", layout="NC4HW4",
             precision="float32, precision high"),
        Peer("jax", "jax", _jax, dtypes=FLOATING, operations=(*GRADIENTS, "step"), environment=ONE_CPU),
        Peer("scipy", "scipy", _scipy, dtypes=FLOATING),
    )
}  # fmt: skip
"""Every peer that there is an adapter for, by name."""

DEFAULT = ("torch", "torch_cl", "torch_packed", "onnxruntime", "openvino", "ncnn")
"""Peers that are taken, if installed, where none are named."""


def peer(name: str) -> Peer:
    """The peer of this name.

    Raises
    ------
    ValueError
        There is no adapter for it.
    """
    if name not in PEERS:
        raise ValueError(f"peer {name!r} has no adapter; there are {', '.join(PEERS)}")
    return PEERS[name]
