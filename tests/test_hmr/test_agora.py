"""AGORA's own tables, one of which pandas 1.5 wrote, and fits that are tensors of torch."""

import base64
import pickle
import sys
import types
import zlib

import cv2
import numpy as np
import pytest
import torch

from mmtoken.hmr.data import AGORADataset
from mmtoken.unpickle.tables import read_table, read_tensors

#: What ``pickle.dumps(DataFrame([…]), protocol=5)`` gave, compressed: two pictures, the first of an adult, of a kid and
#: of somebody who is not valid.
TABLE = (
    b'c-n1LUr!T35bu>1q!dJ=ATK^)EH9-X4?Y-dz)19BB|NCbkj>t8@Al;WWp7VJCBX-<P4>-'
    b'|&*4YtNAa8J?Dk6k*h{<fo7tJ!nc3O7DE^9yIsJ({F%DZesoD`ERfpk#NHO~ybNoW%pK|@XJeL(wK!MAocrdK)g`BVu`$;vxA$AE%q$uzDk$v*'
    b'I$Ah_8&Mc7cS;@deirXj+W6wVE39^)pQeFzvAU^AP2S}J_OEHHW76n%7IND?7x}F>Uc1GFU-'
    b'7$W9j9<Iqr6}t2fVTKqtg;n(=ZWmJf5<~wF{gy_R5luoSAXHti<#rnG7Dz@N(y67a!?butkm<l7eY$K#P@9F#w?n%rlGu;d9~6xac?NKAO!==7'
    b'>1+Eh!Hyq6V6hbgDG7UGf*(S3664?a?h}2FCfD#siWzV$iEp0^V?XM&mhdsv8=#vzy9^N&UOf}t_I{-?sxHp##pPye=-'
    b'eH&w!U3s5(Qc{TluclxiRMydHKlXKNEwyW5$nSi~-ZG7!R1tyYagSBe!7VP?}$-WO!!ptgl-'
    b'n|kM1wPb*O=+<e6Xh3(s9o<n!iuojnedO|u&1z(QlmmWC^K=(f2g1i%s0=&p4(xP#VUI_<Uw_w~m|<I6wK0LJ(}l|Q!Dz$fjEv?pI+f8vMrSix'
    b'%II81%Nd>T_p7>iZ|LIb@`UazT}ryjZ(8q4*XsW0yKRxrB&k|Bf%=tDNKVm9B~$I!6vaN)@4f}IK+=cwk!nS{-'
    b'fzSOU^Y~X3FAGyg(m!uq?l^rQz>S=z&*g6!rj27X;A^dQI9lx1gxfA0w=*#DZ3oSV1U$(fR_`m1yd-pZ9h%CC{!Mkx7Y`%DzPYpYBV*{EA_HIh'
    b'}B8CF&w%oxkE*V5~92T&y-'
    b'`v;cbaR!lM`pr2qk7XrDwaF!5j}Kp3h3{lSO=!m+Lh^iL6U4kPaz5<!lST@6>T??<NzYNavE0?Y~Wu|;6swUgAU{sW>|!x8'
)
FREE = dict(type='FreeBody')


@pytest.fixture
def folder(tmp_path, body):
    """Table, fits and pictures in the places of AGORA's archives; the parameters of the fits by number."""
    (tmp_path / 'train_0.pkl').write_bytes(zlib.decompress(base64.b85decode(TABLE)))
    (tmp_path / 'smpl_gt').mkdir()
    for i in (1, 2, 3):
        fit = dict(
            root_pose=torch.nn.Parameter(0.3 * torch.randn(1, 3)),
            body_pose=0.2 * torch.randn(2, 69)[1:],  # a view of a larger storage
            betas=torch.randn(1, 11),
            translation=0.3 * torch.randn(1, 3),
            gender='neutral',
        )
        with open(tmp_path / f'smpl_gt/{i}.pkl', 'wb') as file:
            pickle.dump(fit, file)
    (tmp_path / 'images/train_0').mkdir(parents=True)
    cv2.imwrite(str(tmp_path / 'images/train_0/ag_street_00_1280x720.png'), np.zeros((720, 1280, 3), np.uint8))
    cv2.imwrite(str(tmp_path / 'images/ag_archviz_cam02_01.png'), np.zeros((2160, 3840, 3), np.uint8))
    return tmp_path


def build(folder, ann_file='train_0.pkl', **kwargs):
    pipeline = [dict(type='mmtoken.LoadPeople'), dict(type='mmtoken.PackPeople')]
    prefix = dict(img=str(folder / 'images'))
    return AGORADataset(str(folder / ann_file), data_prefix=prefix, body_model=FREE, pipeline=pipeline, **kwargs)


def seen(folder, body, number, place, yaw, camera, camera_yaw, pitch):
    """Joints before the camera ``(45, 3)``, step by step as AGORA's evaluation goes; places in cm."""
    fit = read_tensors(folder / f'smpl_gt/{number}.pkl')
    pose = torch.tensor(np.append(fit['root_pose'], fit['body_pose'])).view(1, 24, 3)
    joints = body(pose, torch.tensor(fit['betas'][:, :10]), torch.tensor(fit['translation'])).joints[0].double().numpy()

    def turned(points, *degrees):
        return points @ cv2.Rodrigues(np.radians(degrees))[0].T

    def axes(cm):  # Unreal: forward, right, up
        return np.array([cm[1], -cm[2], cm[0]]) / 100

    joints = turned(joints * [1, -1, -1], 0, yaw - 90, 0) + axes(place)
    return turned(turned(joints - camera, 0, -camera_yaw, 0), pitch, 0, 0)


