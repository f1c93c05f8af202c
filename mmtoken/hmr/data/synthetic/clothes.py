"""What people wear: colours of the parts of a body."""

import numpy as np

from mmtoken.hmr.body import JOINT_NAMES, SkinnedBody

from .cutting import CutMesh

#: Parts of the skin; what of them clothes cover is drawn for each person.
PARTS = ('skin', 'hair', 'trunk', 'sleeve', 'arm', 'thigh', 'shin', 'foot')
SKIN = np.array([[0.36, 0.24, 0.17], [0.55, 0.38, 0.27], [0.72, 0.53, 0.4], [0.87, 0.69, 0.56], [0.95, 0.78, 0.68]])
HAIR = np.array([[0.07, 0.06, 0.05], [0.2, 0.13, 0.08], [0.4, 0.27, 0.15], [0.72, 0.58, 0.35], [0.6, 0.6, 0.6]])


class Wardrobe:
    """Cuts a body along its clothes and draws colours.

    Args:
        body (SkinnedBody): Whose mesh it is; at rest it stands in a T.

    Attributes:
        source (np.ndarray): ``(V', 3)``: three vertices of the body for each vertex of the clothes.
        weights (np.ndarray): ``(V', 3)``: the mean of them that it is.
        faces (np.ndarray): ``(F', 3)``.
        part (np.ndarray): ``(V',)``, number in ``PARTS``.
    """

    def __init__(self, body: SkinnedBody):
        place = dict(zip(JOINT_NAMES, body.rest_joints.cpu().numpy()))
        mesh = CutMesh(body.template.cpu().numpy(), body.faces.cpu().numpy())
        wrist, elbow, shoulder = (place[f'left_{name}'][0] for name in ('wrist', 'elbow', 'shoulder'))
        sleeves = shoulder + 0.03, shoulder + 0.6 * (elbow - shoulder), wrist - 0.02
        heights = place['left_ankle'][1] + 0.03, place['left_knee'][1] + 0.07, place['left_hip'][1] + 0.07
        collar, head = place['neck'][1], place['head']
        top = mesh.points[:, 1].max()

        def above_hairline(points: np.ndarray) -> np.ndarray:
            """How far above a line that rises from the neck behind to the forehead, metres."""
            rise = (0.35 + 4.5 * (points[:, 2] - head[2])).clip(0, 0.75)
            return points[:, 1] - head[1] - (top - head[1]) * rise

        for height in heights:
            mesh.cut(mesh.points[:, 1] - height, abs(mesh.points[:, 0]) < shoulder)
        mesh.cut(mesh.points[:, 1] - collar)
        mesh.cut(above_hairline(mesh.points), mesh.points[:, 1] > collar + 0.03)
        for reach in sleeves:
            mesh.cut(abs(mesh.points[:, 0]) - reach, mesh.points[:, 1] > heights[-1])
        centre = mesh.points[mesh.faces].mean(1)
        aside = abs(centre[:, 0])
        part = np.select(
            [
                centre[:, 1] > collar,
                (centre[:, 1] > heights[2]) & (aside > sleeves[0]),
                centre[:, 1] > heights[2],
                centre[:, 1] > heights[1],
                centre[:, 1] > heights[0],
            ],
            [
                np.where((above_hairline(centre) > 0) & (centre[:, 1] > collar + 0.03), 1, 0),
                np.select([aside > sleeves[2], aside > sleeves[1]], [0, 4], 3),
                2,
                5,
                6,
            ],
            7,
        )
        self.source, self.weights, self.part, self.faces = mesh.split(part)
        height = self.fit(body.template.cpu().numpy()[None])[0, :, 1]
        self.height = (height - height.min()) / np.ptp(height)

    def fit(self, values: np.ndarray) -> np.ndarray:
        """Takes values of the body's vertices ``(N, V, …)`` to those of the clothes ``(N, V', …)``."""
        weights = self.weights.reshape(*self.weights.shape, *[1] * (values.ndim - 2))
        return sum(values[:, self.source[:, i]] * weights[:, i] for i in range(3))

    def colors(self, random: np.random.Generator) -> np.ndarray:
        """Draws the colours of somebody's vertices ``(V', 3)``, float32, 0 to 1, without light."""
        skin = _between(random, SKIN)
        shirt, trousers, shoes = (_cloth(random) for _ in range(3))
        sleeves, legs = random.choice(3, p=[0.15, 0.4, 0.45]), random.choice(3, p=[0.05, 0.2, 0.75])
        palette = dict(skin=skin, hair=_between(random, HAIR), trunk=shirt, foot=shoes * 0.7)
        palette['sleeve'], palette['arm'] = shirt if sleeves > 0 else skin, shirt if sleeves > 1 else skin
        palette['thigh'], palette['shin'] = trousers if legs > 0 else skin, trousers if legs > 1 else skin
        if random.random() < 0.1:
            palette['hair'] = skin
        if random.random() < 0.15:  # a dress, or a suit
            palette['thigh'] = shirt
        colors = np.array([palette[name] for name in PARTS])[self.part]
        if random.random() < 0.25:  # stripes
            stripes = 0.5 + 0.5 * np.sin(self.height * random.uniform(60, 200))
            worn = (self.part == PARTS.index('trunk'))[:, None]
            colors = np.where(worn, colors + (_cloth(random) - colors) * 0.8 * stripes[:, None], colors)
        return colors.astype(np.float32)


def _between(random: np.random.Generator, colors: np.ndarray) -> np.ndarray:
    """Draws a colour from a row of them, or between two neighbours."""
    at = random.uniform(0, len(colors) - 1)
    low = int(at)
    return colors[low] + (at - low) * (colors[min(low + 1, len(colors) - 1)] - colors[low])


def _cloth(random: np.random.Generator) -> np.ndarray:
    """Draws a colour: often grey, black, white or blue, at times bright."""
    value = random.uniform(0.08, 0.95)
    if random.random() < 0.45:
        return np.clip(value + random.normal(0, 0.03, 3), 0, 1)
    hue = random.uniform(0, 6) + np.array([0, 4, 2])
    bright = np.clip(np.abs((hue % 6) - 3) - 1, 0, 1)
    return value * (1 + random.uniform(0.3, 0.9) * (bright - 1))
