"""Where are the lesions?  One network over a whole slice, its heat map, and the boxes around what it found.

The slice is a real MR from pydicom's test data; the lesions are synthetic rings with a dark core.  The region that
somebody outlined in the file is kept out of training.  Needs: pip install 'voxconv[imaging]'
"""

import numpy as np

from voxconv.demo import detect, maps
from voxconv.demo.lesions import matched_filter, planar

# The left half of the patient tests.  Of the right half, the upper part trains and the lower part says after which
# epoch to stop.  How hard the lesions are is set in voxconv.demo.lesions.
anatomy = planar("detect", None)
print(f"{anatomy.scan.title}; lesions of {anatomy.difficulty.radius} pixels, contrast {anatomy.difficulty.contrast}")

# A U-Net learns from crops which pixels belong to a lesion ...
EPOCHS = 8
model, epoch = maps.learn(anatomy, seed=0, settings=detect.Settings(epochs=(EPOCHS, 0)), label="detect", show=None)
print(f"the network of epoch {epoch} of {EPOCHS} did best on the part that it was not trained on")

# ... and is asked about the test half as a whole, since convolutions do not care how large an image is.
scene = anatomy.scene("test", lesions=5, rng=np.random.default_rng(0))
heat = maps.probability(model, scene.image)
for top, left, bottom, right in detect.boxes(heat, 0.5):
    middle = np.array([(top + bottom - 1) / 2, (left + right - 1) / 2])
    off = np.linalg.norm((scene.centres - middle) * anatomy.scan.spacing, axis=1).min()
    print(f"rows {top}-{bottom}, columns {left}-{right}: {off:.1f} mm from the nearest synthetic lesion")

# A matched filter knows the lesions' mean shape, but not what else looks like it.
body = anatomy.body[..., anatomy.split :]
places, scores = maps.peaks(matched_filter(scene.image, anatomy.difficulty), body, anatomy.difficulty.radius[1])
for place, score in sorted(zip(places, scores, strict=True), key=lambda pair: -pair[1])[:8]:
    off = np.linalg.norm((scene.centres - place) * anatomy.scan.spacing, axis=1).min()
    print(f"matched filter {score:.2f} at {place}: {'a lesion' if off < 5 else 'no lesion'}")
