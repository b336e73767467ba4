"""A clean CT slice from a noisy one: a network learns what the noise looks like, and takes it away.

The slice is a real CT from pydicom's test data.  The noise is synthetic: photons counted in simulated projections,
reconstructed by filtered back-projection.  Needs: pip install 'voxconv[imaging]'
"""

from itertools import pairwise

import numpy as np
from skimage.metrics import peak_signal_noise_ratio
from skimage.restoration import denoise_tv_chambolle

from voxconv import nn
from voxconv.demo.reconstruct import low_dose
from voxconv.imaging import example_ct

scan = example_ct()
rng = np.random.default_rng(0)
clean = ((scan.pixels - scan.pixels.mean()) / scan.pixels.std()).astype(np.float32)
noisy = clean + low_dose(scan, 13, rng) / scan.pixels.std()
left, right = np.s_[..., :64], np.s_[..., 64:]  # train on the left half, test on the right

# Five convolutions of 3 x 3 see 11 x 11 pixels around each one: enough to tell a speckle from an edge.
widths = (1, 24, 24, 24, 24, 1)
layers = []
for before, after in pairwise(widths):
    layers += [nn.Conv2d(before, after, 3, padding=1, rng=rng), nn.ReLU()]
model = nn.Sequential(*layers[:-1])


def batches(rng):
    """One epoch: 20 batches of 8 crops of 48 x 48 pixels from the upper 96 rows; the target is the noise alone."""
    for _ in range(20):
        copies = noisy[rng.integers(0, 10, 8)][left]
        top, side = rng.integers(0, 49), rng.integers(0, 17)
        crop = np.s_[..., top : top + 48, side : side + 48]
        yield copies[crop][:, None], (copies - clean[left])[crop][:, None]


# The rows below, with two copies of the noise that are not trained on, say after which epoch the network is best.
lower = np.s_[10:12, None, 96:, :64]
checked, answer = noisy[lower], (noisy - clean)[lower]

EPOCHS = 25
optimizer = nn.AdamW(model.parameters(), lr=2e-3)
schedule = nn.CosineAnnealingLR(optimizer, EPOCHS)
history = nn.fit(model, optimizer, nn.mse_loss, batches, EPOCHS, validation=(checked, answer), schedule=schedule)
print(f"kept as it was after epoch {history.best_epoch}")

truth, asked = clean[right], noisy[12][right]  # a copy of the noise that training has not seen, on the other half
low, high = np.percentile(clean, [0.5, 99.5])
for name, image in {
    "noisy": asked,
    "total variation": denoise_tv_chambolle(asked, 0.15),
    "network": asked - nn.predict(model, asked[None, None])[0, 0],
}.items():
    print(f"{name:16} {peak_signal_noise_ratio(truth, image, data_range=high - low):.1f} dB")
