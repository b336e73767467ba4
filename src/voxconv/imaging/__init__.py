"""Medical images in, patches and figures out (`voxconv.imaging.figures`).  Needs the extra ``voxconv[imaging]``."""

from voxconv.imaging import figures
from voxconv.imaging.dicom import example_anatomy, example_ct, example_slice, example_volume, read
from voxconv.imaging.kernels import blob_kernel, square_kernel
from voxconv.imaging.patches import cut_patches, dense_response, window_mean
from voxconv.imaging.scan import Peak, Scan, peak_response, resample

__all__ = [
    "Peak",
    "Scan",
    "blob_kernel",
    "cut_patches",
    "dense_response",
    "example_anatomy",
    "example_ct",
    "example_slice",
    "example_volume",
    "figures",
    "peak_response",
    "read",
    "resample",
    "square_kernel",
    "window_mean",
]
