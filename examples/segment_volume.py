"""Which voxels are lesion?  A 3-D U-Net learns it on one half of a head and marks the other, patch by patch.

The volume is a real MR scan from nibabel's test data.  The lesions are synthetic: bright balls, computed below.
Needs: pip install 'voxconv[imaging]'
"""

import numpy as np

from voxconv import nn
from voxconv.imaging import example_volume, peak_response

volume = example_volume()
print(f"{volume.title}: {volume.pixels.shape} voxels of {' x '.join(f'{mm:.1f}' for mm in volume.spacing)} mm")
tissue = volume.pixels > 150
image = ((volume.pixels - volume.pixels[tissue].mean()) / volume.pixels[tissue].std()).astype(np.float32)
right, left = slice(0, 64), slice(64, 128)  # columns run from the patient's right to left


def with_lesions(part, count, rng):
    """The half of the head with synthetic lesions, and where they are."""
    seen, mask = image[..., part].copy(), np.zeros(image[..., part].shape, np.float32)
    places = np.argwhere(tissue[..., part])
    grid = np.stack(np.indices(seen.shape), axis=-1)
    for centre in rng.choice(places, count):
        ball = np.linalg.norm(grid - centre, axis=-1) < rng.uniform(2.5, 4)
        seen[ball] += 4
        mask[ball] = 1
    return seen + rng.normal(0, 0.1, seen.shape).astype(np.float32), mask


def batches(rng):
    """One epoch: crops of 16 x 32 x 32 voxels from the front of the right half, four at a time, mirrored at random."""
    for _ in range(24):
        seen, mask = with_lesions(right, 24, rng)
        corners = [(rng.integers(0, 9), rng.integers(0, 41), rng.integers(0, 33)) for _ in range(4)]
        boxes = [(slice(z, z + 16), slice(y, y + 32), slice(x, x + 32)) for z, y, x in corners]
        flip = (slice(None), slice(None, None, rng.choice([-1, 1])), slice(None, None, rng.choice([-1, 1])))
        yield (
            np.stack([seen[box][flip] for box in boxes])[:, None],
            np.stack([mask[box][flip] for box in boxes])[:, None],
        )


def loss(logits, mask):
    """Each voxel counts alike in the first part, each lesion in the second."""
    entropy, first = nn.binary_cross_entropy_with_logits(logits, mask)
    overlap, second = nn.dice_loss(logits.reshape(1, 1, -1), mask.reshape(1, 1, -1))
    return entropy + overlap, first + second.reshape(logits.shape)


# Rows run from front to back.  The last 24 are in no crop; on them the network is judged after each epoch.
checked, answer = (array[None, None, :, 72:] for array in with_lesions(right, 40, np.random.default_rng(2)))

EPOCHS = 18
model = nn.UNet3d(1, 1, widths=(8, 16), norm_layer="batch", rng=0)
optimizer = nn.AdamW(model.parameters(), lr=4e-3)
schedule = nn.CosineAnnealingLR(optimizer, EPOCHS)
history = nn.fit(model, optimizer, loss, batches, EPOCHS, validation=(checked, answer), schedule=schedule)
print(f"kept as it was after epoch {history.best_epoch}")

# The other half of the head.  Whole and patch by patch are the same bits: patches overlap by the network's reach.
seen, mask = with_lesions(left, 6, np.random.default_rng(1))
whole = nn.predict(model, seen[None, None])
tiled = nn.predict(model, seen[None, None], patch=(24, 48, 40))
assert np.array_equal(whole, tiled)

found = whole[0, 0] > 0
dice = 2 * (found & (mask > 0)).sum() / (found.sum() + mask.sum())
print(f"Dice on the left half, which was never trained on: {dice:.2f}")
# Where on the whole volume is the answer strongest, and where in the patient is that?
response = np.full(volume.pixels.shape, np.nan, np.float32)
response[..., left] = whole[0, 0]
print(f"strongest answer at {peak_response(response, volume)}")
