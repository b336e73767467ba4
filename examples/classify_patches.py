"""Does this patch of an MR slice contain a lesion?  The synthetic lesions are bright discs, computed below.

A convolution, a pool, a convolution, a pool and a linear layer learn it from one real slice; the answers
that count come from a part of the slice that was not trained on.  Needs: pip install 'voxconv[imaging]'
"""

import numpy as np

from voxconv import nn
from voxconv.imaging import cut_patches, example_slice, window_mean

SIDE = 32
SPLIT = 340  # columns left of it train, columns right of it test
rng = np.random.default_rng(0)

# The slice in units of its own grey values; the region that somebody outlined in the file stays out.
source = example_slice()
image = (source.pixels / source.pixels[:, :SPLIT].std()).astype(np.float32)
body = window_mean((source.pixels > 50).astype(np.float32), SIDE) > 0.9
marked = window_mean(source.marked.astype(np.float32), SIDE + 12) > 0
rows, columns = np.indices(image.shape)
inside = (rows >= SIDE // 2) & (rows < image.shape[0] - SIDE // 2) & (columns >= SIDE // 2)
usable = body & ~marked & inside & (columns < image.shape[1] - SIDE // 2)


def draw(where, count):
    """Patches around random centres; every second one gets a synthetic lesion."""
    patches = cut_patches(image, rng.choice(np.argwhere(where), count), SIDE)
    labels = np.arange(count) % 2
    y, x = np.indices((SIDE, SIDE))
    for patch in patches[:, 0][1::2]:  # a view: the lesion is added in place
        row, column = rng.uniform(12, 20, 2)
        radius = rng.uniform(3.5, 6)
        patch += rng.uniform(1.6, 2.4) / (1 + np.exp(np.hypot(y - row, x - column) - radius)).astype(np.float32)
    return patches, labels


model = nn.Sequential(
    nn.Conv2d(1, 8, 5, rng=rng),
    nn.ReLU(),
    nn.MaxPool2d(2),  # 28 x 28 -> 14 x 14
    nn.Conv2d(8, 16, 3, rng=rng),
    nn.ReLU(),
    nn.MaxPool2d(2),  # 12 x 12 -> 6 x 6
    nn.Flatten(),
    nn.Linear(16 * 6 * 6, 2, rng=rng),
)
optimizer = nn.Adam(model.parameters(), lr=2e-3, weight_decay=1e-3)

EPOCHS = 12
patches, labels = draw(usable & (columns + SIDE // 2 <= SPLIT), 1536)
for epoch in range(EPOCHS):
    losses = []
    for batch in np.split(rng.permutation(len(labels)), 48):
        loss, gradient = nn.cross_entropy(model(patches[batch]), labels[batch])
        optimizer.zero_grad()
        model.backward(gradient, input_grad=False)
        optimizer.step()
        losses.append(loss)
    print(f"epoch {epoch + 1:2d}: loss {np.mean(losses):.3f}")

patches, labels = draw(usable & (columns - SIDE // 2 >= SPLIT), 400)
answers = model.eval()(patches).argmax(axis=1)
print(f"right on {np.mean(answers == labels):.1%} of {len(labels)} held-out patches (synthetic lesions)")
