"""The inferencer on pictures, folders and videos that are made here."""

import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmtoken.hmr.inferencer import HumanMeshInferencer
from mmtoken.hmr.sources import open_source

ROOT = Path(__file__).parents[3]
PEOPLE = 6  # queries, all of which are taken for people


@pytest.fixture
def inferencer(config):
    torch.manual_seed(0)
    cfg = Config(dict(model=config, default_scope='mmdet'))
    return HumanMeshInferencer(cfg, device='cpu', score_thr=0.0, panels=('mesh', 'scale', 'tokens'))


@pytest.fixture
def photo():
    return np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)


def video(path, frames=5, size=(64, 48)):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 10, size)
    for i in range(frames):
        writer.write(np.full((*size[::-1], 3), 40 * i, np.uint8))
    writer.release()
    return str(path)


def test_a_picture_with_all_that_can_be_written(inferencer, photo, tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), photo)
    out = tmp_path / 'out'
    formats = ('picture', 'json', 'npz', 'obj')
    results = inferencer(tmp_path / 'a.png', out_dir=str(out), formats=formats, show_progress=False)
    people = results['predictions'][0].pred_instances
    assert results['names'] == ['a'] and len(people) == PEOPLE
    assert cv2.imread(str(out / 'a.jpg')).shape == (90, 3 * 120, 3)
    made = json.loads((out / 'a.json').read_text())
    np.testing.assert_allclose(made['transl'], people.transl, atol=1e-5)
    assert np.shape(made['cam_intrinsics']) == (3, 3)
    with np.load(out / 'a.npz') as arrays:
        np.testing.assert_allclose(arrays['vertices'], people.vertices)
        faces = arrays['faces']
    lines = (out / 'a.obj').read_text().splitlines()
    assert sum(line.startswith('o ') for line in lines) == PEOPLE
    vertices = np.array([line.split()[1:] for line in lines if line.startswith('v ')], float)
    goal = people.vertices.numpy() * [1, -1, -1]
    np.testing.assert_allclose(vertices.reshape(goal.shape), goal, atol=1e-4)
    last = [int(n) for n in lines[-1].split()[1:]]
    assert last == (faces[-1] + 1 + (PEOPLE - 1) * people.vertices.shape[1]).tolist()


def test_arrays_in_a_batch_are_as_alone_and_in_pixels_of_the_original(inferencer, photo):
    both = inferencer([photo, photo[:, :60]], batch_size=2, show_progress=False)['predictions']
    alone = inferencer(photo[:, :60], show_progress=False)['predictions'][0]
    assert both[1].ori_shape == (90, 60)
    torch.testing.assert_close(both[1].pred_instances.keypoints, alone.pred_instances.keypoints, atol=1e-2, rtol=1e-4)
    assert both[0].pred_cam_intrinsics[:2, 2] == pytest.approx([60, 45])


def test_cameras(inferencer, photo):
    plain, zoomed = (inferencer(photo, fov=fov, show_progress=False)['predictions'][0] for fov in (None, 30))
    ratio = zoomed.pred_cam_intrinsics[0, 0] / plain.pred_cam_intrinsics[0, 0]
    assert ratio == pytest.approx(np.tan(np.radians(30)) / np.tan(np.radians(15)), rel=1e-3)
    torch.testing.assert_close(zoomed.pred_instances.transl[:, 2], plain.pred_instances.transl[:, 2] * float(ratio))
    known = inferencer(photo, cam_intrinsics=zoomed.pred_cam_intrinsics, show_progress=False)['predictions'][0]
    torch.testing.assert_close(known.pred_instances.transl, zoomed.pred_instances.transl, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match='both name the camera'):
        inferencer(photo, fov=30, cam_intrinsics=np.eye(3))


def test_a_folder_with_a_file_that_is_none(inferencer, photo, tmp_path):
    (tmp_path / 'in').mkdir()
    cv2.imwrite(str(tmp_path / 'in/a.png'), photo)
    cv2.imwrite(str(tmp_path / 'in/b.jpg'), photo)
    (tmp_path / 'in/c.jpg').write_text('no picture')
    results = inferencer(tmp_path / 'in', batch_size=2, show_progress=False)
    assert results['names'] == ['a', 'b']
    with pytest.raises(ValueError, match=r'c\.jpg cannot be read as a picture'):
        inferencer(tmp_path / 'in/c.jpg', show_progress=False)


def test_pictures_are_turned_as_their_exif_says(inferencer, photo, tmp_path):
    from PIL import Image

    turned = Image.fromarray(np.rot90(photo[..., ::-1]))
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera was held upright: turn it back, clockwise
    turned.save(tmp_path / 'a.png', exif=exif)
    frame = next(iter(open_source(tmp_path / 'a.png')))
    assert np.array_equal(frame.image, photo)


