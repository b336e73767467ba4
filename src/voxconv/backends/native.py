"""The native backend: C kernels for the machine's instruction set, on the library's own threads.

A call is cut into slices of about 50 ms so that Python can act on signals between them.  Memory for
packed weights, scratch and large results is kept from call to call (`voxconv.memory`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from voxconv._native import ffi, lib
from voxconv.backends import Descend, Descent, Learned
from voxconv.memory import LARGE, block, empty, take
from voxconv.problem import INT64, ConvProblem, WindowProblem
from voxconv.results import is_free

Array = npt.NDArray[Any]

name = "native"
algorithms = ("depthwise", "winograd", "winograd2", "direct", "im2col")

BAND_LIMIT = 64 << 20
"""Above this workspace a thread, direct's zero-bordered band is mostly border: im2col serves instead."""

WINOGRAD_GAIN = 1.16
"""Winograd is taken from this estimated gain over the direct sum on: it rounds more."""

SMALL_PLANE = 1024
"""Up to so many outputs a plane, direct's band costs more than depthwise's repeated loads."""

TINY_PLANE, FEW_TAPS, WIDE_ROW = 196, 16, 20
"""Of depthwise gradients without a tile, where direct pays: least outputs; to the weight, most taps, least columns."""

FLOPS_A_THREAD = 1 << 20
"""Small work stays on the caller's thread: another takes microseconds to come, or 100 where it sleeps."""

OPERATIONS_OF_A_STEP = 8
"""Of an optimiser on an element, as they count for the threads."""

TYPES = {
    np.dtype(key): getattr(lib, f"VOX_{short}")
    for key, short in {
        "float32": "F32", "float64": "F64", "int8": "I8", "uint8": "U8", "int16": "I16", "uint16": "U16",
        "int32": "I32", "uint32": "U32", "int64": "I64", "uint64": "U64",
    }.items()
}  # fmt: skip
OPERATIONS = {
    "conv": lib.VOX_CONV,
    "conv_input_grad": lib.VOX_CONV_INPUT_GRAD,
    "conv_weight_grad": lib.VOX_CONV_WEIGHT_GRAD,
}
ALGORITHMS = {
    "direct": lib.VOX_DIRECT,
    "depthwise": lib.VOX_DEPTHWISE,
    "im2col": lib.VOX_IM2COL,
    "winograd": lib.VOX_WINOGRAD,
    "winograd2": lib.VOX_WINOGRAD,
}
POINTS = {"winograd2": 4}
"""Of Winograd's forms along an axis, at most: those of an algorithm that may not have as many as it likes."""

RULES = {"sgd": lib.VOX_SGD, "adam": lib.VOX_ADAM}
ACTIVATIONS = {None: lib.VOX_IDENTITY, "relu": lib.VOX_RELU, "leaky_relu": lib.VOX_LEAKY_RELU}


# --------------------------------------------------------------------------------------------------
# Threads and instruction sets


def _cgroup_quota() -> int | None:
    """Processors that the control group grants, rounded up, or None without a limit."""
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        return None if quota == "max" else max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        return None


def _thread_caps() -> dict[str, int]:
    """Every limit on the number of threads, by its source."""
    caps = {"affinity": len(os.sched_getaffinity(0))}
    for variable in ("VOXCONV_NUM_THREADS", "OMP_NUM_THREADS"):
        first = os.environ.get(variable, "").split(",")[0].strip()
        if first.isdecimal() and int(first) > 0:
            caps[variable] = int(first)
    quota = _cgroup_quota()
    if quota is not None:
        caps["cgroup"] = quota
    return caps


def set_num_threads(threads: int) -> None:
    """Use this many threads in every call from now on, in the whole process."""
    lib.vox_set_num_threads(threads)


def get_num_threads() -> int:
    """Threads that a call may use."""
    return int(lib.vox_get_num_threads())


