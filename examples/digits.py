"""Handwritten digits, read by a small network: 98% of scikit-learn's test digits in a few seconds.

The digits are real, 1797 of them, 8 x 8 pixels each, with their true labels.  Every fourth one is kept for the test,
and every twelfth says after which epoch the network is best; neither is trained on.
Needs: pip install 'voxconv[imaging]'
"""

import time

import numpy as np
from sklearn.datasets import load_digits

from voxconv import nn

start = time.perf_counter()
digits = load_digits()
images = (digits.images[:, None] / 16).astype(np.float32)  # (1797, 1, 8, 8), from 0 to 1
labels = digits.target
test = np.arange(len(labels)) % 4 == 0
validation = np.arange(len(labels)) % 12 == 1

# Two convolutions see strokes, a pool halves the image, a third convolution sees what strokes make up.
rng = np.random.default_rng(0)
model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1, rng=rng),
    nn.BatchNorm2d(16),
    nn.ReLU(),
    nn.Conv2d(16, 32, 3, padding=1, rng=rng),
    nn.BatchNorm2d(32),
    nn.ReLU(),
    nn.MaxPool2d(2),  # 8 x 8 -> 4 x 4
    nn.Conv2d(32, 64, 3, padding=1, rng=rng),
    nn.BatchNorm2d(64),
    nn.ReLU(),
    nn.MaxPool2d(2),  # 4 x 4 -> 2 x 2
    nn.Flatten(),
    nn.Dropout(0.3, rng=rng),
    nn.Linear(64 * 2 * 2, 10, rng=rng),
)
optimizer = nn.AdamW(model.parameters(), lr=3e-3)
EPOCHS = 25


def batches(rng):
    """One epoch: each training digit once, batches moved by up to one pixel, so that no place is learned by heart."""
    order = rng.permutation(np.flatnonzero(~test & ~validation))
    for start in range(0, len(order), 64):
        chosen = order[start : start + 64]
        shift = rng.integers(-1, 2, 2)
        yield np.roll(images[chosen], shift, axis=(2, 3)), labels[chosen]


history = nn.fit(
    model, optimizer, nn.cross_entropy, batches, EPOCHS,
    validation=(images[validation], labels[validation]), schedule=nn.CosineAnnealingLR(optimizer, EPOCHS),
)  # fmt: skip
answers = model(images[test]).argmax(axis=1)
print(f"loss {history.losses[0]:.2f} at first, {history.losses[-1]:.3f} at last; best after epoch {history.best_epoch}")
print(f"right on {np.mean(answers == labels[test]):.1%} of {test.sum()} test digits")
print(f"in {time.perf_counter() - start:.1f} s")
