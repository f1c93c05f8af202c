"""SMPL from the user's own file."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmtoken.core.arguments import check_choice
from mmtoken.hmr.geometry import matrix_to_axis_angle, rotation_6d_to_matrix
from mmtoken.registry import BODY_MODELS
from mmtoken.unpickle.arrays import read_pickle

from .joints import PARENTS
from .skinned import SkinnedBody

#: Vertices of SMPL that people use as joints 24 to 44: face, feet, finger tips, in the order of ``JOINT_NAMES``.
LANDMARKS: tuple[int, ...] = (332, 6260, 2800, 4071, 583, 3216, 3226, 3387, 6617, 6624, 6787)
LANDMARKS += (2746, 2319, 2445, 2556, 2673, 6191, 5782, 5905, 6016, 6133)
#: What the site calls the genders in the names of its files.
OFFICIAL = dict(neutral='neutral', male='m', female='f')
NEEDED = ('v_template', 'shapedirs', 'posedirs', 'J_regressor', 'weights', 'kintree_table', 'f')


@BODY_MODELS.register_module()
class SMPL(SkinnedBody):
    """SMPL (Loper et al. 2015), read without chumpy from the file that its makers give to registered users.

    Args:
        model_path (str): The file, ``.npz`` or ``.pkl``, or the folder that holds ``SMPL_NEUTRAL.pkl`` or the like.
            Defaults to ``'data/body_models/smpl'``.
        gender (str): ``'neutral'``, ``'male'`` or ``'female'``, which chooses the file in a folder. Defaults to
            ``'neutral'``.
        num_betas (int): Coefficients of the shape space. Defaults to 10.
        mean_params (str, optional): ``smpl_mean_params.npz`` of SPIN, which gives ``mean_pose`` and ``mean_shape``.
            None starts from a relaxed pose of our own.

    Raises:
        FileNotFoundError: If there is no such file; says where to put it.
        ValueError: If it holds another body model, or anything but arrays.
    """

    def __init__(
        self,
        model_path: str = 'data/body_models/smpl',
        gender: str = 'neutral',
        num_betas: int = 10,
        mean_params: str | None = None,
    ):
        check_choice('gender', gender, tuple(OFFICIAL))
        path = find(model_path, gender)
        data = read(path)
        super().__init__(dict(data, landmarks=LANDMARKS), num_betas)
        if mean_params is not None:
            with np.load(mean_params) as mean:
                pose = torch.from_numpy(mean['pose'].astype(np.float32)).view(24, 6)
                self.mean_pose.copy_(matrix_to_axis_angle(rotation_6d_to_matrix(pose)))
                self.mean_shape.copy_(torch.from_numpy(mean['shape'].astype(np.float32))[:num_betas])


def find(model_path: str, gender: str = 'neutral') -> Path:
    """Returns the file of a body model, given itself or its folder.

    Raises:
        FileNotFoundError: If there is none; says where to put it.
    """
    path = Path(model_path)
    if path.is_file():
        return path
    names = [f'SMPL_{gender.upper()}.npz', f'SMPL_{gender.upper()}.pkl']
    names += [f'basic{m}odel_{OFFICIAL[gender]}_lbs_10_207_0_v1.{n}.0.pkl' for m in 'mM' for n in '10']
    found = [path / name for name in names if (path / name).is_file()]
    if not found:
        raise FileNotFoundError(
            f'no SMPL in {path}: register at https://smpl.is.tue.mpg.de, put {names[1]} there or set model_path; '
            "or use body_model=dict(type='mmtoken.FreeBody'), which needs no file"
        )
    return found[0]


def read(path: Path) -> dict[str, Any]:
    """Reads SMPL's arrays from ``.npz`` or ``.pkl``.

    Raises:
        ValueError: If the file is broken, or holds another kind of model.
    """
    if path.suffix == '.npz':
        try:
            with np.load(path) as data:  # which refuses pickled objects
                found = {key: data[key] for key in NEEDED if key in data.files}
        except Exception as error:
            raise ValueError(f'{path}: not read as SMPL ({str(error).splitlines()[0]}); save plain arrays') from error
    else:
        found = read_pickle(path)
        if not isinstance(found, dict):
            raise ValueError(f'{path}: holds no body model but {type(found).__name__}; SMPL files hold named arrays')
    missing = [key for key in NEEDED if key not in found]
    if missing:
        raise ValueError(f'{path}: is no SMPL file, it lacks {missing[0]}; it must hold {", ".join(NEEDED)}')
    data = {key: np.asarray(found[key]) for key in NEEDED}
    check(path, data)
    return data


def check(path: Path, data: dict[str, np.ndarray]) -> None:
    """Checks that arrays are those of SMPL.

    Raises:
        ValueError: If they are not; says what is in the file instead.
    """
    vertices, joints = data['weights'].shape if data['weights'].ndim == 2 else (0, 0)
    if (vertices, joints) != (6890, 24):
        kind = {(6890, 52): ', which is SMPL+H', (10475, 55): ', which is SMPL-X'}.get((vertices, joints), '')
        raise ValueError(f'{path}: has {vertices} vertices and {joints} joints{kind}; SMPL has 6890 and 24')
    shapes = dict(v_template=(6890, 3), posedirs=(6890, 3, 207), J_regressor=(24, 6890), kintree_table=(2, 24))
    for key, shape in shapes.items():
        if data[key].shape != shape:
            raise ValueError(f'{path}: {key} is {data[key].shape}, that of SMPL is {shape}; get the file anew')
    if data['shapedirs'].ndim != 3 or data['shapedirs'].shape[:2] != (6890, 3):
        raise ValueError(f'{path}: shapedirs is {data["shapedirs"].shape}, that of SMPL is (6890, 3, 10 or more)')
    if data['kintree_table'][0, 1:].astype(np.int64).tolist() != list(PARENTS[1:]):
        raise ValueError(f'{path}: its skeleton is not that of SMPL (kintree_table differs)')
    for key, value in data.items():
        if value.dtype.kind not in 'fiu' or not np.isfinite(value).all():
            raise ValueError(f'{path}: {key} holds values that are no finite numbers; get the file anew')
