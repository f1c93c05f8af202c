"""What is behind the people: ground, sky or wall, houses, or a photo; and the shadows on the ground."""

from pathlib import Path

import cv2
import numpy as np

from .view import View

#: Pixels of a texture and metres that they cover.
TEXTURE, METRES = 256, 2.0
#: Colours of grounds, BGR: asphalt, concrete, sand, wood, earth, grass, tiles, snow.
GROUNDS = np.array(
    [
        *([0.35, 0.34, 0.33], [0.6, 0.6, 0.6], [0.55, 0.68, 0.75], [0.3, 0.42, 0.58], [0.25, 0.33, 0.42]),
        *([0.22, 0.45, 0.3], [0.3, 0.5, 0.42], [0.45, 0.48, 0.62], [0.65, 0.6, 0.5], [0.85, 0.82, 0.8]),
    ]
)
PICTURES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')


def find_photos(folder: str) -> list[str]:
    """Returns the pictures below a folder, sorted.

    Raises:
        ValueError: If there are none.
    """
    found = sorted(str(path) for path in Path(folder).rglob('*') if path.suffix.lower() in PICTURES)
    if not found:
        raise ValueError(f'backgrounds={folder!r} holds no pictures ({", ".join(PICTURES)}); None draws backgrounds.')
    return found


def photo(random: np.random.Generator, paths: list[str], size: tuple[int, int]) -> np.ndarray:
    """Returns a random part ``(H, W, 3)`` of a random photo, BGR, float32, 0 to 1.

    Raises:
        ValueError: If it cannot be read.
    """
    path = paths[random.integers(len(paths))]
    image = cv2.imread(path, cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f'{path}: cannot be read as a picture; mend or remove it')
    factor = max(size[0] / image.shape[0], size[1] / image.shape[1]) * random.uniform(1, 1.3)
    width, height = (max(round(n * factor), goal) for n, goal in zip(image.shape[1::-1], size[::-1]))
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    top, left = random.integers(height - size[0] + 1), random.integers(width - size[1] + 1)
    return image[top : top + size[0], left : left + size[1]].astype(np.float32) / 255


def scenery(random: np.random.Generator, view: View, farthest: float) -> np.ndarray:
    """Draws ground and background ``(H, W, 3)``, float32, 0 to 1.

    Args:
        random (np.random.Generator): Where numbers come from.
        view (View): The camera.
        farthest (float): Depth of the last thing that stands on the ground, metres; walls are behind it.
    """
    height, width = view.size
    indoors = farthest < 12 and random.random() < 0.5
    end = farthest + random.uniform(1, 6) if indoors else 300.0
    edge = int(np.clip(view.row_of(end), 0, height))
    image = np.empty((height, width, 3), np.float32)
    if edge > 0:
        image[:edge] = _wall(random, edge, width) if indoors else _sky(random, edge, width)
    if edge < height:
        _ground(random, view, image, edge)
    if indoors and 2 < edge < height:
        image[edge - 2 : edge + 1] *= random.uniform(0.4, 0.9)  # skirting board
    return image.clip(0, 1)


def _color(random: np.random.Generator, low: float = 0.15, high: float = 0.9, spread: float = 0.1) -> np.ndarray:
    return (random.uniform(low, high) + random.normal(0, spread, 3)).clip(0.03, 1).astype(np.float32)


