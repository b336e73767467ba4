"""Medical images in, patches and figures out.  Needs the extra ``voxconv[imaging]``."""

from voxconv.imaging.dicom import Slice, example_slice
from voxconv.imaging.patches import cut_patches, dense_response, window_mean

__all__ = ["Slice", "cut_patches", "dense_response", "example_slice", "window_mean"]
