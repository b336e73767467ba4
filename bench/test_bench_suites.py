"""Our backends on the layers of ``voxconv bench``, with pytest-benchmark: ``pytest bench --suite table32``.

A result is compared before it is timed, as the command does.
"""

from __future__ import annotations

import pytest

from voxconv.backends import NAMES
from voxconv.bench.ours import Ours
from voxconv.bench.task import Unsupported, make_task, wrong


@pytest.mark.parametrize("backend", [name for name in NAMES if name != "reference"])
def test_layer(benchmark, layer, direction, backend):
    task = make_task(layer, direction, "float32", 1, warm=True)
    try:
        run, read = Ours(backend).prepare(task)
    except Unsupported as reason:
        pytest.skip(str(reason))
    assert wrong(read(run()), task) is None
    benchmark.group = f"{direction} {layer.name}"
    benchmark(run)
    benchmark.extra_info |= {"backend": backend, "flops": layer.flops, "bytes": layer.elements * task.x.itemsize}
    if benchmark.stats:
        benchmark.extra_info["gflops"] = layer.flops / benchmark.stats.stats.median / 1e9
