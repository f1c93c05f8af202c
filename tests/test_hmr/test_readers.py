"""Each reader on a small file in the format of its dataset: the people that were written come out before the camera."""

import json
import pickle

import cv2
import numpy as np
import pytest
import torch

from mmtoken.hmr.body import SMPL
from mmtoken.hmr.data import AGORADataset, BEDLAMDataset, HumanDataset, NeuralAnnotDataset, ThreeDPWDataset
from mmtoken.hmr.geometry import axis_angle_to_matrix, matrix_to_axis_angle, project
from mmtoken.registry import DATASETS

CAMERA = np.array([[500.0, 0, 310], [0, 500, 250], [0, 0, 1]], np.float32)
FREE = dict(type='FreeBody')
PIPELINE = [dict(type='mmtoken.LoadPeople'), dict(type='mmtoken.MakeScaleMap'), dict(type='mmtoken.PackPeople')]
TURN = axis_angle_to_matrix(torch.tensor([0.3, -1.0, 0.2]))
MOVE = torch.tensor([0.5, 1.0, -2.0])


class People:
    """Three people before the camera, two in one picture, and the same in a world that is turned and moved."""

    def __init__(self, body):
        self.pose = body.mean_pose.expand(3, -1, -1) + 0.2 * torch.randn(3, 24, 3)
        self.betas = torch.randn(3, 10)
        self.transl = torch.tensor([[0.0, 0.2, 4.0], [1.0, 0.0, 6.0], [-0.5, 0.0, 5.0]])
        self.joints = body(self.pose, self.betas, self.transl).joints
        self.keypoints = project(self.joints, torch.from_numpy(CAMERA)).numpy()
        world = matrix_to_axis_angle(TURN.T @ axis_angle_to_matrix(self.pose[:, 0]))
        self.world_pose = torch.cat([world[:, None], self.pose[:, 1:]], dim=1)
        pelvis = body.pelvis(self.betas)
        self.world_transl = (pelvis + self.transl - MOVE) @ TURN - pelvis
        posed = body(self.world_pose, self.betas, self.world_transl).joints
        torch.testing.assert_close(posed @ TURN.T + MOVE, self.joints, atol=1e-4, rtol=0)

    def check(self, info, rows):
        np.testing.assert_allclose(info['gt_keypoints_3d'], self.joints[rows], atol=1e-4)
        np.testing.assert_allclose(info['gt_transl'], self.transl[rows], atol=1e-4)
        turned = axis_angle_to_matrix(torch.from_numpy(info['gt_pose']))
        torch.testing.assert_close(turned, axis_angle_to_matrix(self.pose[rows]), atol=1e-4, rtol=0)
        np.testing.assert_allclose(info['cam_intrinsics'], CAMERA)


@pytest.fixture
def people(body):
    return People(body)


@pytest.fixture
def pictures(tmp_path):
    for name in ('a/1.png', 'a/2.png', 'seq/image_00000.jpg', 'seq/image_00001.jpg'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.full((480, 640, 3), 90, np.uint8))
    return dict(data_prefix=dict(img=str(tmp_path)), body_model=FREE, pipeline=PIPELINE)


def placed(dataset, index, people, rows):
    """The packed picture: joints in it, boxes, scale map."""
    sample = dataset[index]['data_samples']
    np.testing.assert_allclose(sample.gt_instances.keypoints, people.keypoints[rows], atol=0.05)
    assert (sample.gt_instances.bboxes[:, 2:] > sample.gt_instances.bboxes[:, :2]).all()
    assert sample.gt_scale_map.data[0].sum() > 5
    return sample


def agora(people):
    def smpl(i):
        pose = people.world_pose[i].numpy()
        return dict(
            betas=people.betas[i : i + 1].numpy(),
            global_orient=pose[None, :1],
            body_pose=pose[None, 1:],
            transl=people.world_transl[i : i + 1].numpy(),
        )

    camera = dict(cam_intrinsics=CAMERA[None], kid=[False] * 3)
    here = dict(cam_rot=[TURN.numpy()] * 3, cam_trans=[MOVE.numpy()] * 3, **camera)
    return {
        'a/1.png': dict(isValid=[True, False, True], smpl_gt=[smpl(0), smpl(0), smpl(1)], **here),
        'a/2.png': dict(isValid=np.array([True]), smpl_gt=[smpl(2)], **here),
    }


def bedlam(people):
    return {
        f'a/{number + 1}.png': dict(
            cam_int=CAMERA,
            cam_rot=[TURN.numpy()] * len(rows),
            cam_trans=[MOVE.numpy()] * len(rows),
            shape=[people.betas[i].numpy() for i in rows],
            pose_world=[people.world_pose[i].flatten().numpy() for i in rows],
            trans_world=[people.world_transl[i].numpy() for i in rows],
        )
        for number, rows in enumerate(([0, 1], [2]))
    }


