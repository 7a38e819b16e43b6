"""Images of figure1.py, as its network takes them, and the batches of each update."""

from __future__ import annotations

import argparse
import zlib

import numpy as np
import settings

from symng.datasets import FacesFold, faces, local_contrast_normalization

PARTS = ("train", "valid", "test")


class Data:
    """The images of a fold as the network takes them, and the targets."""

    def __init__(self, found: FacesFold, options: argparse.Namespace) -> None:
        self.source, self.classes = found.source, found.classes
        self.mixture = options.mixture
        sums = [zlib.crc32(a.tobytes()) for a in (found.train_images, found.test_images)]
        counts = f"{len(found.train_labels):,} images to train with, "
        counts += f"{len(found.unlabeled_images):,} unlabeled"
        self.summary = f"{counts}, checksums {sums}"
        normalize = Normalization(found.train_images, options.pool, options.contrast)
        self.images = {part: normalize(getattr(found, f"{part}_images")) for part in PARTS}
        self.labels = {part: getattr(found, f"{part}_labels") for part in PARTS}
        self.targets = np.eye(found.classes, dtype="float32")[self.labels["train"]]
        self.unlabeled = self.images["train"][:0]
        if {"unlabeled", "mixture"} & set(options.variants):
            self.unlabeled = normalize(found.unlabeled_images)

    def batches(
        self, variant: str, seed: int, step: int
    ) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray] | None]:
        """Return gradient and metric batch of a step, which follow from seed and step alone.

        So a run continues after an interruption as if there had been none. An epoch is a
        permutation of the training set, cut into batches; what the metric takes from the training
        set is not in the gradient batch, except in the fixed set.
        """
        train, size = self.images["train"], settings.METRIC_BATCH
        epoch, number = divmod(step, len(train) // settings.GRADIENT_BATCH)
        # Not [seed, 0, epoch]: zeros at the end of a seed do not count, and the dense weights are
        # drawn from seed.
        order = np.random.default_rng([seed, 3, epoch]).permutation(len(train))
        first, end = (n * settings.GRADIENT_BATCH for n in (number, number + 1))
        gradient = tuple(a[order[first:end]] for a in (train, self.targets))
        if variant == "same":
            return gradient, None
        if variant == "fixed":
            return gradient, (train[:size],)
        rng = np.random.default_rng([seed, 1, step])
        from_train = {"other": size, "unlabeled": 0, "mixture": self.mixture}[variant]
        rest = np.concatenate([order[:first], order[end:]])
        others = train[rng.choice(rest, from_train, replace=False)]
        unlabeled = self.unlabeled[
            rng.choice(len(self.unlabeled), size - from_train, replace=False)
        ]
        return gradient, (np.concatenate([others, unlabeled]),)


class Normalization:
    """Average images over full squares of ``pool`` pixels, and normalize their contrast.

    The authors' program first gives each image mean 0 and standard deviation 1, then all of them
    the range [0, 1] of the training images.
    """

    def __init__(self, train: np.ndarray, pool: int, contrast: str) -> None:
        self.pool, self.is_authors = pool, contrast == "authors"
        if self.is_authors:
            images = standardize(average(train, pool))
            self.lowest, self.highest = images.min(), images.max()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        images = average(images, self.pool)
        if not self.is_authors:
            return local_contrast_normalization(images)
        images = (standardize(images) - self.lowest) / (self.highest - self.lowest)
        return local_contrast_normalization(
            images, sigma=1.591, border="zero", offset=2.5, scale=5.0
        )


def average(images: np.ndarray, pool: int) -> np.ndarray:
    """Return images averaged over full squares of ``pool`` pixels, with gray values from 0 to 1."""
    count, height, width = images.shape
    if pool > 1:
        cut = images[:, : height // pool * pool, : width // pool * pool]
        squares = cut.reshape(count, height // pool, pool, width // pool, pool)
        images = squares.mean(axis=(2, 4), dtype="float32")
    return images.astype("float32") / 255


def standardize(images: np.ndarray) -> np.ndarray:
    """Return images with mean 0 and standard deviation 1 each; those of one gray value are 0."""
    centered = images - images.mean(axis=(1, 2), keepdims=True)
    deviation = centered.std(axis=(1, 2), keepdims=True)
    return centered / np.where(deviation > 0, deviation, 1)


def read_data(options: argparse.Namespace) -> Data:
    """Return the data, or refuse too little for the batches or images too small for the filters."""
    found = faces(
        options.data, fold=options.fold, labeled=options.labeled, download=options.download
    )
    size = settings.METRIC_BATCH
    if options.mixture >= size:
        raise ValueError(f"--mixture: expected at most {size - 1}, got {options.mixture}.")
    train, unlabeled = len(found.train_labels), len(found.unlabeled_images)
    needed = settings.GRADIENT_BATCH + size
    if train < needed or unlabeled < size:
        expected = f"at least {needed} examples to train with and {size} unlabeled"
        raise ValueError(f"--labeled: expected {expected}, got {train} and {unlabeled}.")
    check_sizes(options, min(found.train_images.shape[1:]))
    return Data(found, options)


def check_sizes(options: argparse.Namespace, pixels: int) -> None:
    """Refuse squares, filters and windows that are larger than what they slide over."""
    side = pixels // options.pool
    if not side:
        raise ValueError(
            f"--pool: expected at most the {pixels} pixels of an image, got {options.pool}."
        )
    if options.filter_size > side:
        raise ValueError(
            f"--filter-size: expected at most the {side} pixels of an image, got "
            f"{options.filter_size}."
        )
    positions = (side - options.filter_size) // options.stride + 1
    if options.max_pool > positions:
        raise ValueError(
            f"--max-pool: expected at most the {positions} positions of a filter, got "
            f"{options.max_pool}."
        )
