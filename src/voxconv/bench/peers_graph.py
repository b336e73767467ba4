"""Peers that run a graph: it is built with its weights, compiled, then fed.

Every graph has one node: the convolution, or the pool.
"""

from __future__ import annotations

from importlib import import_module
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from voxconv.bench.task import Runner, Task, Unsupported

__all__ = ["mnn", "ncnn", "onnxruntime", "openvino"]


def onnxruntime(task: Task) -> Runner:
    """A session of one ONNX node, on arrays that are bound to it."""
    onnx, ort = import_module("onnx"), import_module("onnxruntime")
    layer, helper = task.layer, import_module("onnx").helper
    walk: dict[str, Any] = {"kernel_shape": layer.kernel, "strides": layer.stride, "pads": layer.padding * 2}
    constants, sent, shape = [], task.x, layer.output_shape
    if layer.kind != "conv" and task.operation == "input":
        raise Unsupported("ONNX has no gradient of a pool")
    if task.operation == "input":
        constants, sent, shape = [onnx.numpy_helper.from_array(task.w, "w")], task.gy, layer.input_shape
        walk |= {"output_padding": _beyond(task)}
        node = helper.make_node("ConvTranspose", "xw", "y", dilations=layer.dilation, group=layer.groups, **walk)
    elif layer.kind == "conv":
        constants = [onnx.numpy_helper.from_array(task.w, "w"), onnx.numpy_helper.from_array(task.b, "b")]
        node = helper.make_node("Conv", "xwb", "y", dilations=layer.dilation, group=layer.groups, **walk)
    elif layer.kind == "max_pool":
        node = helper.make_node("MaxPool", "x", "y", dilations=layer.dilation, **walk)
    else:
        node = helper.make_node("AveragePool", "x", "y", count_include_pad=1, **walk)
    x, y = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", sent.shape), ("y", shape))
    )
    model = helper.make_model(
        helper.make_graph([node], "layer", [x], [y], constants),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip
    options = ort.SessionOptions()
    options.intra_op_num_threads = task.threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    if not task.warm:
        return (lambda: session.run(None, {"x": sent})[0]), np.asarray
    binding, out = session.io_binding(), ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(sent))
    binding.bind_ortvalue_output("y", out)
    return (lambda: session.run_with_iobinding(binding)), lambda _: np.asarray(out.numpy())


def _beyond(task: Task) -> list[int]:
    """Positions at the far end of each axis of the input that no tap of a strided convolution reaches."""
    layer = task.layer
    axes = zip(layer.spatial, layer.kernel, layer.stride, layer.padding, layer.dilation, strict=True)
    return [(size + 2 * pad - rate * (taps - 1) - 1) % step for size, taps, step, pad, rate in axes]


