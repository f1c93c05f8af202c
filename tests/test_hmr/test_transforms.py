"""After each transform the posed body, seen through the camera, lies where the labels and the picture say."""

import cv2
import numpy as np
import pytest
import torch

from mmtoken.hmr.data import LoadPeople, OccludePeople, RandomAffinePeople, RandomFlipPeople, ResizePeople
from mmtoken.hmr.data.people import FIELDS
from mmtoken.hmr.data.transforms import map_pixels, turning
from mmtoken.hmr.geometry import project
from mmtoken.registry import TRANSFORMS

SIZE = (360, 480)
CAMERA = np.array([[400.0, 0, 200], [0, 400, 190], [0, 0, 1]], np.float32)  # its centre is not that of the picture


@pytest.fixture
def results(body):
    """Three people; bright spots where the first one's wrists and ankles are."""
    pose = body.mean_pose.expand(3, -1, -1).clone()
    pose[:, 1:] += 0.2 * torch.randn(3, 23, 3)
    pose[:, 0] += 0.3 * torch.randn(3, 3)
    betas = torch.randn(3, 10)
    transl = torch.tensor([[0.1, 0.0, 3.2], [-1.2, 0.2, 5], [1.8, -0.3, 7]])
    joints = body(pose, betas, transl).joints
    keypoints = project(joints, torch.from_numpy(CAMERA))
    image = np.zeros((*SIZE, 3), np.uint8)
    for joint in (7, 8, 20, 21):
        cv2.circle(image, np.round(keypoints[0, joint].numpy() - 0.5).astype(int).tolist(), 4, (255, 255, 255), -1)
    depth = np.where(image[..., 0] > 0, 3, 9).astype(np.float32)
    made = dict(img=image, depth=depth, img_shape=SIZE, ori_shape=SIZE, cam_intrinsics=CAMERA.copy())
    made |= dict(gt_pose=pose.numpy(), gt_betas=betas.numpy(), gt_transl=transl.numpy())
    made |= dict(gt_keypoints_3d=joints.numpy(), gt_keypoints=keypoints.numpy())
    made |= dict(gt_keypoints_visible=np.ones((3, 45), bool), gt_bboxes=np.zeros((3, 4), np.float32))
    return made | dict(gt_smpl_valid=np.ones(3, bool), gt_valid_3d=np.ones(3, bool))


def check(results, body, joints=(7, 8, 20, 21), mm=1e-3):
    """All of it agrees: SMPL parameters, 3D joints, camera, pixels, and the spots in the picture."""
    out = body(*(torch.from_numpy(results[f'gt_{name}']) for name in ('pose', 'betas', 'transl')))
    np.testing.assert_allclose(out.joints[:, :24], results['gt_keypoints_3d'][:, :24], atol=mm)
    image = results['gt_keypoints_3d'] @ results['cam_intrinsics'].T
    np.testing.assert_allclose(image[..., :2] / image[..., 2:], results['gt_keypoints'], atol=0.05)
    size = results['img'].shape[:2]
    assert results['img_shape'] == size
    seen = 0
    for joint in joints:
        x, y = results['gt_keypoints'][0, joint]
        if 2 < x < size[1] - 3 and 2 < y < size[0] - 3:
            assert results['img'][int(y), int(x)].min() > 150 and results['depth'][int(y), int(x)] == 3
            seen += 1
    assert seen
    for key, (shape, kind) in FIELDS.items():
        assert results[key].shape[1:] == shape and results[key].dtype == kind, key
    boxes = results['gt_bboxes']
    assert (boxes >= 0).all() and (boxes <= [size[1], size[0]] * 2).all()


def test_resize(results, body):
    before = results['gt_keypoints'].copy()
    check(ResizePeople(644)(results), body)
    assert results['img_shape'] == (483, 644)
    np.testing.assert_allclose(results['gt_keypoints'] / results['scale_factor'], before, rtol=1e-5)
    check(ResizePeople(322)(results), body)
    np.testing.assert_allclose(results['scale_factor'], (322 / 480, 242 / 360))


@pytest.mark.parametrize('degrees', [-90, -15, 40])
def test_turn_and_scale(results, body, degrees):
    turn = np.radians(degrees)
    RandomAffinePeople.warp(results, turning(turn, 0.9, (240, 180)), turn)
    check(results, body)
    focal = results['cam_intrinsics']
    assert focal[0, 0] == pytest.approx(360) and abs(focal[[0, 1, 2, 2], [1, 0, 0, 1]]).max() < 1e-4


def test_pixels_that_are_not_square(results, body):
    """Turned, such a camera has skew, and still sees the same."""
    results['cam_intrinsics'][0, 0] = 500
    results['gt_keypoints'] = project(
        torch.from_numpy(results['gt_keypoints_3d']), torch.from_numpy(results['cam_intrinsics'])
    ).numpy()
    map_pixels(results, turning(0.5, 1.0, (0, 0)), SIZE, 0.5)
    image = results['gt_keypoints_3d'] @ results['cam_intrinsics'].T
    np.testing.assert_allclose(image[..., :2] / image[..., 2:], results['gt_keypoints'], atol=0.05)