def test_nobody_there(inferencer, photo, tmp_path):
    inferencer.model.test_cfg['score_thr'] = 1.0
    formats = ('picture', 'json', 'npz', 'obj')
    results = inferencer(photo, out_dir=str(tmp_path), formats=formats, show_progress=False)
    assert len(results['predictions'][0].pred_instances) == 0
    assert json.loads((tmp_path / '000000.json').read_text())['scores'] == []
    assert 'o person' not in (tmp_path / '000000.obj').read_text()


def test_a_video(inferencer, tmp_path):
    out = tmp_path / 'out'
    results = inferencer(video(tmp_path / 'v.avi'), batch_size=2, out_dir=str(out), show_progress=False)
    assert results['names'] == [f'{i:06d}' for i in range(5)] and results['predictions'] == []
    lines = [json.loads(line) for line in (out / 'people.jsonl').read_text().splitlines()]
    assert [line['frame'] for line in lines] == list(range(5)) and len(lines[0]['transl']) == PEOPLE
    made = cv2.VideoCapture(str(out / 'video.mp4'))
    assert made.get(cv2.CAP_PROP_FRAME_COUNT) == 5 and made.get(cv2.CAP_PROP_FPS) == pytest.approx(10)


@pytest.mark.parametrize('kind', [KeyboardInterrupt, RuntimeError])
def test_what_was_done_of_a_video_that_is_broken_off_is_kept(inferencer, tmp_path, monkeypatch, kind):
    predict, calls = inferencer.predict, []

    def broken(*args):
        calls.append(1)
        if len(calls) == 4:
            raise kind
        return predict(*args)

    monkeypatch.setattr(inferencer, 'predict', broken)
    path, out = video(tmp_path / 'v.avi'), tmp_path / 'out'
    if kind is KeyboardInterrupt:  # the end that a user wants
        assert len(inferencer(path, out_dir=str(out), show_progress=False, keep=True)['predictions']) == 3
    else:
        with pytest.raises(RuntimeError):
            inferencer(path, out_dir=str(out), show_progress=False)
    assert len((out / 'people.jsonl').read_text().splitlines()) == 3
    assert cv2.VideoCapture(str(out / 'video.mp4')).get(cv2.CAP_PROP_FRAME_COUNT) == 3


@pytest.mark.parametrize(
    'inputs, message',
    [
        ('gone.jpg', 'no such file or folder'),
        (None, 'is none; give a picture'),
        (np.zeros((0, 5, 3), np.uint8), r'shape \(0, 5, 3\) is none'),
        (np.zeros((5, 5), np.uint8), r'shape \(5, 5\) is none'),
        (99, 'no webcam can be opened'),
    ],
    ids=str,
)
def test_inputs_that_are_none(inferencer, inputs, message):
    with pytest.raises(ValueError, match=message):
        inferencer(inputs, show_progress=False)


def test_arguments_that_are_refused(inferencer, photo, tmp_path):
    with pytest.raises(ValueError, match="formats='ply'.*'json'"):
        inferencer(photo, formats=['ply'])
    with pytest.raises(ValueError, match='batch_size=0'):
        inferencer(photo, batch_size=0)
    with pytest.raises(ValueError, match='holds no pictures'):
        inferencer(str(tmp_path))


def test_the_tool(config, photo, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location('human_mesh_tool', ROOT / 'tools/human_mesh.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    cfg = Config(dict(model=config, default_scope='mmdet'))
    cfg.dump(str(tmp_path / 'mesh.py'))
    model = HumanMeshInferencer(cfg, device='cpu').model
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'mesh.pth')
    cv2.imwrite(str(tmp_path / 'a.png'), photo)
    args = [str(tmp_path / name) for name in ('mesh.py', 'mesh.pth', 'a.png')]
    out = ['--out', str(tmp_path / 'out'), '--device', 'cpu', '--score-thr', '0']
    tool.main([*args, *out, '--intrinsics', '100', '100', '60', '45', '--formats', 'json'])
    assert json.loads((tmp_path / 'out/a.json').read_text())['cam_intrinsics'][0] == pytest.approx([100, 0, 60])
    assert '1 pictures' in capsys.readouterr().out
    for wrong, message in (
        (args, 'give --out DIR or --show'),
        ([*args[:2], 'gone.jpg', *out], 'no such file or folder'),
    ):
        with pytest.raises(SystemExit, match=message):
            tool.main(wrong)
