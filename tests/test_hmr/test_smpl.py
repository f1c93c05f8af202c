"""SMPL's files: read without chumpy and scipy's classes, refused if they are others or mean harm."""

import os
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from scipy.sparse import csc_matrix

from mmtoken.hmr.body import SMPL
from mmtoken.registry import BODY_MODELS


@pytest.fixture
def chumpy(monkeypatch):
    """What SMPL's pickles need of chumpy: two classes that hold their state."""
    monkeypatch.setitem(sys.modules, 'chumpy', types.ModuleType('chumpy'))
    for name, kind in (('ch', 'Ch'), ('reordering', 'Select')):
        module = types.ModuleType(f'chumpy.{name}')
        setattr(module, kind, type(kind, (), dict(__module__=module.__name__)))
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return lambda kind, **state: _object(sys.modules[f'chumpy.{kind}'], dict(ch='Ch', reordering='Select')[kind], state)


def _object(module, kind, state):
    made = getattr(module, kind)()
    made.__dict__.update(state)
    return made


def write(path, **arrays):
    path.write_bytes(pickle.dumps(arrays, protocol=2))
    return path


@pytest.fixture
def npz(smpl_arrays, tmp_path):
    np.savez(tmp_path / 'SMPL_NEUTRAL.npz', **smpl_arrays)
    return tmp_path / 'SMPL_NEUTRAL.npz'


def same(a, b):
    for name, tensor in a.named_buffers():
        assert torch.equal(tensor, dict(b.named_buffers())[name]), name


def test_npz_by_its_folder_and_its_name(npz, smpl_arrays):
    body = BODY_MODELS.build(dict(type='SMPL', model_path=str(npz.parent)))
    same(body, SMPL(str(npz)))
    out = body(torch.zeros(2, 24, 3), torch.zeros(2, 10))
    assert out.vertices.shape == (2, 6890, 3) and out.joints.shape == (2, 45, 3)
    np.testing.assert_allclose(out.vertices[0], smpl_arrays['v_template'], atol=1e-5)
    assert SMPL(str(npz), num_betas=4)(torch.zeros(1, 24, 3), torch.zeros(1, 4)).vertices.shape[1] == 6890


def test_pickle_as_the_official_one(npz, smpl_arrays, chumpy, tmp_path):
    """Arrays of chumpy, a choice among another's values, a sparse regressor, and what nobody reads."""
    arrays = dict(smpl_arrays)
    values = arrays['shapedirs']
    order = np.random.default_rng(1).permutation(values.size)
    shuffled = np.empty(values.size)
    shuffled[order] = values.ravel()
    arrays['shapedirs'] = chumpy('reordering', a=chumpy('ch', x=shuffled), idxs=order, preferred_shape=values.shape)
    arrays['posedirs'] = chumpy('ch', x=arrays['posedirs'], name='posedirs')
    arrays['J_regressor'] = csc_matrix(arrays['J_regressor'])
    path = write(tmp_path / 'SMPL_MALE.pkl', **arrays, bs_style='lbs', vert_sym_idxs=np.arange(6890), info=dict(a=[1]))
    for name in ('chumpy', 'chumpy.ch', 'chumpy.reordering'):
        del sys.modules[name]
    same(SMPL(str(path)), SMPL(str(npz)))
    same(SMPL(str(tmp_path), gender='male'), SMPL(str(npz)))


def test_pickle_of_python_2(smpl_arrays, npz, tmp_path):
    """There the bytes of an array are text, and modules have other names."""

    class Old(pickle._Pickler):
        dispatch = dict(pickle._Pickler.dispatch)

        def save_bytes(self, data):
            self.write(b'T' + len(data).to_bytes(4, 'little') + data)  # BINSTRING

        dispatch[bytes] = save_bytes

    with open(tmp_path / 'old.pkl', 'wb') as file:
        Old(file, protocol=2).dump(smpl_arrays)
    same(SMPL(str(tmp_path / 'old.pkl')), SMPL(str(npz)))


def test_missing_says_where_to_put_it(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r'no SMPL in .*nowhere: register at .* put SMPL_FEMALE.pkl there .*FreeBody'
    ):
        SMPL(str(tmp_path / 'nowhere'), gender='female')
    with pytest.raises(ValueError, match="did you mean 'female'"):
        SMPL(gender='femal')


class Harm:
    def __reduce__(self):
        return os.mkdir, ('harm',)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (pickle.dumps(dict(v_template=Harm())), r'it names posix.mkdir'),
        (pickle.dumps(dict(v_template=print)), 'it names builtins.print'),
        (
            b'cnumpy.core.multiarray\n_reconstruct\n}X\x04\x00\x00\x00nameX\x01\x00\x00\x00xsb.',
            'the state of a function',
        ),
        (pickle.dumps(np.array([Harm()], dtype=object)), 'it names'),
        (pickle.dumps(np.arange(3)), 'holds no body model but ndarray'),
        (b'not a pickle', 'was not read'),
        (b'', 'was not read'),
        (pickle.dumps(dict(v_template=np.zeros(3)))[:-20], 'was not read'),
        (pickle.dumps(dict(v_template=np.zeros(3))), 'is no SMPL file, it lacks shapedirs'),
    ],
)
def test_other_pickles_are_refused(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'bad.pkl').write_bytes(content)
    with pytest.raises(ValueError, match=rf'bad.pkl: .*({message})'):
        SMPL('bad.pkl')
    assert not (tmp_path / 'harm').exists()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(weights=np.zeros((10475, 55))), '10475 vertices and 55 joints, which is SMPL-X; SMPL has 6890 and 24'),
        (dict(weights=np.zeros((6890, 52))), 'which is SMPL'),
        (dict(J_regressor=np.zeros((17, 6890))), r'J_regressor is \(17, 6890\)'),
        (dict(kintree_table=np.zeros((2, 24))), 'its skeleton is not that of SMPL'),
        (dict(v_template=np.full((6890, 3), np.nan)), 'v_template holds values that are no finite numbers'),
        (dict(v_template=np.full((6890, 3), None)), 'not read as SMPL'),
        (dict(shapedirs=np.zeros((6890, 3, 5))), r'num_betas=10 must be an integer in \[1, 5\]'),
    ],
)
def test_other_models_are_refused(change, message, smpl_arrays, tmp_path):
    np.savez(tmp_path / 'other.npz', **dict(smpl_arrays, **change))
    with pytest.raises(ValueError, match=rf'other.npz.*{message}|{message}'):
        SMPL(str(tmp_path / 'other.npz'))


def test_mean_parameters(npz, tmp_path):
    """As SPIN's file holds them: two columns of each rotation, interleaved."""
    pose = np.tile([1.0, 0, 0, -1, 0, 0], (24, 1)) + np.array([0, 0, 0, 0, 0, 0])
    pose[:, 3], pose[:, 5] = 0, 1  # second column z: a quarter turn about x
    np.savez(tmp_path / 'mean.npz', pose=pose.ravel(), shape=np.arange(10.0), cam=np.zeros(3))
    body = SMPL(str(npz), mean_params=str(tmp_path / 'mean.npz'))
    torch.testing.assert_close(
        body.mean_pose, torch.tensor([[np.pi / 2, 0, 0]]).float().expand(24, 3), atol=1e-5, rtol=0
    )
    assert body.mean_shape.tolist() == list(range(10))
