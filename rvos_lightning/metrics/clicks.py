"""Where the simulated user of the SAM 2 protocols clicks: pure functions of two masks."""

import numpy as np


def first_click(truth: np.ndarray) -> tuple[int, int]:
    """(x, y) of the mask pixel nearest to the mask's centroid, the first in row-major order of equals (SAM-I2V).

    Raises:
        ValueError: the mask is empty.
    """
    rows, columns = np.nonzero(truth)
    if not len(rows):
        raise ValueError("an empty mask has no first click: prompt on the first frame that shows the object")
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return int(columns[nearest]), int(rows[nearest])


def next_click(truth: np.ndarray, predicted: np.ndarray) -> tuple[tuple[int, int], int]:
    """(x, y) and label of the corrective click: deepest point of the missed (1) or of the false (0) region.

    Depth is the exact distance to the region's edge, the picture's border included; the missed region must be
    strictly deeper. Without any error the click is negative at (0, 0): do not ask then.
    """
    import cv2

    depths = []
    for error in (truth & ~predicted, predicted & ~truth):
        padded = np.pad(error.astype(np.uint8), 1)
        depths.append(cv2.distanceTransform(padded, cv2.DIST_L2, 0)[1:-1, 1:-1])
    missed, false = depths
    label = int(missed.max() > false.max())
    y, x = np.unravel_index(np.argmax(depths[1 - label]), truth.shape)
    return (int(x), int(y)), label