def save(path, annots):
    np.savez(path, annots=np.array(annots, dtype=object))
    return str(path)


@pytest.mark.parametrize(('name', 'make'), [('AGORADataset', agora), ('BEDLAMDataset', bedlam)])
def test_agora_and_bedlam(name, make, people, pictures, tmp_path):
    cfg = dict(type=f'mmtoken.{name}', ann_file=save(tmp_path / 'x.npz', make(people)), **pictures)
    dataset = DATASETS.build(cfg)
    assert len(dataset) == 2
    for index, rows in enumerate(([0, 1], [2])):
        people.check(dataset.get_data_info(index), rows)
        sample = placed(dataset, index, people, rows)
        assert sample.gt_instances.valid_3d.all() and sample.all_people and sample.dataset == name


def scene(people, rows, names, **change):
    """A scene as BEDLAM's makers label it: bodies turned about themselves, and moved by the camera's translation."""
    extrinsics = np.tile(np.eye(4), (len(rows), 1, 1))
    extrinsics[:, :3, 3] = [0.5, -1.0, 3.0]
    made = dict(
        imgname=np.array(names),
        gender=np.array(['female'] * len(rows)),
        pose_cam=people.pose[rows].flatten(1).double().numpy(),
        shape=np.pad(people.betas[rows].numpy(), ((0, 0), (0, 1))),
        trans_cam=people.transl[rows].numpy() - extrinsics[:, :3, 3],
        cam_ext=extrinsics,
        cam_int=np.tile(CAMERA, (len(rows), 1, 1)),
        motion_info=np.array([dict(clip=i) for i in rows], dtype=object),
    )
    return made | change


def test_bedlam_as_its_makers_label_it(people, pictures, tmp_path):
    labels = tmp_path / 'labels'
    labels.mkdir()
    np.savez(labels / 'office.npz', **scene(people, [0, 2, 1], ['seq/1.png', 'seq/2.png', 'seq/1.png']))
    np.savez(labels / 'x_closeup_a.npz', **scene(people, [2], ['seq/1.png']))
    for name, size in (
        ('office/png/seq/1', (480, 640)),
        ('office/png/seq/2', (480, 640)),
        ('x_closeup_a/png/seq/1', (640, 480)),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / f'{name}.png'), np.full((*size, 3), 90, np.uint8))
    dataset = BEDLAMDataset(str(labels), **pictures)
    assert len(dataset) == 3
    for index, rows in enumerate(([0, 1], [2], [2])):
        people.check(dataset.get_data_info(index), rows)
        assert placed(dataset, index, people, rows).img_shape == (480, 640)
    assert len(BEDLAMDataset(str(labels / 'office.npz'), **pictures)) == 2
    for change, words in (
        (dict(pose_cam=np.zeros((1, 165))), r'x.npz: pose_cam is \(1, 165\), .* SMPL, not of SMPL-X'),
        (dict(trans_cam=np.array([dict()], dtype=object)), 'BEDLAMDataset does not know this format'),
    ):
        np.savez(tmp_path / 'x.npz', **scene(people, [0], ['seq/1.png'], **change))
        with pytest.raises(ValueError, match=words):
            len(BEDLAMDataset(str(tmp_path / 'x.npz'), **pictures))
    np.savez(tmp_path / 'y.npz', imgname=np.array(['a.png']))
    with pytest.raises(ValueError, match="y.npz: lacks 'pose_cam'"):
        len(BEDLAMDataset(str(tmp_path / 'y.npz'), **pictures))


@pytest.mark.parametrize('first', [1, 2])
def test_pipelines_that_load_nothing(first, people, pictures, tmp_path):
    pipeline = dict(pictures, pipeline=PIPELINE[first:])
    dataset = BEDLAMDataset(save(tmp_path / 'x.npz', bedlam(people)), **pipeline)
    with pytest.raises(ValueError, match='mmtoken.LoadPeople.* first in the pipeline'):
        dataset[0]


def test_closeups_are_stood_up(people, pictures, tmp_path):
    about = bedlam(people)['a/2.png']
    (tmp_path / 'x_closeup').mkdir()
    cv2.imwrite(str(tmp_path / 'x_closeup/1.png'), np.zeros((640, 480, 3), np.uint8))
    dataset = BEDLAMDataset(save(tmp_path / 'x.npz', {'x_closeup/1.png': about}), **pictures)
    assert placed(dataset, 0, people, [2]).img_shape == (480, 640)


def test_agora_test_set(pictures, tmp_path):
    dataset = AGORADataset(**dict(pictures, pipeline=[PIPELINE[0], PIPELINE[2]]))
    sample = dataset[0]['data_samples']
    assert len(dataset) == 4 and 'gt_instances' not in sample and sample.cam_intrinsics.shape == (3, 3)


