"""Named shapes, one line each; tests and benchmarks walk the same table.

Sizes sit at vector lengths (4, 8, 16), register tiles and channel blocks, and one beside them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Conv:
    """A convolution: (n, c, *spatial) with k filters of size ``kernel``; ``options`` as the API takes them."""

    name: str
    n: int
    c: int
    k: int
    spatial: tuple[int, ...]
    kernel: tuple[int, ...]
    options: dict = field(default_factory=dict)

    @property
    def rank(self):
        return len(self.spatial)

    @property
    def groups(self):
        return self.options.get("groups", 1)

    def arrays(self, fill, seed, dtype):
        """Input, weight and bias."""
        rng = np.random.default_rng(seed)
        shapes = (self.n, self.c, *self.spatial), (self.k, self.c // self.groups, *self.kernel), (self.k,)
        return tuple(fill(rng, shape, dtype) for shape in shapes)


@dataclass(frozen=True)
class Pool:
    """A window over (n, c, *spatial)."""

    name: str
    n: int
    c: int
    spatial: tuple[int, ...]
    kernel: tuple[int, ...]
    options: dict = field(default_factory=dict)

    @property
    def rank(self):
        return len(self.spatial)

    def array(self, fill, seed, dtype):
        return fill(np.random.default_rng(seed), (self.n, self.c, *self.spatial), dtype)

    @property
    def elements(self):
        return self.n * self.c * math.prod(self.spatial)


def _conv(name, n, c, k, spatial, kernel, **options):
    return Conv(name, n, c, k, spatial, kernel, options)


def _pool(name, n, c, spatial, kernel, **options):
    return Pool(name, n, c, spatial, kernel, options)


CONV = [
    # one axis
    _conv("1d-single", 1, 1, 1, (1,), (1,)),
    _conv("1d-kernel-is-input", 1, 2, 3, (7,), (7,)),
    *(_conv(f"1d-width-{w}", 1, 3, 5, (w,), (3,), padding=1) for w in (3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 67)),
    _conv("1d-stride-2", 2, 3, 8, (35,), (5,), stride=2, padding=2),
    _conv("1d-stride-over-kernel", 1, 2, 3, (40,), (2,), stride=7),
    _conv("1d-dilated", 1, 4, 4, (50,), (3,), dilation=9, padding=9),
    _conv("1d-asymmetric", 1, 2, 3, (13,), (4,), padding=((3, 0),)),
    _conv("1d-same-even", 1, 2, 3, (13,), (4,), padding="same", stride=3),
    _conv("1d-same-lower", 1, 2, 3, (13,), (4,), padding="same_lower"),
    _conv("1d-pad-over-kernel", 1, 2, 3, (6,), (2,), padding=5),
    _conv("1d-groups", 2, 6, 9, (20,), (3,), groups=3),
    _conv("1d-depthwise", 2, 5, 5, (37,), (5,), groups=5, padding=2),
    _conv("1d-depthwise-long", 1, 3, 3, (3000,), (3,), groups=3, padding=1),
    _conv("1d-long-kernel", 1, 1, 2, (200,), (128,), padding=64),
    *(_conv(f"1d-winograd-{k}", 2, 24, 16, (67,), (k,), padding=k // 2) for k in (3, 5, 7)),
    # two axes: pointwise
    _conv("1x1", 1, 8, 16, (9, 9), (1, 1)),
    _conv("1x1-odd", 2, 7, 13, (5, 11), (1, 1)),
    # pixels read in place, around the tile: the last one begins earlier
    *(_conv(f"1x1-pixels-{w}", 2, 5, 11, (w,), (1,)) for w in (23, 24, 47, 48, 49, 95, 97, 145)),
    _conv("1x1-several-bands-in-place", 1, 520, 9, (20, 21), (1, 1)),
    _conv("1x1-groups-in-place", 2, 12, 20, (9, 11), (1, 1), groups=2),
    _conv("1x1-stride-2", 1, 17, 9, (9, 9), (1, 1), stride=2),
    _conv("1x1-one-pixel", 3, 19, 33, (1, 1), (1, 1)),
    _conv("1x1-padded", 1, 3, 4, (4, 4), (1, 1), padding=2),
    # two axes: 3x3 around tiles and blocks
    *(_conv(f"3x3-map-{s}", 1, 5, 7, (s, s), (3, 3), padding=1) for s in (3, 4, 5, 7, 8, 9, 14, 15, 16, 17)),
    *(_conv(f"3x3-k-{k}", 1, 3, k, (6, 10), (3, 3)) for k in (1, 2, 4, 6, 8, 15, 16, 17, 33)),
    *(_conv(f"3x3-c-{c}", 1, c, 4, (6, 10), (3, 3), padding=1) for c in (1, 2, 7, 8, 9, 16, 31)),
    _conv("3x3-winograd-size", 1, 32, 32, (20, 20), (3, 3), padding=1),
    # four tiles are a row: of whole vectors, and cut at both ends; padding of none and of more than a row
    *(_conv(f"3x3-four-tiles-{s}", 3, 9, 10, (s, s), (3, 3), padding=1) for s in (13, 14, 16)),
    _conv("3x3-four-tiles-valid", 2, 8, 9, (5, 16), (3, 3)),
    _conv("3x3-four-tiles-full", 2, 8, 9, (19, 13), (3, 3), padding=((1, 0), (2, 1))),
    _conv("3x3-four-tiles-fused", 5, 3, 10, (15, 14), (3, 3), padding=1),
    # few terms: two output channels and two vectors of tiles at once, the last of either alone
    *(_conv(f"3x3-fused-{c}", 1, c, 7, (12, 64), (3, 3), padding=1) for c in (1, 4, 5, 6)),
    _conv("3d-fused-two-maps", 1, 2, 3, (3, 12, 64), (3, 3, 3), padding=1),
    *(_conv(f"3d-four-tiles-{d}", 2, 5, 9, (d, 6, 14), (d, 3, 3), padding=1) for d in (3, 7)),
    # few pixels, so output channels are the lanes: one map, and two of which each has an odd number of tiles
    *(_conv(f"channel-lanes-1x1-{h}x{w}", 1, 260, 64, (h, w), (1, 1)) for h, w in ((1, 1), (3, 3), (5, 7), (7, 7))),
    _conv("channel-lanes-1x1-13x14", 1, 130, 32, (13, 14), (1, 1)),
    _conv("channel-lanes-winograd", 2, 256, 32, (25, 26), (3, 3), padding=1),
    _conv("channel-lanes-grouped", 2, 520, 64, (7, 7), (1, 1), groups=2),
    # the same over bands that are copied, of one block of input channels and of several; odd, even and one pixel more
    _conv("channel-lanes-3x3", 2, 20, 64, (7, 7), (3, 3), padding=1),
    _conv("channel-lanes-3x3-blocks", 1, 530, 32, (5, 5), (3, 3), padding=1),
    _conv("channel-lanes-3x3-stride-2", 1, 17, 96, (13, 14), (3, 3), stride=2, padding=1),
    _conv("channel-lanes-3x3-stride-2-1", 1, 17, 32, (13, 5), (3, 3), stride=(2, 1), padding=((1, 0), (0, 2))),
    _conv("channel-lanes-1x1-stride-2", 2, 140, 32, (13, 11), (1, 1), stride=2),
    _conv("channel-lanes-3d", 1, 9, 32, (3, 5, 7), (3, 3, 3), padding=1, stride=(2, 1, 1)),
    # a column of its own for each tap, in bands of pixel vectors
    _conv("tap-columns", 1, 3, 128, (19, 14), (3, 3), padding=1),
    _conv("tap-columns-blocks", 2, 70, 129, (15, 13), (3, 3)),
    _conv("tap-columns-back", 2, 130, 5, (17, 14), (3, 3), padding=((1, 1), (0, 2))),
    _conv("tap-columns-back-1x3", 1, 130, 5, (17, 14), (1, 3), padding=(0, 1)),
    _conv("tap-columns-stride-2", 1, 5, 130, (29, 27), (3, 3), stride=2, padding=1),
    _conv("tap-columns-3d", 1, 4, 128, (3, 18, 12), (3, 3, 3), padding=1),
    _conv("3x3-batch", 4, 16, 24, (14, 14), (3, 3), padding=1),
    _conv("3x3-small-map-many-channels", 2, 40, 48, (7, 7), (3, 3), padding=1),
    _conv("3x3-stride-2", 2, 8, 12, (15, 17), (3, 3), stride=2, padding=1),
    _conv("3x3-stride-3-1", 1, 4, 8, (16, 19), (3, 3), stride=(3, 1)),
    _conv("3x3-stride-over-kernel", 1, 2, 3, (19, 19), (3, 3), stride=(5, 4), padding=1),
    _conv("3x3-dilated-2", 1, 6, 6, (17, 15), (3, 3), dilation=2, padding=2),
    _conv("3x3-dilated-over-map", 1, 3, 4, (5, 6), (3, 3), dilation=7, padding=7),
    _conv("3x3-dilated-strided", 2, 3, 5, (18, 21), (3, 3), dilation=(2, 3), stride=(3, 2), padding=(3, 4)),
    _conv("3x3-asymmetric", 1, 4, 8, (9, 10), (3, 3), padding=((0, 2), (3, 1))),
    _conv("3x3-pad-over-kernel", 1, 2, 4, (4, 5), (3, 3), padding=6),
    _conv("3x3-same-stride-2", 1, 4, 8, (12, 13), (3, 3), padding="same", stride=2),
    _conv("2x2-same", 1, 4, 8, (9, 9), (2, 2), padding="same"),
    _conv("2x2-stride-2", 1, 8, 16, (12, 12), (2, 2), stride=2),
    _conv("2x2-stride-2-ragged", 2, 9, 5, (6, 70), (2, 2), stride=2),
    _conv("2x2-stride-2-groups", 1, 6, 4, (4, 34), (2, 2), stride=2, groups=2),
    _conv("2x2-stride-2-remainder", 1, 3, 4, (5, 7), (2, 2), stride=2),
    _conv("first-layer-7x7", 1, 3, 16, (29, 31), (7, 7), stride=2, padding=3),
    _conv("5x5", 1, 6, 10, (13, 18), (5, 5), padding=2),
    # Winograd by 8 points: whole tiles, a row and column more, one less; turned kernels do not look alike
    *(_conv(f"5x5-winograd-{s}", 1, 16, 16, (s, s + 1), (5, 5), padding=2) for s in (15, 16, 17)),
    *(_conv(f"7x7-winograd-{s}", 2, 16, 12, (s, s + 1), (7, 7), padding=3) for s in (9, 16)),
    _conv("5x5-winograd-dilated", 1, 16, 16, (19, 22), (5, 5), padding=4, dilation=2),
    # images of one sample that are not of one size, in one chunk and in several; residues read one by one
    _conv("3x3-winograd-dilated", 2, 16, 20, (19, 22), (3, 3), padding=2, dilation=2),
    _conv("3x3-winograd-dilated-2x3", 1, 9, 17, (70, 53), (3, 3), padding=(0, 3), dilation=(2, 3)),
    _conv("5x5-winograd-groups", 1, 32, 32, (14, 14), (5, 5), groups=2),
    # at stride 2 parities are channels of 2 to 4 taps: of tiles, vectors of them and rows one more and one less
    *(_conv(f"3x3-stride-2-{s}", 2, 9, 16, (s, s + 2), (3, 3), stride=2, padding=1) for s in (15, 16, 17, 127)),
    *(_conv(f"{k}x{k}-parities", 1, 8, 32, (31, 130), (k, k), stride=2, padding=k // 2) for k in (3, 4, 5, 6, 7)),
    *(_conv(f"{k}x{k}-parities-valid", 1, 3, 17, (13, 35), (k, k), stride=2) for k in (3, 4, 5, 6, 7)),
    _conv("3x3-winograd-stride-2-lanes", 1, 40, 64, (27, 28), (3, 3), stride=2, padding=1),
    _conv("3x3-winograd-stride-2-groups", 2, 6, 8, (14, 14), (3, 3), stride=2, padding=(1, 0), groups=2),
    _conv("1x7", 1, 8, 8, (9, 17), (1, 7), padding=(0, 3)),
    _conv("7x1", 1, 8, 8, (17, 9), (7, 1), padding=(3, 0)),
    _conv("kernel-is-map", 2, 9, 5, (6, 5), (6, 5)),
    _conv("wide-row", 1, 2, 3, (1, 131), (1, 3), padding=(0, 1)),
    _conv("tall-column", 1, 2, 3, (131, 1), (3, 1), padding=(1, 0)),
    _conv("groups-2", 2, 8, 12, (9, 9), (3, 3), groups=2, padding=1),
    _conv("groups-uneven", 1, 15, 9, (8, 11), (3, 3), groups=3, padding=1),
    _conv("groups-1x1", 1, 16, 8, (7, 9), (1, 1), groups=4),
    _conv("groups-stride", 1, 8, 8, (11, 11), (3, 3), groups=4, stride=2, padding=1),
    _conv("depthwise", 2, 9, 9, (12, 19), (3, 3), groups=9, padding=1),
    _conv("depthwise-stride-2", 1, 16, 16, (15, 15), (3, 3), groups=16, stride=2, padding=1),
    _conv("depthwise-5x5-dilated", 1, 7, 7, (16, 17), (5, 5), groups=7, dilation=2, padding=4),
    *(_conv(f"depthwise-width-{w}", 1, 3, 3, (9, w), (3, 3), groups=3, padding=1) for w in (3, 7, 8, 16, 17, 33)),
    # tiles side by side of which none is found twice
    *(_conv(f"depthwise-whole-tiles-{w}", 1, 2, 2, (8, w), (3, 3), groups=2, padding=1) for w in (24, 48, 64)),
    *(_conv(f"depthwise-height-{h}", 1, 2, 2, (h, 20), (3, 3), groups=2, padding=1) for h in (1, 4, 6, 7, 8, 15)),
    *(
        _conv(f"depthwise-{k}x{k}-stride-{s}", 2, 5, 5, (17, 37), (k, k), groups=5, stride=s, padding=k // 2)
        for k in (2, 3, 5, 7)
        for s in (1, 2)
    ),
    _conv("depthwise-narrow-stride-2", 1, 40, 40, (14, 14), (3, 3), groups=40, stride=2, padding=1),
    _conv("depthwise-many-small", 2, 70, 70, (7, 7), (3, 3), groups=70, padding=1),
    _conv("depthwise-several-bands", 1, 2, 2, (150, 140), (3, 3), groups=2, padding=((2, 1), (0, 1))),
    _conv("depthwise-stride-3", 1, 4, 4, (17, 20), (3, 3), groups=4, stride=3, padding=1),
    _conv("depthwise-stride-2-1", 1, 4, 4, (12, 18), (3, 5), groups=4, stride=(1, 2), padding=(1, 2)),
    _conv("depthwise-dilated-strided", 1, 4, 4, (16, 23), (3, 3), groups=4, stride=2, dilation=2, padding=2),
    _conv("depthwise-multiplier-stride-2", 2, 6, 12, (9, 36), (3, 3), groups=6, stride=2, padding=1),
    _conv("depthwise-multiplier", 1, 4, 12, (9, 10), (3, 3), groups=4, padding=1),
    # one to three output channels: an image that L2 holds, one whose sums wait between blocks of channels, and slices
    *(_conv(f"narrow-{k}", 2, 5, k, (9, 35), (3, 3), padding=1) for k in (1, 2, 3)),
    _conv("narrow-back", 2, 3, 6, (15, 16), (3, 3), padding=((0, 2), (1, 1))),
    _conv("narrow-rows", 1, 11, 2, (83, 90), (3, 3), padding=1),
    _conv("narrow-rows-back", 1, 1, 10, (83, 97), (3, 3), padding=(1, 0)),
    _conv("narrow-groups", 1, 10, 4, (8, 17), (3, 3), groups=2, padding=1),
    # three axes
    _conv("3d-3x3x3", 1, 4, 6, (6, 7, 9), (3, 3, 3), padding=1),
    _conv("3d-winograd-size", 1, 16, 16, (6, 12, 12), (3, 3, 3), padding=1),
    _conv("3d-winograd-stride-2", 1, 5, 8, (7, 13, 15), (3, 3, 3), stride=2, padding=1),
    _conv("3d-winograd-stride-1-2-2", 2, 4, 9, (6, 9, 36), (3, 5, 5), stride=(1, 2, 2), padding=(1, 2, 2)),
    _conv("3d-winograd-5x5x5", 1, 8, 8, (6, 9, 10), (5, 5, 5), padding=2),
    _conv("3d-1x1x1", 2, 5, 9, (3, 4, 5), (1, 1, 1)),
    _conv("3d-stride-2", 1, 3, 8, (9, 8, 11), (3, 3, 3), stride=2, padding=1),
    _conv("3d-dilated", 1, 2, 4, (9, 8, 10), (2, 3, 3), dilation=(3, 2, 1), padding=(1, 2, 1)),
    _conv("3d-asymmetric", 1, 3, 4, (4, 6, 7), (3, 2, 3), padding=((2, 0), (0, 1), (1, 2))),
    _conv("3d-groups", 1, 6, 4, (5, 6, 7), (3, 3, 3), groups=2, padding=1),
    _conv("3d-depthwise", 1, 5, 5, (6, 7, 18), (3, 3, 3), groups=5, padding=1),
    _conv("3d-depthwise-stride-2", 2, 3, 3, (7, 8, 19), (3, 3, 3), groups=3, stride=2, padding=1),
    _conv("3d-depthwise-dilated", 1, 4, 4, (6, 7, 18), (2, 3, 3), groups=4, dilation=(3, 1, 1), padding=(2, 1, 1)),
    _conv("3d-narrow", 1, 6, 2, (5, 9, 18), (3, 3, 3), padding=1),
    _conv("3d-narrow-rows", 1, 9, 1, (13, 25, 38), (3, 3, 3), padding=1),
    _conv("3d-narrow-rows-back", 1, 2, 9, (11, 30, 33), (2, 3, 3), padding=((1, 0), (1, 1), (0, 1))),
    _conv("3d-narrow-dilated-back", 1, 2, 3, (6, 9, 20), (2, 3, 3), padding=(1, 1, 0), dilation=(2, 1, 1)),
    _conv("3d-narrow-stride-2", 1, 6, 1, (9, 8, 17), (3, 3, 3), stride=(2, 1, 1), padding=1),
    _conv("3d-2x2x2-stride-2", 1, 4, 8, (6, 6, 8), (2, 2, 2), stride=2),
    _conv("3d-2x2x2-stride-2-ragged", 1, 17, 3, (4, 6, 10), (2, 2, 2), stride=2),
    # nothing in some axis
    _conv("no-samples", 0, 3, 4, (5, 6), (3, 3), padding=1),
    _conv("no-input-channels", 2, 0, 4, (5, 6), (3, 3), padding=1),
    _conv("no-output-channels", 2, 3, 0, (5, 6), (3, 3), padding=1),
]

POOL = [
    _pool("1d-2", 2, 3, (17,), (2,)),
    *(_pool(f"1d-width-{w}", 1, 2, (w,), (3,), stride=1, padding=1) for w in (1, 4, 7, 8, 9, 16, 17, 33)),
    _pool("2x2", 2, 4, (12, 14), (2, 2)),
    _pool("2x2-odd", 1, 5, (13, 15), (2, 2)),
    _pool("3x3-stride-2", 1, 8, (15, 15), (3, 3), stride=2, padding=1),
    _pool("3x3-stride-1", 1, 3, (9, 21), (3, 3), stride=1, padding=1),
    _pool("5x5-stride-1", 1, 2, (13, 13), (5, 5), stride=1, padding=2),
    _pool("stride-over-kernel", 1, 2, (14, 17), (2, 2), stride=(5, 3)),
    _pool("ceil", 1, 3, (10, 11), (3, 3), stride=2, ceil_mode=True),
    _pool("ceil-padded", 1, 3, (6, 7), (3, 3), stride=(2, 4), padding=1, ceil_mode=True),
    _pool("ceil-only-window", 1, 2, (2, 5), (3, 3), stride=2, ceil_mode=True),
    _pool("asymmetric", 1, 2, (8, 9), (3, 4), stride=(1, 2), padding=((0, 2), (3, 1))),
    _pool("same", 1, 2, (9, 10), (4, 4), stride=3, padding="same"),
    _pool("global", 3, 7, (7, 7), (7, 7)),
    _pool("3d", 1, 3, (6, 7, 9), (2, 2, 2)),
    _pool("3d-3x3x3", 1, 2, (5, 6, 17), (3, 3, 3), stride=(2, 1, 2), padding=1),
    _pool("no-samples", 0, 3, (6, 6), (2, 2)),
]

DILATED_POOL = [
    _pool("1d-dilated", 1, 2, (23,), (3,), stride=1, padding=1, dilation=4),
    _pool("dilated-padded", 1, 2, (9, 11), (3, 2), stride=2, padding=(2, 1), dilation=(2, 3)),
    _pool("3d-dilated-ceil", 1, 2, (7, 8, 9), (2, 2, 2), stride=2, dilation=2, ceil_mode=True),
]
