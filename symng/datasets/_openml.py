"""Images of 28 x 28 pixels that scikit-learn fetches from OpenML."""

from __future__ import annotations

import numpy as np


def fetch_images(data_set: str, name: str, hint: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the images (N, 28, 28) of type uint8 and the labels (N,) of a data set of OpenML.

    Messages call it ``name``; ``hint`` says how to get it otherwise.
    """
    try:
        from sklearn.datasets import fetch_openml
    except ImportError as error:
        raise ImportError(
            "download: expected scikit-learn to be installed, got none. Run: pip install "
            '"symng[examples]"'
        ) from error
    try:
        fetched = fetch_openml(data_set, version=1, as_frame=False, parser="liac-arff")
    except OSError as error:
        raise OSError(f"download: expected {name} from OpenML, got {error}. {hint}") from error
    images = np.asarray(fetched.data).astype("uint8").reshape(-1, 28, 28)
    return images, np.asarray(fetched.target).astype("int64")