def openvino(task: Task) -> Runner:
    """An infer request of one node; it keeps its output's memory."""
    ov, ops = import_module("openvino"), import_module("openvino.opset13")
    layer = task.layer
    sent = task.gy if task.operation == "input" else task.x
    x = ops.parameter(list(sent.shape), np.float32)
    walk, pads = list(layer.stride), list(layer.padding)
    grouped = task.w.reshape(layer.groups, -1, *task.w.shape[1:]) if layer.groups > 1 else task.w
    if layer.kind != "conv" and task.operation == "input":
        raise Unsupported("OpenVINO has no gradient of a pool")
    if task.operation == "input":
        operator = ops.convolution_backprop_data if layer.groups == 1 else ops.group_convolution_backprop_data
        y = operator(
            x, ops.constant(grouped), walk, pads_begin=pads, pads_end=pads, dilations=list(layer.dilation),
            output_padding=_beyond(task),
        ).output(0)  # fmt: skip
    elif layer.kind == "max_pool":
        y = ops.max_pool(x, walk, list(layer.dilation), pads, pads, list(layer.kernel)).output(0)
    elif layer.kind == "avg_pool":
        y = ops.avg_pool(x, walk, pads, pads, list(layer.kernel), False)
    else:
        operator = ops.convolution if layer.groups == 1 else ops.group_convolution
        conv = operator(x, ops.constant(grouped), walk, pads, pads, list(layer.dilation))
        y = ops.add(conv, ops.constant(task.b.reshape(1, -1, *(1,) * layer.rank)))
    settings = {
        "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": task.threads, "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }  # fmt: skip
    request = ov.Core().compile_model(ov.Model([y], [x]), "CPU", settings).create_infer_request()
    request.set_input_tensor(ov.Tensor(sent, shared_memory=True))
    return request.infer, lambda _: np.array(request.get_output_tensor().data)


def ncnn(task: Task) -> Runner:
    """A net of one layer, float32 throughout; it has no batch axis."""
    lib, layer = import_module("ncnn"), task.layer
    if layer.n != 1:
        raise Unsupported("ncnn has no batch axis")
    suffix, grouped = {1: "1D", 2: "", 3: "3D"}[layer.rank], layer.groups > 1
    axes = list(zip((0, 1, 2), reversed(layer.kernel), reversed(layer.stride), reversed(layer.padding),
                    reversed(layer.dilation), strict=False))  # fmt: skip
    # Parameters go by number: tens are the axis (w, h, d), units what it is.
    if layer.kind == "conv":
        kind = f"Convolution{'DepthWise' if grouped else ''}{suffix}"
        numbers = {0: layer.k, 5: 1, 6: task.w.size, **({7: layer.groups} if grouped else {})}
        place = {0: (1, 11, 21), 1: (3, 13, 23), 2: (4, 14, 24), 3: (2, 12, 22)}
    else:
        if max(layer.dilation) > 1:
            raise Unsupported("ncnn has no dilated pooling")
        kind, numbers = f"Pooling{suffix}", {0: int(layer.kind == "avg_pool"), 5: 1, 6: 1}
        place = {0: (1, 11, 21), 1: (2, 12, 22), 2: (3, 13, 23)}
    for axis, *values in axes:
        numbers |= {place[i][axis]: value for i, value in enumerate(values) if i in place}
    if layer.kind != "conv":  # the far end of each axis is padded as the near one
        far = {1: (14,), 2: (14, 15), 3: (14, 15, 17)}[layer.rank]
        numbers |= {far[axis]: values[2] for axis, *values in axes}
        numbers |= {16: layer.padding[0]} if layer.rank == 3 else {}
    net = lib.Net()
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage", "vulkan_compute"):
        setattr(net.opt, f"use_{option}", False)
    net.opt.num_threads = task.threads
    text = " ".join(f"{number}={value}" for number, value in sorted(numbers.items()))
    net.load_param_mem(f"7767517\n2 2\nInput in 0 1 x\n{kind} layer 1 1 x y {text}\n")
    # A word of zeros says that weights follow as float32.
    net.load_model_mem(bytes(4) + task.w.tobytes() + task.b.tobytes() if layer.kind == "conv" else b"")
    x = lib.Mat(task.x[0])

    def run() -> Any:
        extractor = net.create_extractor()
        extractor.input("x", x)
        return extractor.extract("y")[1]

    return run, lambda y: np.array(y).reshape(1, layer.k, *layer.output_shape[2:])


def mnn(task: Task) -> Runner:
    """A saved module of one convolution, in the blocked layout that MNN keeps between layers."""
    nn, expr, layer = import_module("MNN.nn"), import_module("MNN.expr"), task.layer
    if layer.rank != 2 or layer.kind != "conv" or layer.groups not in (1, layer.c):
        raise Unsupported("the adapter builds dense and depthwise 2-D convolutions")
    weight = expr.const(task.w, list(task.w.shape), expr.NCHW)
    x = expr.placeholder(list(layer.input_shape), expr.NC4HW4, expr.float)
    y = expr.conv2d(
        x, weight, expr.const(task.b, [layer.k], expr.NCHW), list(layer.stride), list(layer.padding),
        list(layer.dilation), layer.groups, expr.CAFFE,
    )  # fmt: skip
    x.name, y.name = "x", "y"
    with TemporaryDirectory(prefix="voxconv-mnn-") as folder:
        expr.save([y], f"{folder}/layer.mnn")
        settings = {"backend": "CPU", "precision": "high", "numThread": task.threads}
        runtime = nn.create_runtime_manager((settings,))
        module = nn.load_module_from_file(f"{folder}/layer.mnn", ["x"], ["y"], runtime_manager=runtime)
    given = expr.convert(expr.const(task.x, list(layer.input_shape), expr.NCHW), expr.NC4HW4)
    given.fix_as_const()
    return lambda: module.forward([given]), lambda y: np.array(expr.convert(y[0], expr.NCHW).read())
