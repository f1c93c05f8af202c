"""The camera over the ground, and where people stand before it."""

from dataclasses import dataclass

import numpy as np

from mmtoken.hmr.geometry import fov_intrinsics

#: Diagonal of the box around somebody standing, metres: what makes a scale out of a depth.
DIAGONAL = 1.8
#: Least distance between people, and between people and things, metres.
APART = 0.55


@dataclass
class View:
    """A level camera above a flat ground.

    Args:
        size (tuple[int, int]): Height and width of the picture, pixels.
        intrinsics (np.ndarray): ``(3, 3)``.
        pitch (float): How far the camera looks down, radians.
        height (float): Of the camera above the ground, metres.
    """

    size: tuple[int, int]
    intrinsics: np.ndarray
    pitch: float
    height: float

    @classmethod
    def sample(cls, random: np.random.Generator, size: tuple[int, int], fov: tuple[float, float]) -> 'View':
        """Draws a camera; its horizon lies in the upper two thirds of the picture."""
        intrinsics = fov_intrinsics(size, random.uniform(*fov)).numpy().astype(np.float64)
        horizon = size[0] * random.uniform(0.08, 0.6)
        pitch = np.arctan((intrinsics[1, 2] - horizon) / intrinsics[1, 1])
        return cls(size, intrinsics, float(pitch), random.uniform(0.9, 2.8))

    @property
    def axes(self) -> np.ndarray:
        """Right, up and towards the camera, along the ground; rows ``(3, 3)`` in the camera's frame."""
        sine, cosine = np.sin(self.pitch), np.cos(self.pitch)
        return np.array([[1, 0, 0], [0, -cosine, -sine], [0, sine, -cosine]])

    def on_ground(self, x: float, z: float, lowest: float) -> np.ndarray:
        """Returns the translation ``(3,)`` at x and z that puts what reaches ``lowest`` up onto the ground."""
        up = self.axes[1]
        return np.array([x, (-self.height - lowest - up[2] * z) / up[1], z])

    def row_of(self, distance: float) -> float:
        """Returns the row of the picture where the ground is so far away, pixels; the horizon for infinity."""
        horizon = self.intrinsics[1, 2] - self.intrinsics[1, 1] * np.tan(self.pitch)
        return horizon + self.intrinsics[1, 1] * self.height / np.cos(self.pitch) / distance

    def project(self, points: np.ndarray) -> np.ndarray:
        """Projects points ``(…, 3)`` to pixels ``(…, 2)``; those behind the camera as if they were before it."""
        image = points @ self.intrinsics.T
        return image[..., :2] / np.maximum(image[..., 2:], 1e-3)


def place(
    random: np.random.Generator, view: View, lowest: np.ndarray, scales: tuple[float, float], tries: int = 12
) -> tuple[np.ndarray, np.ndarray]:
    """Puts people onto the ground, apart from each other, some of them in groups.

    Args:
        random (np.random.Generator): Where numbers come from.
        view (View): The camera.
        lowest (np.ndarray): ``(N,)``: how far down each one reaches, along the view's up, with no translation.
        scales (tuple[float, float]): Range of the box's diagonal over the longest side of the picture; its logarithm is
            uniform.
        tries (int): How often a place is sought for each.

    Returns:
        tuple[np.ndarray, np.ndarray]: Who found a place ``(M,)``, and the translations ``(M, 3)``.
    """
    (height, width), k = view.size, view.intrinsics
    found: list[int] = []
    spots: list[np.ndarray] = []
    for i, low in enumerate(lowest):
        for _ in range(tries):
            if spots and random.random() < 0.35:  # beside another
                near = spots[random.integers(len(spots))]
                z = near[2] + random.normal(0, 0.8)
                u = view.project(near)[0] + k[0, 0] / max(near[2], 0.5) * random.normal(0, 0.9)
            else:
                scale = np.exp(random.uniform(*np.log(scales)))
                z = k[1, 1] * DIAGONAL / (scale * max(height, width))
                u = random.uniform(0.02, 0.98) * width
            spot = view.on_ground((u - k[0, 2]) / k[0, 0] * z, z, low)
            x, y = view.project(spot)
            clear = all(np.linalg.norm(spot - other) > APART for other in spots)
            if z > 1.0 and 0 < x < width and -0.1 * height < y < 1.05 * height and clear:
                found.append(i)
                spots.append(spot)
                break
    return np.array(found, int), np.array(spots, float).reshape(-1, 3)
