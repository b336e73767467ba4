"""Medical images in, patches and figures out.  Needs the extra ``voxconv[imaging]``."""

from voxconv.imaging.dicom import example_ct, example_slice, example_volume, read
from voxconv.imaging.patches import cut_patches, dense_response, window_mean
from voxconv.imaging.scan import Scan, resample

__all__ = [
    "Scan",
    "cut_patches",
    "dense_response",
    "example_ct",
    "example_slice",
    "example_volume",
    "read",
    "resample",
    "window_mean",
]
