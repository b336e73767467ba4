"""Relations that hold whatever the answer is; on small integers they hold exactly."""

from __future__ import annotations

import numpy as np
import pytest

import oracle
import voxconv as vc
from voxconv.plan import PRECISIONS


@pytest.fixture
def rng():
    return np.random.default_rng(31)


@pytest.fixture
def conv(backend):
    def run(x, w, b=None, **options):
        return vc.conv2d(x, w, b, **options, backend=backend, precision="strict")

    return run


@pytest.fixture
def data(rng):
    return oracle.integers(rng, (2, 6, 11, 13), np.float32), oracle.integers(rng, (8, 6, 3, 3), np.float32)


def test_linear_in_input_and_weight(conv, data, rng):
    x, w = data
    x2, w2 = oracle.integers(rng, x.shape, np.float32), oracle.integers(rng, w.shape, np.float32)
    oracle.assert_equal(conv(2 * x - 3 * x2, w), 2 * conv(x, w) - 3 * conv(x2, w))
    oracle.assert_equal(conv(x, 2 * w - 3 * w2), 2 * conv(x, w) - 3 * conv(x, w2))


def test_shifting_the_input_shifts_the_output(conv, data):
    x, w = data
    oracle.assert_equal(conv(x[..., 4:, 2:], w, stride=2), conv(x, w, stride=2)[..., 2:, 1:])


def test_a_delta_kernel_gives_the_input_and_a_delta_image_the_kernel(conv, data):
    x, w = data
    delta = np.zeros((6, 6, 3, 3), np.float32)
    delta[range(6), range(6), 1, 1] = 1
    oracle.assert_equal(conv(x, delta, padding=1), x)
    image = np.zeros((1, 6, 5, 5), np.float32)
    image[0, 4, 2, 2] = 1
    oracle.assert_equal(conv(image, w)[0], w[:, 4, ::-1, ::-1])


def test_flipping_everything_flips_the_output(conv, data):
    x, w = data
    flip = (..., slice(None, None, -1), slice(None, None, -1))
    oracle.assert_equal(conv(x[flip], w[flip], padding=1), conv(x, w, padding=1)[flip])


def test_permuting_samples_channels_and_filters(conv, data, rng):
    x, w = data
    n, c, k = rng.permutation(2), rng.permutation(6), rng.permutation(8)
    oracle.assert_equal(conv(x[n][:, c], w[k][:, c]), conv(x, w)[n][:, k])


def test_groups_are_convolutions_side_by_side(conv, data):
    x, w = data
    parts = [conv(x[:, 3 * g : 3 * g + 3], w[4 * g : 4 * g + 4, :3]) for g in range(2)]
    oracle.assert_equal(conv(x, w[:, :3], groups=2), np.concatenate(parts, axis=1))


def test_splitting_channels_adds_up(conv, data):
    x, w = data
    oracle.assert_equal(conv(x[:, :2], w[:, :2]) + conv(x[:, 2:], w[:, 2:]), conv(x, w))


def test_padding_is_a_border_of_zeros(conv, data):
    x, w = data
    bordered = np.pad(x, ((0, 0), (0, 0), (1, 2), (3, 0)))
    oracle.assert_equal(conv(x, w, padding=((1, 2), (3, 0))), conv(bordered, w))


def test_dilation_is_a_kernel_with_zeros_between(conv, data):
    x, w = data
    stuffed = np.zeros((8, 6, 5, 7), np.float32)
    stuffed[..., ::2, ::3] = w
    oracle.assert_equal(conv(x, w, dilation=(2, 3)), conv(x, stuffed))


def test_stride_is_every_second_output(conv, data):
    x, w = data
    oracle.assert_equal(conv(x, w, stride=(2, 3), padding=1), conv(x, w, padding=1)[..., ::2, ::3])


@pytest.mark.parametrize("power", [-60, -7, 9, 60])
def test_powers_of_two_scale_every_bit(backend, rng, power):
    x, w = rng.normal(size=(1, 4, 9, 9)).astype("f4"), rng.normal(size=(5, 4, 3, 3)).astype("f4")
    scale = np.float32(2.0**power)
    for precision in PRECISIONS:
        options = {"backend": backend, "precision": precision}
        oracle.assert_same_bits(vc.conv2d(x * scale, w, **options), vc.conv2d(x, w, **options) * scale)


def test_conv_is_scipys_correlation(conv, data):
    signal = pytest.importorskip("scipy.signal")
    x, w = data
    expected = sum(signal.correlate(x[1, c], w[3, c], mode="valid") for c in range(6))
    oracle.assert_equal(conv(x, w)[1, 3], np.rint(expected))


def test_ranks_agree(backend, rng):
    x, w = oracle.integers(rng, (1, 3, 19), np.float32), oracle.integers(rng, (4, 3, 5), np.float32)
    line = vc.conv1d(x, w, padding=2, backend=backend)
    plane = vc.conv2d(x[:, :, None], w[:, :, None], padding=(0, 2), backend=backend)
    space = vc.conv3d(x[:, :, None, None], w[:, :, None, None], padding=(0, 0, 2), backend=backend)
    oracle.assert_equal(plane[:, :, 0], line)
    oracle.assert_equal(space[:, :, 0, 0], line)


def test_a_call_in_between_leaves_no_trace(backend, rng):
    x, w = rng.normal(size=(1, 4, 12, 12)).astype("f4"), rng.normal(size=(4, 4, 3, 3)).astype("f4")
    first = vc.conv2d(x, w, backend=backend)
    vc.conv2d(np.full((1, 9, 30, 31), np.nan, np.float32), np.full((7, 9, 5, 5), np.inf, np.float32), backend=backend)
    oracle.assert_same_bits(vc.conv2d(x, w, backend=backend), first)


class TestMaxPool:
    @pytest.fixture
    def pool(self, backend):
        return lambda x, k, **options: vc.max_pool2d(x, k, **options, backend=backend)

    @pytest.fixture
    def x(self, rng):
        return oracle.integers(rng, (2, 3, 12, 17), np.float32)

    def test_monotone_maps_commute(self, pool, x):
        oracle.assert_equal(pool(2 * x + 1, 3), 2 * pool(x, 3) + 1)

    def test_two_pools_are_one_of_their_joint_size(self, pool, x):
        oracle.assert_equal(pool(pool(x, 3, stride=1), 2, stride=1), pool(x, 4, stride=1))

    def test_maximum_of_pools_is_pool_of_maximum(self, pool, x, rng):
        other = oracle.integers(rng, x.shape, np.float32)
        options = {"stride": 2, "padding": 1}
        oracle.assert_equal(
            np.maximum(pool(x, 3, **options), pool(other, 3, **options)), pool(np.maximum(x, other), 3, **options)
        )

    def test_indices_point_at_the_values(self, x, backend):
        y, at = vc.max_pool2d(x, 3, 2, 1, return_indices=True, backend=backend)
        picked = np.take_along_axis(x.reshape(2, 3, -1), at.reshape(2, 3, -1), axis=2)
        oracle.assert_equal(picked.reshape(y.shape), y)


def test_unfold_then_multiply_is_convolution(backend, data):
    x, w = data
    columns = vc.unfold(x, 3, padding=1, backend=backend)
    product = np.einsum("kr,nrp->nkp", w.reshape(8, -1), columns)
    oracle.assert_equal(vc.conv2d(x, w, padding=1, backend="reference").reshape(2, 8, -1), product)
