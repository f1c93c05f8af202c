"""The two rasterisers against each other and against squares that are known."""

import numpy as np
import pytest

from mmtoken.hmr.render import raster

CAMERA = np.array([[60.0, 0, 31], [0, 70, 20], [0, 0, 1]])  # neither square pixels nor a centre in the middle
BOTH = pytest.mark.parametrize(
    'fast', [pytest.param(True, marks=pytest.mark.skipif(not raster.FAST, reason='needs OpenCV 5')), False]
)


def blank():
    return np.zeros((48, 64, 3), np.float32), np.full((48, 64), raster.FAR, np.float32)


def square(left, top, right, bottom, z):
    """Corners of pixels, and two triangles."""
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], float)
    points = np.c_[(corners - CAMERA[:2, 2]) / CAMERA[[0, 1], [0, 1]] * z, np.full(4, z)]
    return points.astype(np.float32), np.array([[0, 1, 2], [0, 2, 3]])


@BOTH
@pytest.mark.parametrize('offset', [0.0, 0.3, 0.7])
def test_a_square_covers_the_pixels_whose_middles_it_covers(fast, offset):
    points, faces = square(10 + offset, 12 + offset, 20 + offset, 18 + offset, 2.0)
    image, depth = blank()
    raster.rasterize(points, faces, np.full((4, 3), 0.5, np.float32), CAMERA, image, depth, fast)
    first = int(offset > 0.5)
    expected = np.zeros((48, 64), bool)
    expected[12 + first : 18 + first, 10 + first : 20 + first] = True
    assert np.array_equal(raster.covered(depth), expected) and np.array_equal(image[..., 0] > 0, expected)
    np.testing.assert_allclose(depth[expected], 2, rtol=1e-4)


@BOTH
def test_the_nearer_one_is_seen_and_what_was_there_counts(fast):
    image, depth = blank()
    for z, color in ((3.0, 0.3), (2.0, 0.2), (4.0, 0.4)):
        points, faces = square(10, 10, 30, 30, z)
        raster.rasterize(points, faces, np.full((4, 3), color, np.float32), CAMERA, image, depth, fast)
    np.testing.assert_allclose(image[10:30, 10:30], 0.2, rtol=1e-4)


@BOTH
def test_colours_blend_in_space(fast):
    """Along a floor that recedes, the middle of the picture is not the middle of the floor."""
    points = np.array([[-1, 1, 2], [1, 1, 2], [1, 1, 20], [-1, 1, 20]], np.float32)
    colors = np.repeat(points[:, 2:] / 20, 3, axis=1)
    image, depth = blank()
    raster.rasterize(points, np.array([[0, 1, 2], [0, 2, 3]]), colors, CAMERA, image, depth, fast)
    seen = raster.covered(depth)
    assert seen.sum() > 100
    np.testing.assert_allclose(image[seen][:, 0], depth[seen] / 20, rtol=5e-3)


@BOTH
def test_nothing_behind_the_camera(fast):
    image, depth = blank()
    points, faces = square(10, 10, 30, 30, 2.0)
    raster.rasterize(-points, faces, np.ones((4, 3), np.float32), CAMERA, image, depth, fast)
    raster.rasterize(points, faces[:0], np.ones((4, 3), np.float32), CAMERA, image, depth, fast)
    assert not raster.covered(depth).any() and not image.any()


@pytest.mark.skipif(not raster.FAST, reason='needs OpenCV 5')
def test_both_draw_the_same(body):
    vertices = body.template.numpy() * [1, -1, -1] + [0.2, 0, 2.5]
    colors = np.random.default_rng(0).random((len(vertices), 3)).astype(np.float32)
    pictures = []
    for fast in (True, False):
        image, depth = np.zeros((300, 260, 3), np.float32), np.full((300, 260), raster.FAR, np.float32)
        camera = np.array([[300.0, 0, 120], [0, 310, 140], [0, 0, 1]])
        raster.rasterize(vertices, body.faces.numpy(), colors, camera, image, depth, fast)
        pictures.append((image, depth))
    (image, depth), (other, other_depth) = pictures
    same = raster.covered(depth) == raster.covered(other_depth)
    assert same.mean() > 0.999 and raster.covered(depth).mean() > 0.05
    seen = raster.covered(depth) & raster.covered(other_depth)
    assert np.quantile(np.abs(depth - other_depth)[seen], 0.99) < 1e-3
    assert np.quantile(np.abs(image - other)[seen], 0.99) < 0.02