def _noise(random: np.random.Generator, height: int, width: int, cell: int) -> np.ndarray:
    """Returns smooth noise ``(H, W)`` between -1 and 1 with spots of about ``cell`` pixels."""
    small = random.uniform(-1, 1, (height // cell + 2, width // cell + 2)).astype(np.float32)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def _repeated_noise(random: np.random.Generator, cell: int) -> np.ndarray:
    """Returns such noise ``(TEXTURE, TEXTURE)`` without seams where it is laid side by side."""
    spots = TEXTURE // cell
    small = random.uniform(-1, 1, (spots + 2, spots + 2)).astype(np.float32)[:spots, :spots]
    wide = np.pad(small, 2, mode='wrap')
    side, start = round((spots + 4) * TEXTURE / spots), round(2 * TEXTURE / spots)
    large = cv2.resize(wide, (side, side), interpolation=cv2.INTER_CUBIC)
    return large[start : start + TEXTURE, start : start + TEXTURE]


def texture(random: np.random.Generator) -> np.ndarray:
    """Draws a texture ``(TEXTURE, TEXTURE, 3)`` that can be repeated: tiles, planks, gravel or grass."""
    hue = GROUNDS[random.integers(len(GROUNDS))]
    base = (hue * random.uniform(0.6, 1.4) * random.normal(1, 0.06, 3)).clip(0.03, 0.97)
    other = (base * random.uniform(0.5, 1.5) * random.normal(1, 0.05, 3)).clip(0.03, 0.97)
    y, x = np.mgrid[:TEXTURE, :TEXTURE]
    kind = random.choice(4)
    if kind == 0:  # tiles with joints, perhaps chequered
        cells = 2 ** random.integers(0, 4)
        step = TEXTURE // cells
        mix = ((x // step + y // step) % 2) * random.choice([0.0, 0.3, 1.0])
        mix = np.where((x % step < 3) | (y % step < 3), 0.8, mix)
    elif kind == 1:  # planks
        step = TEXTURE // 2 ** random.integers(2, 5)
        mix = random.uniform(0, 0.5, TEXTURE // step)[x // step] + 0.4 * (x % step < 2)
    else:
        mix = 0.5 + 0.5 * _repeated_noise(random, int(random.choice([3, 6, 40])))
    grain = random.uniform(0.02, 0.12) * random.standard_normal((TEXTURE, TEXTURE, 1)).astype(np.float32)
    return (base + mix[..., None] * (other - base) * 0.8 + grain).astype(np.float32)


def _ground(random: np.random.Generator, view: View, image: np.ndarray, edge: int) -> None:
    """Lays a texture over the ground; far away it fades to its mean, which also hides aliasing."""
    tile = texture(random)
    mean = tile.mean((0, 1))
    right, up, back = view.axes
    turn = random.uniform(0, np.pi)
    across, along = np.cos(turn) * right - np.sin(turn) * back, np.sin(turn) * right + np.cos(turn) * back
    # A pixel's ray d meets the ground at d · height / -(up · d).
    pixel_to_tile = np.stack([across, along, -up / view.height]) @ np.linalg.inv(view.intrinsics)
    pixel_to_tile[:2] *= TEXTURE / METRES
    pixel_to_tile = pixel_to_tile @ np.array([[1, 0, 0], [0, 1, edge], [0, 0, 1.0]])
    rows = len(image) - edge
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    fine = (255 * tile).clip(0, 255).astype(np.uint8)  # twice as fast as floats
    ground = cv2.warpPerspective(fine, pixel_to_tile, (image.shape[1], rows), flags=flags, borderMode=cv2.BORDER_WRAP)
    horizon = view.row_of(np.inf)
    distance = (view.row_of(1.0) - horizon) / np.maximum(np.arange(edge, len(image)) + 0.5 - horizon, 1e-3)
    clear = np.exp(-distance / random.uniform(6, 20)).astype(np.float32)[:, None, None]
    np.multiply(ground, clear / 255, out=image[edge:])
    image[edge:] += mean * (1 - clear)


def _wall(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    wall = np.broadcast_to(_color(random, 0.3, 0.95, 0.06), (height, width, 3)).copy()
    wall *= np.linspace(1, random.uniform(0.8, 1.2), width, dtype=np.float32)[None, :, None]
    for _ in range(random.integers(0, 4)):  # pictures, doors, windows
        w, h = random.integers(width // 20 + 1, width // 4 + 2), random.integers(height // 10 + 1, height + 1)
        x, y = random.integers(-w // 2, width), random.integers(0, height)
        cv2.rectangle(wall, (int(x), int(y)), (int(x + w), int(y + h)), _color(random).tolist(), -1)
        cv2.rectangle(wall, (int(x), int(y)), (int(x + w), int(y + h)), _color(random).tolist(), 2)
    return wall + 0.03 * _noise(random, height, width, 24)[..., None]


def _sky(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    blue = random.random() < 0.6
    top = np.array([0.85, 0.6, 0.35]) if blue else _color(random, 0.5, 0.9, 0.04)
    low = np.array([0.95, 0.88, 0.8]) if blue else _color(random, 0.6, 0.95, 0.04)
    mix = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    sky = (top + (low - top) * mix).astype(np.float32) + np.zeros((1, width, 1), np.float32)
    sky += 0.06 * np.maximum(_noise(random, height, width, 60), 0)[..., None]
    for _ in range(random.integers(0, 9)):  # houses and trees on the horizon
        w, h = int(random.integers(width // 25 + 2, width // 4 + 3)), int(random.uniform(0.05, 0.8) * height)
        x, color = int(random.integers(-w // 2, width)), _color(random, 0.1, 0.7)
        if random.random() < 0.5:
            cv2.rectangle(sky, (x, height - h), (x + w, height), color.tolist(), -1)
            pane, gap = max(w // random.integers(4, 12), 4), (color * random.uniform(0.4, 1.5)).tolist()
            for wx in range(x + pane // 2, x + w - pane // 2, pane):
                for wy in range(height - h + pane // 2, height - pane, pane + pane // 2):
                    cv2.rectangle(sky, (wx, wy), (wx + pane // 2, wy + pane // 2), gap, -1)
        else:
            green = color * np.array([0.5, 1.0, 0.6], np.float32)
            trunk = x + w // 2 - w // 16, height - h // 2, max(w // 8, 1), h // 2 + 1
            cv2.rectangle(sky, trunk, (0.1, 0.15, 0.2), -1)
            for _ in range(12):
                at = x + random.uniform(0.2, 0.8) * w, height - h * random.uniform(0.45, 0.9)
                leaf = (green * random.uniform(0.7, 1.3)).tolist()
                cv2.circle(sky, tuple(map(int, at)), max(w // 6, 1), leaf, -1)
    return cv2.GaussianBlur(sky, (0, 0), random.uniform(0.6, 2.5))


def cast_shadows(
    image: np.ndarray, view: View, light: np.ndarray, bodies: np.ndarray, groups: list[np.ndarray], dark: float
) -> None:
    """Darkens the ground where bodies keep the light off, in place.

    Args:
        image (np.ndarray): ``(H, W, 3)``, float32.
        view (View): The camera.
        light (np.ndarray): ``(3,)``, to the light, above the ground.
        bodies (np.ndarray): ``(N, V, 3)``, metres.
        groups (list[np.ndarray]): Vertices of parts whose shadows are convex.
        dark (float): Part of the light that is lost, 0 to 1.
    """
    up = view.axes[1]
    mask: np.ndarray = np.zeros(image.shape[:2], np.uint8)
    above = bodies @ up + view.height
    fallen = bodies - above[..., None] / (light @ up) * light
    spots = (view.project(fallen) * 8).clip(-1e6, 1e6).astype(np.int32)
    for spot, points in zip(spots, fallen):
        for group in groups:
            if points[group, 2].min() > 0.3:
                cv2.fillConvexPoly(mask, cv2.convexHull(spot[group]), 255, cv2.LINE_8, 3)
    mask = cv2.GaussianBlur(mask, (0, 0), 1.5)
    rows = np.flatnonzero(mask.any(1))
    if len(rows):
        some = slice(rows[0], rows[-1] + 1)
        image[some] *= 1 - np.float32(dark / 255) * mask[some, :, None]