def test_random_affine_keeps_people_and_drops_those_outside(results, body):
    np.random.seed(0)
    for _ in range(5):
        turned = RandomAffinePeople()({k: v.copy() if hasattr(v, 'copy') else v for k, v in results.items()})
        check(turned, body)
    results['gt_transl'][1:, 0] += 100
    results['gt_keypoints_3d'][1:, :, 0] += 100
    results['gt_keypoints'][1:] += 1e4
    assert len(RandomAffinePeople()(results)['gt_pose']) == 1
    results['gt_keypoints'] += 1e4
    unchanged = results['img'].copy()
    assert len(RandomAffinePeople()(results)['gt_pose']) == 1 and np.array_equal(results['img'], unchanged)


def test_flip(results, body):
    before = results['gt_keypoints'].copy()
    check(RandomFlipPeople(1.0)(results), body, mm=0.03)  # the free body's sides differ a little
    assert results['flip']
    np.testing.assert_allclose(results['gt_keypoints'][:, 20, 0], 480 - before[:, 21, 0], rtol=1e-5)
    check(RandomFlipPeople(1.0)(results), body)
    np.testing.assert_allclose(results['gt_keypoints'], before, atol=1e-3)
    assert not RandomFlipPeople(0.0)(results)['flip']


def test_all_of_them(results, body):
    for cfg in (
        dict(type='mmtoken.ResizePeople', side=400),
        dict(type='mmtoken.RandomFlipPeople', prob=1.0),
        dict(type='mmtoken.RandomAffinePeople', rotate=30, scale=(0.8, 1.2)),
    ):
        results = TRANSFORMS.build(cfg)(results)
    check(results, body, mm=0.03)


def test_occlusion_hides_what_it_covers(results):
    before = results['img'].copy()
    boxes = results['gt_bboxes'] = np.array([[100, 50, 300, 350], [0, 0, 1, 1], [10, 10, 11, 11]], np.float32)
    OccludePeople(prob=1.0, area=(0.3, 0.3))(results)
    changed = (results['img'] != before).any(-1)
    assert 0.05 < changed[50:350, 100:300].mean() < 0.35 and len(boxes) == 3
    x, y = results['gt_keypoints'].astype(int).clip(0, [479, 359]).transpose(2, 0, 1)
    hidden = ~results['gt_keypoints_visible']
    assert hidden.any() and not results['gt_keypoints_visible'].all()
    assert changed[y[hidden], x[hidden]].mean() > 0.9
    again = results['img'].copy()
    OccludePeople(prob=0.0)(results)
    assert np.array_equal(results['img'], again)


def test_pictures_without_labels_or_people(results):
    bare = {key: results[key] for key in ('img', 'img_shape', 'cam_intrinsics')}
    for transform in (ResizePeople(200), RandomAffinePeople(), RandomFlipPeople(1.0)):
        bare = transform(bare)
    assert bare['img'].shape == (150, 200, 3)
    empty = {key: value[:0] if key in FIELDS else value for key, value in results.items()}
    for transform in (ResizePeople(200), RandomAffinePeople(), RandomFlipPeople(1.0), OccludePeople(1.0)):
        empty = transform(empty)
    assert empty['gt_pose'].shape == (0, 24, 3)
    with pytest.raises(ValueError, match='has 0×9 pixels'):
        ResizePeople(200)(dict(img=np.zeros((9, 0, 3), np.uint8), img_path='a.png'))


def test_bad_arguments():
    for cls, wrong in (
        (ResizePeople, dict(side=0)),
        (RandomAffinePeople, dict(scale=(0, 1))),
        (OccludePeople, dict(area=(0, 2))),
    ):
        with pytest.raises(ValueError, match=f'^{next(iter(wrong))}='):
            cls(**wrong)


def exif(image, orientation):
    """JPEG bytes whose EXIF says how the picture is turned."""
    data = cv2.imencode('.jpg', image)[1].tobytes()
    tiff = (
        b'MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00'
        + bytes([orientation])
        + b'\x00\x00\x00\x00\x00\x00'
    )
    part = b'Exif\x00\x00' + tiff
    return data[:2] + b'\xff\xe1' + (len(part) + 2).to_bytes(2, 'big') + part + data[2:]


def test_loading(tmp_path):
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :10] = 255
    (tmp_path / 'a.jpg').write_bytes(exif(image, 6))  # to be turned by a quarter, clockwise
    path = str(tmp_path / 'a.jpg')
    loaded = LoadPeople()(dict(img_path=path))
    assert loaded['img'].shape[:2] == (60, 40) and loaded['img'][:5].min() > 200
    assert loaded['cam_intrinsics'][0].tolist() == pytest.approx([30 / np.tan(np.pi / 6), 0, 20])
    with pytest.raises(ValueError, match=r'a.jpg: is 40×60 pixels, turned by its EXIF, its annotation is for 60×40'):
        LoadPeople()(dict(img_path=path, height=40, width=60))
    assert LoadPeople()(dict(img_path=path, quarter_turns=1))['img'].shape[:2] == (40, 60)
    (tmp_path / 'b.jpg').write_bytes(b'')
    with pytest.raises(ValueError, match='b.jpg: cannot be read as a picture'):
        LoadPeople()(dict(img_path=str(tmp_path / 'b.jpg')))
