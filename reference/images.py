"""Smooth random images in [-1, 1]: the reference runs use these instead of white noise."""
import numpy as np


def smooth_images(random, count, size):
    """(N,3,S,S) float32: tanh of a colour plus six slow waves, which channels share up to amplitude and phase."""
    row, column = np.meshgrid(np.arange(size) / size, np.arange(size) / size, indexing="ij")
    images = random.normal(0, 0.4, (count, 3, 1, 1)) * np.ones((size, size))
    for _ in range(6):
        frequency = random.uniform(-2.5, 2.5, (2, count, 1, 1, 1))
        phase = random.uniform(0, 2 * np.pi, (count, 1, 1, 1)) + random.normal(0, 0.5, (count, 3, 1, 1))
        amplitude = random.normal(0, 0.4, (count, 3, 1, 1))
        images += amplitude * np.sin(2 * np.pi * (frequency[0] * row + frequency[1] * column) + phase)
    return np.tanh(images).astype(np.float32)