def test_3dpw(people, pictures, smpl_arrays, tmp_path):
    """Two people over two frames; in the second the camera lost the first."""
    camera = np.eye(4)
    camera[:3, :3], camera[:3, 3] = TURN.numpy(), MOVE.numpy()
    sequence = dict(
        sequence='seq',
        poses=[people.world_pose[i].flatten().numpy()[None].repeat(2, 0).astype(np.float64) for i in (0, 1)],
        betas=[np.pad(people.betas[i].numpy(), (0, 290)) for i in (0, 1)],
        trans=[people.world_transl[i].numpy()[None].repeat(2, 0) for i in (0, 1)],
        cam_poses=np.stack([camera, camera]),
        cam_intrinsics=CAMERA,
        campose_valid=[np.array([True, False]), np.array([True, True])],
        genders=['f', 'm'],
        img_frame_ids=np.arange(2),
    )
    folder = tmp_path / 'sequenceFiles'
    folder.mkdir()
    (folder / 'seq.pkl').write_bytes(pickle.dumps(sequence, protocol=2))
    dataset = ThreeDPWDataset(str(folder), **pictures)
    people.check(dataset.get_data_info(0), [0, 1])
    people.check(dataset.get_data_info(1), [1])
    sample = placed(dataset, 0, people, [0, 1])
    assert sample.gender == ['female', 'male'] and not sample.all_people
    assert len(ThreeDPWDataset(str(folder), step=2, **pictures)) == 1
    np.savez(tmp_path / 'SMPL_FEMALE.npz', **smpl_arrays)
    gendered = ThreeDPWDataset(
        str(folder), genders=dict(female=dict(type='SMPL', gender='female', model_path=str(tmp_path))), **pictures
    )
    info = gendered.get_data_info(0)
    body = SMPL(str(tmp_path), 'female')
    out = body(*(torch.from_numpy(info[f'gt_{key}'][:1]) for key in ('pose', 'betas', 'transl')))
    torch.testing.assert_close(out.joints[0], torch.from_numpy(info['gt_keypoints_3d'][0]))
    np.testing.assert_allclose(info['gt_keypoints_3d'][1], people.joints[1], atol=1e-4)


def test_neural_annot(people, pictures, tmp_path):
    """Cameras of their own: far away with a long lens. In the picture joints stay where they were fitted."""
    fits, annotations = {}, []
    lens = CAMERA * [[10], [10], [1]]
    lens[:2, 2] = CAMERA[:2, 2]
    for i in range(3):
        smpl = dict(pose=people.pose[i].flatten().tolist(), shape=people.betas[i].tolist())
        smpl['trans'] = (people.transl[i] * torch.tensor([1.0, 1.0, 10.0])).tolist()
        camera = dict(focal=[lens[0, 0].item(), lens[1, 1].item()], princpt=lens[:2, 2].tolist())
        fits[str(70 + i)] = dict(smpl_param=smpl, cam_param=camera)
        annotations.append(dict(id=70 + i, image_id=int(i == 2), iscrowd=0))
    annotations.append(dict(id=99, image_id=0, iscrowd=1))
    images = [dict(id=i, file_name=f'a/{i + 1}.png', height=480, width=640) for i in range(2)]
    (tmp_path / 'na.json').write_text(json.dumps(fits))
    (tmp_path / 'coco.json').write_text(json.dumps(dict(images=images, annotations=annotations)))
    dataset = NeuralAnnotDataset(str(tmp_path / 'na.json'), coco_file=str(tmp_path / 'coco.json'), **pictures)
    samples = [dataset[i]['data_samples'] for i in range(2)]
    assert [sample.all_people for sample in samples] == [False, True]
    for sample in samples:
        found = sample.gt_instances
        assert not found.valid_3d.any() and found.smpl_valid.all()
        again = project(found.keypoints_3d, torch.from_numpy(sample.cam_intrinsics))
        torch.testing.assert_close(again[:, 0], found.keypoints[:, 0], atol=0.05, rtol=0)  # the pelvis exactly
        size = (found.keypoints.amax(1) - found.keypoints.amin(1)).max()
        assert (again - found.keypoints).norm(dim=-1).max() < 0.15 * size


def human_data(people, **change):
    pose = people.pose.numpy()
    data = dict(
        image_path=np.array(['a/1.png', 'a/2.png', 'a/1.png']),
        bbox_xywh=np.ones((3, 5)),
        smpl=dict(
            global_orient=pose[[0, 2, 1], 0],
            body_pose=pose[[0, 2, 1], 1:],
            betas=people.betas[[0, 2, 1]].numpy(),
            transl=people.transl[[0, 2, 1]].numpy(),
        ),
        meta=dict(gender=['female', 'male', 'male'], height=np.array([480] * 3), width=[640] * 3),
        misc=dict(focal_length=np.array([[500.0, 500.0]]), principal_point=np.array([[310.0, 250.0]])),
        __data_len__=3,
        __key_strict__=True,
    )
    return data | change