def _isa() -> str:
    index = lib.vox_isa_used()
    if index < 0:
        names = [ffi.string(lib.vox_isa_name(i)).decode() for i in range(lib.vox_isa_count())]
        here = [isa for i, isa in enumerate(names) if lib.vox_isa_supported(i)]
        raise RuntimeError(
            f"VOXCONV_ISA={os.environ.get('VOXCONV_ISA')!r} is not an instruction set of this build and machine; "
            f"it can be one of {here} (built: {names})"
        )
    return str(ffi.string(lib.vox_isa_name(index)).decode())


def info() -> dict[str, Any]:
    """What was compiled, what this machine supports, what is used, and the thread cap's reasons."""
    count = lib.vox_isa_count()
    names = [ffi.string(lib.vox_isa_name(i)).decode() for i in range(count)]
    used = _isa()
    lanes = lib.vox_isa_lanes(names.index(used), lib.VOX_F32)
    return {
        "isa": {
            "compiled": names,
            "supported": [isa for i, isa in enumerate(names) if lib.vox_isa_supported(i)],
            "used": used,
            "lanes": {"float32": lanes, "float64": lanes // 2},
        },
        "threads": get_num_threads(),
        "thread_caps": _thread_caps(),
        "memory": {
            "live_bytes": lib.vox_live_bytes(),
            "kept_bytes": lib.vox_kept_bytes(),
            "peak_bytes": lib.vox_peak_bytes(),
        },
    }


_isa()
set_num_threads(min(_thread_caps().values()))


# --------------------------------------------------------------------------------------------------
# Calls


def _check(status: int) -> int:
    """C's refusals: sizes that it cannot count are the only ones that a valid problem can meet."""
    if status == lib.VOX_OVERFLOW:
        raise OverflowError("the workspace of this problem exceeds 2**63 - 1 bytes")
    if status == lib.VOX_NO_MEMORY:
        raise MemoryError("voxconv could not allocate the workspace of a call")
    if status < 0 and status != lib.VOX_OUTSIDE:
        raise RuntimeError(f"the native library refused a problem that Python accepted (status {status})")
    return status


def _run(function: Callable[..., int], *arguments: Any) -> int:
    """Call until done, and say how it ended; between two slices Python sees its signals."""
    try:
        cursor = _cursors.pop()
    except IndexError:
        cursor = ffi.new("int64_t *")
    while (status := function(*arguments, cursor)) and _check(status) == lib.VOX_AGAIN:
        pass
    cursor[0] = 0
    _cursors.append(cursor)
    return status


_cursors: list[Any] = []
"""Cursors at 0, each of one call at a time: taking one out of a list is atomic."""


def _pointer(array: Array | None) -> Any:
    return ffi.NULL if array is None else ffi.from_buffer(array)


def release_kept_memory() -> None:
    """Give the blocks that are kept for later calls back to the system."""
    lib.vox_release_memory()


def _three(values: tuple[int, ...], fill: int) -> list[int]:
    return [fill] * (3 - len(values)) + list(values)


def _conv_struct(problem: ConvProblem, operation: str, algorithm: str, once: bool) -> Any:
    p = ffi.new("vox_conv *")
    p.n, p.c, p.k, p.groups = problem.n, problem.c, problem.k, problem.groups
    p.spatial = _three(problem.spatial, 1)
    p.kernel = _three(problem.kernel, 1)
    p.stride = _three(problem.stride, 1)
    p.dilation = _three(problem.dilation, 1)
    p.pad = _three(tuple(before for before, _ in problem.padding), 0)
    p.output = _three(problem.output, 1)
    p.type = TYPES[problem.dtype]
    p.operation = OPERATIONS[operation]
    p.algorithm = ALGORITHMS[algorithm]
    p.once, p.points = once, POINTS.get(algorithm, 0)
    if problem.activation is not None:
        p.activation = ACTIVATIONS[problem.activation.name]
        p.slope = problem.activation.slope
    return p


class _Call:
    """A problem as C knows it, and the memory that it takes."""

    __slots__ = ("_workspace", "most_threads", "packed_bytes", "struct")

    def __init__(self, problem: ConvProblem, operation: str, algorithm: str, once: bool = False) -> None:
        self.most_threads = max(1, problem.flops // FLOPS_A_THREAD)
        self.struct = _conv_struct(problem, operation, algorithm, once)
        self.packed_bytes = lib.vox_conv_packed_bytes(self.struct)
        self._workspace: dict[int, int] = {}

    def workspace_bytes(self, threads: int) -> int:
        """Bytes of scratch, or a status below 0."""
        found = self._workspace.get(threads)
        if found is None:
            found = self._workspace[threads] = lib.vox_conv_workspace_bytes(self.struct, threads)
        return found


_call = lru_cache(maxsize=512)(_Call)


def _winograd(problem: ConvProblem, operation: str, algorithm: str) -> tuple[tuple[int, ...], float] | None:
    """Winograd's best tile and its estimated gain over the direct sum, or None where it does not apply."""
    tile, gain = ffi.new("int64_t[3]"), ffi.new("double *")
    if lib.vox_conv_winograd_tile(_call(problem, operation, algorithm).struct, tile, gain) != lib.VOX_OK:
        return None
    return tuple(tile), gain[0]


def gain(problem: ConvProblem, operation: str, algorithm: str) -> float:
    """See `voxconv.backends.Backend.gain`."""
    found = _winograd(problem, operation, algorithm) if ALGORITHMS[algorithm] == lib.VOX_WINOGRAD else None
    return 1.0 if found is None else found[1]


def _winograd_refusal(problem: ConvProblem, operation: str, algorithm: str, *, asked: bool) -> str | None:
    found = _winograd(problem, operation, algorithm)
    if found is None and algorithm == "winograd2":
        return "tiles of 2 outputs want stride 1 and 3 taps along the last axis, as many or 1 before; dw has none"
    if found is None:
        return (
            "Winograd wants 3, 5 or 7 taps along the last axis, as many or 1 before, at stride 1; for y also 3 to 7 a "
            "side at stride 2 without dilation; for dw 3x3 alone"
        )
    tile, faster = found
    if not asked and faster < WINOGRAD_GAIN:
        return f"its best tile, {tile[1]}x{tile[2]}, is estimated at {faster:.2f} times the direct sum's speed"
    return None


def _has_depthwise_tile(problem: ConvProblem) -> bool:
    """Whether a tile of compiled sums serves; without one depthwise visits each output once a tap."""
    steps, sizes = set(problem.stride[-2:]), set(problem.kernel[-2:])
    square = len(problem.kernel) > 1 and len(steps) == len(sizes) == 1 and set(problem.dilation[-2:]) == {1}
    return square and (*sizes, *steps) in {(3, 1), (3, 2), (5, 1), (5, 2), (7, 1)}


def _direct_pays(problem: ConvProblem, operation: str) -> bool:
    """Whether direct is faster where depthwise has no tile; as measured, with AVX-512 and AVX2, float32 and float64."""
    if operation == "conv":
        return True
    if math.prod(problem.output) < TINY_PLANE:
        return False
    if operation == "conv_input_grad":  # a strided one's direct sums go by phases, which cost as much as few taps
        return set(problem.stride) == {1}
    return len(problem.kernel) == 1 or (math.prod(problem.kernel) <= FEW_TAPS and problem.output[-1] >= WIDE_ROW)


def _depthwise_refusal(problem: ConvProblem, operation: str, *, asked: bool) -> str | None:
    c, k, groups = problem.c, problem.k, problem.groups
    if groups != c or (operation != "conv" and groups != k):
        return f"depthwise wants one channel a group: {c} -> {k} channels in {groups} groups"
    if not asked and k > 4 * groups and math.prod(problem.output) > SMALL_PLANE:
        return f"a plane gives {k // groups} outputs: direct loads it once for several of them, depthwise for each"
    if not asked and not _has_depthwise_tile(problem) and _direct_pays(problem, operation):
        return "depthwise has tiles for 3x3 and 5x5 at a stride of 1 or 2 and 7x7 at 1: direct's serve all kernels"
    if _call(problem, operation, "depthwise").workspace_bytes(1) < 0:
        return "it sums a channel's weight gradient in one piece, which here would take too long"
    return None


def refusal(problem: ConvProblem, operation: str, algorithm: str, *, asked: bool) -> str | None:
    """See `voxconv.backends.Backend.refusal`."""
    if algorithm not in algorithms:
        return f"there is no {algorithm} kernel in the native backend"
    if algorithm == "depthwise":
        return _depthwise_refusal(problem, operation, asked=asked)
    if ALGORITHMS[algorithm] == lib.VOX_WINOGRAD:
        return _winograd_refusal(problem, operation, algorithm, asked=asked)
    if algorithm != "im2col":
        each = _call(problem, operation, algorithm).workspace_bytes(1)
        if each < 0 or (each > BAND_LIMIT and operation != "conv_weight_grad"):
            return "its zero-bordered band would be mostly border: the dilated kernel is far larger than the input"
    return None


def workspace_bytes(problem: ConvProblem, operation: str, algorithm: str, threads: int) -> int:
    """See `voxconv.backends.Backend.workspace_bytes`."""
    call = _call(problem, operation, algorithm)
    return _check(call.workspace_bytes(min(threads, call.most_threads))) + _check(call.packed_bytes)


def pack(problem: ConvProblem, operation: str, algorithm: str, weight: Array, once: bool = False) -> Any:
    """See `voxconv.backends.Backend.pack`."""
    call = _call(problem, operation, algorithm, once)
    packed = _Packed(call, block(_check(call.packed_bytes)), weight)
    _check(lib.vox_conv_pack(call.struct, ffi.from_buffer(weight), packed.pointer))
    return packed


class _Packed:
    """Packed weights, which may refer to the weights as they came, and the call that they are for."""

    __slots__ = ("_weight", "call", "pointer")

    def __init__(self, call: _Call, pointer: Any, weight: Array) -> None:
        self.call = call
        self.pointer = pointer
        self._weight = weight


def _convolve(
    call: _Call, a: Array, b: Any, bias: Array | None, out: Array, most_threads: int | None = None
) -> None:
    threads = call.most_threads
    if threads > 1:
        threads = min(lib.vox_get_num_threads(), threads)
        if most_threads is not None:
            threads = min(threads, most_threads)
    size = call.workspace_bytes(threads)
    _convolve_with(size, call.struct, threads, ffi.from_buffer(a), b, _pointer(bias), ffi.from_buffer(out))


def _convolve_with(size: int, *arguments: Any) -> None:
    scratch = take(_check(size)) if size else ffi.NULL
    try:
        _run(lib.vox_conv_run, *arguments, scratch)
    finally:
        lib.vox_free(scratch)


def _new(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Callable[..., Array]:
    """What `empty` comes to for a result of this size."""
    return np.empty if math.prod(shape) * dtype.itemsize < LARGE else empty


def known_call(problem: ConvProblem, operation: str, algorithm: str) -> Callable[..., Array]:
    """A call of arrays that are ready, with what does not depend on them worked out, which would take as long.

    Its arguments are input, weight and bias, or for the gradients grad_output and weight, or input and grad_output.
    """
    call = _call(problem, operation, algorithm, operation == "conv")
    shape = {"conv": problem.output_shape, "conv_input_grad": problem.input_shape}.get(operation, problem.weight_shape)
    dtype, struct, packed_bytes, most = problem.dtype, call.struct, call.packed_bytes, call.most_threads
    new, from_buffer = _new(shape, dtype), ffi.from_buffer
    workspace_bytes, run = call.workspace_bytes, lib.vox_conv_once

    def known(a: Array, b: Array, bias: Array | None = None) -> Array:
        result, memory = new(shape, dtype), ffi.new("void **")
        threads = 1 if most == 1 else min(lib.vox_get_num_threads(), most)
        try:
            _run(
                run, struct, threads, packed_bytes, workspace_bytes(threads), from_buffer(a), from_buffer(b),
                _pointer(bias), from_buffer(result), memory,
            )  # fmt: skip
        finally:
            if memory[0]:
                lib.vox_free(memory[0])
        return result

    return known


def short_conv(
    problem: ConvProblem, algorithm: str, packed: _Packed, bias: Array | None
) -> Callable[..., Array] | None:
    """A convolution of an input that is ready, into an array that is if there is one, for a plan.

    None where a call is not so short that whatever Python does shows: where it may use several threads, or its result
    is recycled.
    """
    call = packed.call
    shape, dtype = problem.output_shape, problem.dtype
    if call.most_threads > 1 or not 0 < math.prod(shape) * dtype.itemsize < LARGE:
        return None
    size, struct, convolve, from_buffer = call.workspace_bytes(1), call.struct, lib.vox_conv_run, ffi.from_buffer
    pointer, held = packed.pointer, _pointer(bias)

    def run(x: Array, out: Array | None = None) -> Array:
        result = np.empty(shape, dtype) if out is None else out
        if size:
            _convolve_with(size, struct, 1, from_buffer(x), pointer, held, from_buffer(result))
        else:
            _run(convolve, struct, 1, from_buffer(x), pointer, held, from_buffer(result), ffi.NULL)
        return result

    return run


def conv(
    problem: ConvProblem, algorithm: str, x: Array, packed: Any, bias: Array | None, out: Array,
    most_threads: int | None = None,
) -> None:  # fmt: skip
    """See `voxconv.backends.Backend.conv`."""
    if out.size:
        _convolve(packed.call, x, packed.pointer, bias, out, most_threads)


def conv_input_grad(
    problem: ConvProblem, algorithm: str, grad_output: Array, packed: Any, bias: Array | None, out: Array
) -> None:
    """See `voxconv.backends.Backend.conv_input_grad`."""
    if out.size:
        _convolve(packed.call, grad_output, packed.pointer, bias, out)


def conv_weight_grad(problem: ConvProblem, algorithm: str, x: Array, grad_output: Array, out: Array) -> None:
    """See `voxconv.backends.Backend.conv_weight_grad`."""
    if out.size:
        _convolve(_call(problem, "conv_weight_grad", algorithm), x, _pointer(grad_output), None, out)


def conv_bias_grad(grad_output: Array, out: Array) -> None:
    """See `voxconv.backends.Backend.conv_bias_grad`."""
    n, k = grad_output.shape[:2]
    _run(
        lib.vox_conv_bias_grad, TYPES[out.dtype], lib.vox_get_num_threads(), n, k,
        math.prod(grad_output.shape[2:]), _pointer(grad_output), _pointer(out),
    )  # fmt: skip


def relu_grad(output: Array, grad_output: Array, out: Array, sums: Array | None) -> None:
    """See `voxconv.backends.Backend.relu_grad`."""
    n, k = grad_output.shape[:2]
    _run(
        lib.vox_relu_grad, TYPES[out.dtype], lib.vox_get_num_threads(), n, k, math.prod(grad_output.shape[2:]),
        _pointer(output), _pointer(grad_output), _pointer(out), _pointer(sums),
    )  # fmt: skip


@lru_cache(maxsize=512)
def _window_struct(problem: WindowProblem) -> Any:
    p = ffi.new("vox_window *")
    p.planes = problem.planes
    p.spatial = _three(problem.spatial, 1)
    p.kernel = _three(problem.kernel, 1)
    p.stride = _three(problem.stride, 1)
    p.dilation = _three(problem.dilation, 1)
    p.pad = _three(tuple(before for before, _ in problem.padding), 0)
    p.pad_after = _three(tuple(after for _, after in problem.padding), 0)
    p.output = _three(problem.output, 1)
    p.type = TYPES[problem.dtype]
    p.count_include_pad = problem.count_include_pad
    p.divisor = problem.divisor_override or 0
    return p


def _walk(function: Callable[..., int], problem: WindowProblem, *arrays: Array | None) -> None:
    if problem.planes:
        pointers = (_pointer(array) for array in arrays)
        _run(function, _window_struct(problem), lib.vox_get_num_threads(), *pointers)


def max_pool(problem: WindowProblem, x: Array, out: Array, indices: Array | None) -> None:
    """See `voxconv.backends.Backend.max_pool`."""
    places = ffi.NULL if indices is None else ffi.from_buffer("int64_t[]", indices)
    if problem.planes:
        _run(
            lib.vox_max_pool, _window_struct(problem), lib.vox_get_num_threads(), _pointer(x), _pointer(out), places
        )


def max_pool_taps(problem: WindowProblem, x: Array, out: Array, taps: Array) -> None:
    """See `voxconv.backends.Backend.max_pool_taps`."""
    if problem.planes:
        _run(
            lib.vox_max_pool_taps, _window_struct(problem), lib.vox_get_num_threads(), _pointer(x), _pointer(out),
            ffi.from_buffer("uint8_t[]", taps),
        )  # fmt: skip


def max_pool_taps_grad(
    problem: WindowProblem, grad_output: Array, taps: Array, pooled: Array | None, output: Array | None,
    add: Array | None, out: Array, sums: Array | None,
) -> None:  # fmt: skip
    """See `voxconv.backends.Backend.max_pool_taps_grad`."""
    if not problem.planes:
        return
    _run(
        lib.vox_max_pool_taps_grad, _window_struct(problem), lib.vox_get_num_threads(), problem.c, _pointer(pooled),
        _pointer(grad_output), ffi.from_buffer("uint8_t[]", taps), *_samples(output), *_samples(add), _pointer(out),
        _pointer(sums),
    )  # fmt: skip


def _samples(array: Array | None) -> tuple[Any, int]:
    """Where the first sample is and how many elements apart they lie: a buffer has no gaps."""
    if array is None:
        return ffi.NULL, 0
    return ffi.cast("void *", array.__array_interface__["data"][0]), array.strides[0] // array.itemsize


@lru_cache(maxsize=512)
def _sizes(spatial: tuple[int, ...]) -> Any:
    return ffi.new("int64_t[3]", _three(spatial, 1))


def scatter(values: Array, indices: Array, out: Array, *, accumulate: bool) -> bool:
    """See `voxconv.backends.Backend.scatter`."""
    pooled, spatial = _sizes(values.shape[1:]), _sizes(out.shape[1:])
    status = _run(
        lib.vox_scatter, TYPES[out.dtype], lib.vox_get_num_threads(), len(values), pooled, spatial, accumulate,
        _pointer(values), ffi.from_buffer("int64_t[]", indices), _pointer(out),
    )  # fmt: skip
    return bool(status != lib.VOX_OUTSIDE)


def avg_pool(problem: WindowProblem, x: Array, out: Array) -> None:
    """See `voxconv.backends.Backend.avg_pool`."""
    _walk(lib.vox_avg_pool, problem, x, out)


def avg_pool_grad(problem: WindowProblem, grad_output: Array, out: Array) -> None:
    """See `voxconv.backends.Backend.avg_pool_grad`."""
    _walk(lib.vox_avg_pool_grad, problem, grad_output, out)


def known_walk(problem: WindowProblem, operation: str) -> Callable[..., Any]:
    """As `known_call`, of a pool: "max_pool", "max_pool_indices", "avg_pool", or of means' gradient "avg_pool_grad".

    Its arguments are the source and ``out``; it returns None where the latter is not as simple as it takes.
    """
    function = getattr(lib, f"vox_{operation.removesuffix('_indices')}")
    shape = problem.input_shape if operation == "avg_pool_grad" else problem.output_shape
    dtype, struct, new = problem.dtype, _window_struct(problem), _new(shape, problem.dtype)
    threads, from_buffer = lib.vox_get_num_threads, ffi.from_buffer
    no_indices = (ffi.NULL,) if operation == "max_pool" else ()

    def walk(source: Array, out: object) -> Array | None:
        if out is not None and not is_free(out, shape, dtype, (source,)):
            return None
        result: Any = new(shape, dtype) if out is None else out
        _run(function, struct, threads(), from_buffer(source), from_buffer(result), *no_indices)
        return result  # type: ignore[no-any-return]

    def walk_with_indices(source: Array, out: object) -> tuple[Array, Array] | None:
        if out is None:
            result, indices = new(shape, dtype), empty(shape, INT64)
        elif (
            type(out) is tuple and len(out) == 2 and is_free(out[0], shape, dtype, (source,))
            and is_free(out[1], shape, INT64, (source, out[0]))
        ):  # fmt: skip
            result, indices = out
        else:
            return None
        places = from_buffer("int64_t[]", indices)
        _run(function, struct, threads(), from_buffer(source), from_buffer(result), places)
        return result, indices

    return walk_with_indices if operation == "max_pool_indices" else walk


def known_scatter(
    pooled: tuple[int, ...], shape: tuple[int, ...], dtype: np.dtype[Any], accumulate: bool
) -> Callable[..., Array | None]:
    """As `known_walk`, of `scatter` from (N, C, *pooled) to a result of this shape."""
    sizes, threads, from_buffer = (_sizes(pooled[2:]), _sizes(shape[2:])), lib.vox_get_num_threads, ffi.from_buffer
    kind, planes, new = TYPES[dtype], shape[0] * shape[1], _new(shape, dtype)

    def run(values: Array, indices: Array, out: object) -> Array | None:
        if out is not None and not is_free(out, shape, dtype, (values, indices)):
            return None
        result: Any = new(shape, dtype) if out is None else out
        places = from_buffer("int64_t[]", indices)
        status = _run(
            lib.vox_scatter, kind, threads(), planes, *sizes, accumulate, from_buffer(values), places,
            from_buffer(result),
        )  # fmt: skip
        return None if status == lib.VOX_OUTSIDE else result  # what comes next says which index

    return run


def unfold(problem: WindowProblem, x: Array, out: Array) -> None:
    """See `voxconv.backends.Backend.unfold`."""
    _walk(lib.vox_unfold, problem, x, out)


def fold(problem: WindowProblem, columns: Array, out: Array) -> None:
    """See `voxconv.backends.Backend.fold`."""
    _walk(lib.vox_fold, problem, columns, out)


def descend(rule: str, learned: Sequence[Learned]) -> Descend:
    """See `voxconv.backends.Backend.descend`."""
    table, descent = ffi.new("vox_learned[]", len(learned)), ffi.new("vox_descent *", {"rule": RULES[rule]})
    for entry, (data, mean, square) in zip(table, learned, strict=True):
        entry.size, entry.data = data.size, _pointer(data)
        entry.mean, entry.square = _pointer(mean), _pointer(square)
    kind, count = TYPES[learned[0].data.dtype], len(learned)
    most_threads = max(1, sum(data.size for data, _, _ in learned) * OPERATIONS_OF_A_STEP // FLOPS_A_THREAD)

    def run(what: Descent, gradients: Sequence[Array], rates: Sequence[float], scales: Sequence[float]) -> None:
        descent.momentum, descent.nesterov, descent.second, descent.eps, descent.weight_decay, descent.shrink = what
        held = [ffi.from_buffer(gradient) for gradient in gradients]
        for entry, gradient, rate, scale in zip(table, held, rates, scales, strict=True):
            entry.grad, entry.rate, entry.scale = gradient, rate, scale
        _run(lib.vox_descend, kind, min(most_threads, lib.vox_get_num_threads()), descent, count, table)

    return run
