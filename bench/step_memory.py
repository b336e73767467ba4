"""Memory that a training step takes at its peak, ours and torch's, each in a process of its own.

    python bench/step_memory.py     # in an environment with torch: build/peers/bin/python

Counted is what the process holds at its peak over three steps beyond what it held before the network was built and
after a network of the same kind on a small image had taken a step, so that code and libraries are there already.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from voxconv.bench.networks import NETWORKS, Network, ours, torch_step

STEPS = 3
SMALL = 8
"""Size along each axis of the image that warms up."""


def held(what: str) -> int:
    """Bytes that this process holds, ``VmRSS``, or held at most, ``VmHWM``."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"/proc/self/status does not say {what}")


def take_steps(network: Network, who: str) -> None:
    """Take some steps of a network."""
    x = np.random.default_rng(1).standard_normal(network.input_shape).astype(np.float32)
    if who == "voxconv":
        step = ours(network, x, network.model("float32"))
    else:
        import torch

        torch.set_num_threads(1)
        layouts = {2: torch.channels_last, 3: torch.channels_last_3d}
        step = torch_step(torch, network, x, layouts[network.rank] if who == "torch_cl" else None)
    for _ in range(STEPS):
        step()


def measure(name: str, who: str) -> None:
    """Print the peak of this process, in bytes."""
    network = next(n for n in NETWORKS if n.name == name)
    take_steps(replace(network, spatial=(SMALL,) * network.rank), who)
    before = held("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    take_steps(network, who)
    print(held("VmHWM") - before)


def main() -> None:
    """Ask one process for each network and library."""
    if len(sys.argv) == 3:
        measure(*sys.argv[1:])
        return
    print("MiB at the peak of a step           voxconv    torch  torch_cl  of the smaller")
    for network in NETWORKS:
        peaks = []
        for who in ("voxconv", "torch", "torch_cl"):
            command = [sys.executable, __file__, network.name, who]
            peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 2**20)
        print(f"{network.name:32s} {peaks[0]:10.1f} {peaks[1]:8.1f} {peaks[2]:9.1f} {peaks[0] / min(peaks[1:]):15.2f}")


if __name__ == "__main__":
    main()
