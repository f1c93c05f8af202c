"""Renders crowds with everything known about them."""

import cv2
import numpy as np
import torch

from mmtoken.hmr.body import SkinnedBody
from mmtoken.hmr.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from mmtoken.hmr.render.raster import FAR, rasterize
from mmtoken.hmr.render.shading import light_on, vertex_normals

from .backdrop import cast_shadows, photo, scenery
from .clothes import Wardrobe
from .poses import sample_poses
from .view import APART, View, place

#: A joint is hidden if something is so far before it, metres: more than a body is thick.
HIDDEN = 0.3
#: People with fewer joints of 24 in sight are not labelled.
FEWEST = 4
BOX = np.array([[x, y, z] for x in (-1, 1) for y in (0, 2) for z in (-1, 1)]) / 2
SIDES = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]


class CrowdRenderer:
    """Draws one picture after another; equal random numbers give equal pictures.

    Args:
        body (SkinnedBody): Everybody's body.
        size (tuple[int, int]): Height and width of a picture, pixels.
        people (tuple[int, int]): Least and most people who look for a place.
        scales (tuple[float, float]): Range of their scales: diagonal of the box over the longest side of the picture.
        things (tuple[int, int]): Least and most boxes that stand about.
        fov (tuple[float, float]): Range of the field of view over the longest side, degrees.
        photos (list[str]): Backgrounds; none draws them.
    """

    def __init__(
        self,
        body: SkinnedBody,
        size: tuple[int, int],
        people: tuple[int, int],
        scales: tuple[float, float],
        things: tuple[int, int],
        fov: tuple[float, float],
        photos: list[str],
    ):
        self.body, self.size, self.people, self.scales = body, size, people, scales
        self.things, self.fov, self.photos = things, fov, photos
        self.wardrobe = Wardrobe(body)
        owner = body.weights.argmax(1).numpy()
        self.parts = [np.flatnonzero(owner == joint) for joint in range(24)]
        self.parts = [part for part in self.parts if len(part)]
        self.grain = np.random.default_rng(0).standard_normal((size[0] + 64, size[1] + 64, 3)).astype(np.float32)

    def render(self, random: np.random.Generator) -> dict:
        """Draws a picture.

        Returns:
            dict: ``img (H, W, 3)``, uint8, BGR; ``depth (H, W)``, float32, metres; ``cam_intrinsics (3, 3)``; of the
            M people in sight ``pose (M, 24, 3)``, ``betas (M, num_betas)``, ``transl (M, 3)``, ``keypoints_3d (M, 45,
            3)`` in metres, ``keypoints (M, 45, 2)`` in pixels and ``visible (M, 45)``, bool: in the picture and not
            behind others.
        """
        view = View.sample(random, self.size, self.fov)
        pose, betas, transl = self.pose_people(random, view)
        with torch.no_grad():
            out = self.body(*map(torch.from_numpy, (pose, betas, transl)))
            normals = vertex_normals(out.vertices, self.body.faces).numpy()
        vertices, joints = out.vertices.numpy(), out.joints.numpy()

        light, ambient = self.sample_light(random, view)
        up = view.axes[1]
        brightness = light_on(normals, light, up, ambient)
        boxes = self.place_things(random, view, transl)
        farthest = max([2.0, *transl[:, 2].tolist(), *(corners[:, 2].max() for corners, _ in boxes)])
        image = photo(random, self.photos, self.size) if self.photos else scenery(random, view, farthest)
        cast_shadows(image, view, light, vertices, self.parts, 1.1 * (1 - ambient) if ambient < 0.6 else 0.25)
        depth = np.full(self.size, FAR, np.float32)
        self.draw(random, view, image, depth, vertices, brightness, boxes, light, ambient)

        keypoints = view.project(joints).astype(np.float32)
        visible = in_sight(keypoints, joints, depth)
        seen = visible[:, :24].sum(1) >= FEWEST
        labels = dict(pose=pose, betas=betas, transl=transl, keypoints_3d=joints, keypoints=keypoints, visible=visible)
        labels = {name: value[seen] for name, value in labels.items()}
        return dict(
            labels, img=self.develop(random, image), depth=depth, cam_intrinsics=view.intrinsics.astype(np.float32)
        )

    def pose_people(self, random: np.random.Generator, view: View) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draws people who stand on the ground: pose, betas and translation, float32."""
        number = int(random.integers(self.people[0], self.people[1] + 1))
        pose = sample_poses(random, number)
        betas = random.normal(size=(number, self.body.num_betas)).clip(-2, 2).astype(np.float32)
        right, up, back = view.axes
        heading = random.uniform(-np.pi, np.pi, number)  # none looks at the camera
        facing = np.cos(heading)[:, None] * back + np.sin(heading)[:, None] * right
        upright = np.stack([np.cross(up, facing), np.broadcast_to(up, facing.shape), facing], axis=-1)
        turned = torch.from_numpy(upright).float() @ axis_angle_to_matrix(torch.from_numpy(pose[:, 0]))
        pose[:, 0] = matrix_to_axis_angle(turned).numpy()
        with torch.no_grad():
            vertices = self.body(torch.from_numpy(pose), torch.from_numpy(betas)).vertices
        lowest = (vertices.numpy() @ up).min(1) if number else np.zeros(0)
        found, transl = place(random, view, lowest, self.scales)
        return pose[found], betas[found], transl.astype(np.float32)

    def sample_light(self, random: np.random.Generator, view: View) -> tuple[np.ndarray, float]:
        """Draws the direction to the light ``(3,)``, and how bright it is where it does not shine."""
        rise, around = np.radians(random.uniform(30, 75)), random.uniform(-np.pi, np.pi)
        level = np.cos(rise) * np.array([np.cos(around), np.sin(around)])
        right, up, back = view.axes
        return level[0] * right + level[1] * back + np.sin(rise) * up, random.uniform(0.35, 0.75)

    def place_things(self, random: np.random.Generator, view: View, transl: np.ndarray) -> list[tuple]:
        """Draws boxes on the ground: corners ``(8, 3)`` and a colour; none where somebody stands."""
        right, up, back = view.axes
        boxes = []
        for _ in range(random.integers(self.things[0], self.things[1] + 1)):
            wide, tall, deep = random.uniform(0.2, 1.2), random.uniform(0.2, 1.6), random.uniform(0.2, 1.2)
            z, u = random.uniform(2.5, 25), random.uniform(0, self.size[1])
            spot = view.on_ground((u - view.intrinsics[0, 2]) / view.intrinsics[0, 0] * z, z, 0)
            turn = random.uniform(0, np.pi)
            x_axis = np.cos(turn) * right + np.sin(turn) * back
            axes = np.stack([wide * x_axis, tall * up, deep * np.cross(x_axis, up)])
            away = (spot + tall / 2 * up - transl) @ np.stack([right, back], axis=1)
            if not len(transl) or np.linalg.norm(away, axis=1).min() > APART + max(wide, deep):
                boxes.append((spot + BOX @ axes, random.uniform(0.1, 0.9, 3)))
        return boxes

    def draw(self, random, view, image, depth, vertices, brightness, boxes, light, ambient) -> None:
        """Draws people and things into the picture."""
        cloth, up = self.wardrobe, view.axes[1]
        points = [cloth.fit(vertices).reshape(-1, 3)]
        colors = [cloth.colors(random) * bright[:, None] for bright in cloth.fit(brightness)]
        faces = [cloth.faces + i * len(cloth.source) for i in range(len(vertices))]
        count = len(points[0])
        for corners, color in boxes:
            for side in SIDES:
                a, b, c, d = corners[list(side)]
                normal = np.cross(b - a, d - a)
                normal = normal / np.linalg.norm(normal)
                normal = -normal if normal @ (a - corners.mean(0)) < 0 else normal
                points.append(np.array([a, b, c, d]))
                colors.append(np.tile(color * light_on(normal, light, up, ambient), (4, 1)))
                faces.append(np.array([[0, 1, 2], [0, 2, 3]]) + count)
                count += 4
        if faces:
            rgb = np.concatenate(colors).astype(np.float32)
            bgr = np.ascontiguousarray(rgb[:, ::-1]).clip(0, 1)
            rasterize(
                np.concatenate(points).astype(np.float32), np.concatenate(faces), bgr, view.intrinsics, image, depth
            )

    def develop(self, random: np.random.Generator, image: np.ndarray) -> np.ndarray:
        """Turns light into a picture, uint8: softness of the lens, colour of the light, noise of the sensor."""
        image = cv2.GaussianBlur(image, (0, 0), random.uniform(0.4, 0.8))
        y, x = random.integers(64, size=2)
        grain = self.grain[y : y + self.size[0], x : x + self.size[1]]
        tint = random.uniform(0.75, 1.15) * random.normal(1, 0.04, 3).astype(np.float32)
        image *= (255 * tint).astype(np.float32)
        return cv2.addWeighted(image, 1, grain, random.uniform(0.5, 6), 0, dtype=cv2.CV_8U)


def in_sight(keypoints: np.ndarray, joints: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Returns which joints are in the picture and not behind something else ``(…,)``, bool.

    Args:
        keypoints (np.ndarray): ``(…, 2)``, pixels.
        joints (np.ndarray): ``(…, 3)``, metres.
        depth (np.ndarray): ``(H, W)``, metres.
    """
    height, width = depth.shape
    column, row = np.floor(keypoints).astype(int).clip(-1, [width, height])[..., 0], None
    row = np.floor(keypoints[..., 1]).clip(-1, height).astype(int)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (joints[..., 2] > 0)
    before = depth[row.clip(0, height - 1), column.clip(0, width - 1)]
    return inside & (before > joints[..., 2] - HIDDEN)