def test_people_stand_where_the_evaluation_sees_them(folder, body):
    dataset = build(folder)
    assert len(dataset) == 2
    street = np.array([20, -5, 10]) / 100 + [0, -1.7, 0]
    hall = np.array([170, -265, -490]) / 100
    for index, size, focal, args in (
        (0, (720, 1280), 28, (1, (443, 270, 0), 75, street, 30, 0)),
        (1, (2160, 3840), 18, (3, (-140, -180, 0), -20, hall, -45, 30)),
    ):
        sample = dataset[index]['data_samples']
        people, joints = sample.gt_instances, seen(folder, body, *args)
        assert len(people) == 1 and sample.img_shape == size and joints[0, 2] > 2
        np.testing.assert_allclose(people.keypoints_3d[0], joints, atol=1e-4)
        pixel = focal / 36 * size[1]
        expected = pixel * joints[:, :2] / joints[:, 2:] + [size[1] / 2, size[0] / 2]
        np.testing.assert_allclose(people.keypoints[0], expected, atol=0.05)
        assert sample.all_people == bool(index)  # there is a kid in the first
    assert len(build(folder, '.')) == 2 and len(build(folder, fits=str(folder))) == 2


def test_pictures_of_which_nobody_is_known_stay(folder, monkeypatch):
    def nobody(path):
        return read_table(path) | dict(isValid=[[False] * 3, [False]])

    monkeypatch.setattr('mmtoken.hmr.data.readers.agora.read_table', nobody)
    assert [len(sample['data_samples'].gt_instances) for sample in build(folder)] == [0, 0]


def test_other_files_are_one_line(folder):
    (folder / 'images/ag_archviz_cam02_01.png').rename(folder / 'other.png')
    with pytest.raises(ValueError, match='the picture ag_archviz_cam02_01.png is nowhere in .*data_prefix.img'):
        len(build(folder))
    (folder / 'other.png').rename(folder / 'images/ag_archviz_cam02_01.png')
    with open(folder / 'smpl_gt/1.pkl', 'wb') as file:
        pickle.dump(dict(global_orient=torch.zeros(1, 3), body_pose=torch.zeros(1, 63), transl=torch.zeros(1, 3)), file)
    with pytest.raises(ValueError, match='1.pkl: a pose of 66 numbers is none of SMPL'):
        len(build(folder))
    for content, words in (
        (pickle.dumps(dict(X=[1])), 'holds no table of pandas but dict'),
        (pickle.dumps(print), 'it names builtins.print'),
        (b'text', 'was not read'),
    ):
        (folder / 'x.pkl').write_bytes(content)
        with pytest.raises(ValueError, match=f'x.pkl: .*{words}'):
            len(build(folder, 'x.pkl'))


def test_tensors_beyond_their_storage_are_refused(tmp_path):
    content = pickle.dumps(torch.arange(4.0), protocol=2)
    start = content.rindex(b'K\x00K\x04\x85')  # offset 0, size (4,)
    (tmp_path / 'x.pkl').write_bytes(content[:start] + b'K\x00K\x09\x85' + content[start + 5 :])
    with pytest.raises(ValueError, match='a tensor that is larger than its storage'):
        read_tensors(tmp_path / 'x.pkl')
    (tmp_path / 'x.pkl').write_bytes(content)
    np.testing.assert_array_equal(read_tensors(tmp_path / 'x.pkl'), [0, 1, 2, 3])


def test_tables_of_an_old_pandas_have_a_state(tmp_path, monkeypatch):
    """Before 1.3 the manager of a table was given its axes and blocks as a state; here classes that only write."""

    def made(module, name):
        holder = types.ModuleType(module)
        kind = type(name, (), dict(__module__=module, __getstate__=lambda self: self.state))
        setattr(holder, name, kind)
        monkeypatch.setitem(sys.modules, module, holder)
        return kind()

    for parent in ('pandas', 'pandas.core', 'pandas.core.internals'):
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    manager = made('pandas.core.internals.managers', 'BlockManager')
    texts = np.array([['a.png', 'b.png'], [[1.0], [2.0, 3.0]]], dtype=object, order='F')
    blocks = [dict(values=np.array([[1.5, 2.5]]), mgr_locs=np.array([1])), dict(values=texts, mgr_locs=slice(0, 3, 2))]
    axes = [['imgPath', 'camX', 'X'], [0, 1]]
    manager.state = (axes, [], [], {'0.14.1': dict(axes=axes, blocks=blocks)})
    frame = made('pandas.core.frame', 'DataFrame')
    frame.state = dict(_data=manager, _typ='dataframe')
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(frame, protocol=4))
    assert read_table(tmp_path / 'x.pkl') == dict(camX=[1.5, 2.5], imgPath=['a.png', 'b.png'], X=[[1.0], [2.0, 3.0]])
