"""What people wear: colours of the parts of a body."""

import numpy as np

from mmtoken.hmr.body import SkinnedBody

#: Parts, and the joints whose skin they are. What a sleeve or a trouser leg covers depends on the clothes.
PARTS = ('skin', 'hair', 'shirt', 'upper arm', 'forearm', 'thigh', 'shin', 'shoe')
OWNERS = dict(zip(range(24), ['thigh', 'thigh', 'thigh', 'shirt', 'shin', 'shin', 'shirt', 'shoe', 'shoe', 'shirt']))
OWNERS |= {10: 'shoe', 11: 'shoe', 12: 'skin', 13: 'shirt', 14: 'shirt', 15: 'skin', 16: 'upper arm', 17: 'upper arm'}
OWNERS |= {18: 'forearm', 19: 'forearm', 20: 'skin', 21: 'skin', 22: 'skin', 23: 'skin'}
SKIN = np.array([[0.36, 0.24, 0.17], [0.55, 0.38, 0.27], [0.72, 0.53, 0.4], [0.87, 0.69, 0.56], [0.95, 0.78, 0.68]])
HAIR = np.array([[0.07, 0.06, 0.05], [0.2, 0.13, 0.08], [0.4, 0.27, 0.15], [0.72, 0.58, 0.35], [0.6, 0.6, 0.6]])


class Wardrobe:
    """Cuts a body along its clothes, so that colours end sharply, and draws colours.

    Args:
        body (SkinnedBody): Whose mesh it is.

    Attributes:
        source (np.ndarray): ``(V',)``: vertices of the body, those at seams several times.
        faces (np.ndarray): ``(F, 3)``, into ``source``.
        part (np.ndarray): ``(V',)``, number in ``PARTS``.
    """

    def __init__(self, body: SkinnedBody):
        weights, faces = body.weights.cpu(), body.faces.cpu().numpy()
        owner = weights[faces].sum(1).argmax(1).numpy()
        part = np.array([PARTS.index(OWNERS[j]) for j in range(24)])[owner]
        centre = body.template.cpu().numpy()[faces].mean(1)
        joints = body.rest_joints.cpu().numpy()
        head = np.isin(owner, [12, 15]) & (centre[:, 1] > joints[15, 1])
        top = centre[head, 1].max()
        # Above a line that rises from the neck behind to the forehead.
        line = joints[15, 1] + (top - joints[15, 1]) * (0.35 + 4.5 * (centre[:, 2] - joints[15, 2])).clip(0.0, 0.75)
        part[head & (centre[:, 1] > line)] = PARTS.index('hair')
        corners = np.stack([faces, np.repeat(part[:, None], 3, axis=1)], axis=-1).reshape(-1, 2)
        pairs, index = np.unique(corners, axis=0, return_inverse=True)
        self.source, self.part = pairs.T
        self.faces = index.reshape(-1, 3).astype(np.int32)
        height = body.template.cpu().numpy()[self.source, 1]
        self.height = (height - height.min()) / np.ptp(height)

    def colors(self, random: np.random.Generator) -> np.ndarray:
        """Draws the colours of somebody's vertices ``(V', 3)``, float32, 0 to 1, without light."""
        skin = _between(random, SKIN)
        shirt, trousers, shoes = (_cloth(random) for _ in range(3))
        sleeves, legs = random.choice(3, p=[0.15, 0.4, 0.45]), random.choice(3, p=[0.05, 0.2, 0.75])
        palette = dict(skin=skin, hair=_between(random, HAIR), shirt=shirt, shoe=shoes * 0.7)
        palette['upper arm'], palette['forearm'] = shirt if sleeves > 0 else skin, shirt if sleeves > 1 else skin
        palette['thigh'], palette['shin'] = trousers if legs > 0 else skin, trousers if legs > 1 else skin
        if random.random() < 0.1:
            palette['hair'] = skin
        if random.random() < 0.15:  # a dress, or a suit
            palette['thigh'] = shirt
        colors = np.array([palette[name] for name in PARTS])[self.part]
        if random.random() < 0.25:  # stripes
            stripes = 0.5 + 0.5 * np.sign(np.sin(self.height * random.uniform(60, 200)))
            worn = np.isin(self.part, [PARTS.index('shirt'), PARTS.index('upper arm')])[:, None]
            colors = np.where(worn, colors + (_cloth(random) - colors) * 0.7 * stripes[:, None], colors)
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