def test_human_data(people, pictures, tmp_path):
    np.savez(tmp_path / 'x.npz', **human_data(people))
    dataset = HumanDataset(str(tmp_path / 'x.npz'), **pictures)
    for index, rows in enumerate(([0, 1], [2])):
        people.check(dataset.get_data_info(index), rows)
        placed(dataset, index, people, rows)
    assert dataset.get_data_info(0)['gender'] == ['female', 'male']
    meta = dict(focal_length=[500.0] * 3, principal_point=[[310.0, 250.0]] * 3)
    np.savez(tmp_path / 'y.npz', **human_data(people, meta=meta, misc={}))
    people.check(HumanDataset(str(tmp_path / 'y.npz'), **pictures).get_data_info(1), [2])
    np.savez(tmp_path / 'z.npz', **human_data(people, misc={}))
    with pytest.raises(ValueError, match='z.npz: meta and misc hold no focal_length .* set cam_intrinsics'):
        HumanDataset(str(tmp_path / 'z.npz'), **pictures)
    given = HumanDataset(str(tmp_path / 'z.npz'), cam_intrinsics=CAMERA.tolist(), **pictures)
    people.check(given.get_data_info(0), [0, 1])
    smpl = human_data(people)['smpl']
    del smpl['transl']
    np.savez(tmp_path / 'z.npz', **human_data(people, smpl=smpl))
    with pytest.raises(ValueError, match='z.npz: smpl holds no transl'):
        HumanDataset(str(tmp_path / 'z.npz'), **pictures)


def test_people_without_numbers_and_behind_the_camera_are_left_out(people, pictures, tmp_path):
    annots = bedlam(people)
    annots['a/1.png']['shape'][0] = np.full(10, np.nan)
    annots['a/2.png']['trans_world'][0] = annots['a/2.png']['trans_world'][0] - 20 * TURN[2].numpy()
    dataset = BEDLAMDataset(save(tmp_path / 'x.npz', annots), **pictures)
    people.check(dataset.get_data_info(0), [1])
    samples = [dataset[i]['data_samples'] for i in range(2)]
    assert [sample.all_people for sample in samples] == [False, True]
    assert len(samples[1].gt_instances) == 0 and samples[1].gt_scale_map.data.sum() == 0


def test_broken_annotations(people, pictures, tmp_path):
    annots = bedlam(people)
    del annots['a/2.png']['cam_int']
    with pytest.raises(ValueError, match=r"x.npz: lacks 'cam_int' \(after a/1.png\); BEDLAMDataset does not know"):
        BEDLAMDataset(save(tmp_path / 'x.npz', annots), **pictures)
    annots = bedlam(people)
    annots['a/1.png']['cam_int'] = np.zeros((3, 3))
    with pytest.raises(ValueError, match='the camera of a/1.png is .* positive focal'):
        BEDLAMDataset(save(tmp_path / 'x.npz', annots), **pictures)
    with pytest.raises(ValueError, match='holds no pictures'):
        BEDLAMDataset(save(tmp_path / 'x.npz', {}), **pictures)
    np.savez(tmp_path / 'x.npz', other=1)
    with pytest.raises(ValueError, match='holds neither annots, .* nor imgname'):
        BEDLAMDataset(str(tmp_path / 'x.npz'), **pictures)
    save(tmp_path / 'x.npz', {'a': print})
    with pytest.raises(ValueError, match='x.npz: was not read .it names builtins.print'):
        BEDLAMDataset(str(tmp_path / 'x.npz'), **pictures)
    (tmp_path / 'x.npz').write_bytes(b'no zip')
    with pytest.raises(ValueError, match='x.npz: is no .npz file'):
        BEDLAMDataset(str(tmp_path / 'x.npz'), **pictures)
    with pytest.raises(FileNotFoundError, match='no SMPL in data/body_models/smpl'):
        BEDLAMDataset(str(tmp_path / 'x.npz'))


def test_scale_maps_of_another_body_are_refused(people, pictures, tmp_path, smpl_arrays):
    np.savez(tmp_path / 'SMPL_NEUTRAL.npz', **smpl_arrays)
    smpl = dict(type='SMPL', model_path=str(tmp_path))
    dataset = BEDLAMDataset(save(tmp_path / 'x.npz', bedlam(people)), **dict(pictures, body_model=smpl))
    with pytest.raises(ValueError, match='MakeScaleMap.body_model=FreeBody puts joints .* body_model of the dataset'):
        dataset[0]
