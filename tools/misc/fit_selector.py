"""Fit the selector of MixedScale: a linear head that says from coarse tokens which cells need fine ones.

    python tools/misc/fit_selector.py CONFIG CHECKPOINT --out FITTED.pth [--num N] [--ridge R]

CONFIG has ``selector=dict(type='coarse', …)``; CHECKPOINT is that of the dense model. The head is fitted by least
squares to the square root of the part of each cell's pixels that have another label than most, on the training
pictures as the test pipeline shows them. FITTED.pth is CHECKPOINT with the head in it.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS
from torch import Tensor, nn

import mmtoken  # noqa: F401  before any config is read
from mmtoken.analysis.loading import build_model, read_config, spread_out
from mmtoken.engine.checkpoints import read_weights
from mmtoken.engine.configs import check_datasets, name_bad_files
from mmtoken.engine.errors import UserError, one_line_errors, user_errors
from mmtoken.engine.files import check_output, replacing
from mmtoken.engine.flags import check_positive
from mmtoken.methods.mixed_scale import CoarseSelector, MixedScale, fit_linear
from mmtoken.methods.mixed_scale.selectors import impurity


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of a segmentor with MixedScale and its coarse selector')
    parser.add_argument('checkpoint', help='weights of the dense model')
    parser.add_argument('--out', required=True, type=Path, help='checkpoint to write')
    parser.add_argument('--num', type=int, default=100, help='training pictures, spread over the set (100)')
    parser.add_argument('--ridge', type=float, default=1e-3, help='weight of the squared norm, a cell (1e-3)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    args = parser.parse_args()
    check_positive(args, 'num', 'ridge')
    return args


def find(model: nn.Module) -> tuple[str, MixedScale]:
    """Returns the reducer to fit, and its name in the model."""
    for name, module in model.named_modules():
        if isinstance(module, MixedScale) and isinstance(module.selector, CoarseSelector):
            return name, module
    raise UserError(
        "CONFIG: no MixedScale with selector=dict(type='coarse', …) to fit; set it in model.backbone.reducer"
    )


def training_set(cfg: Config):
    """Returns the training pictures as the test pipeline shows them."""
    check_datasets(cfg, ['train'])
    dataset = cfg.train_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    dataset.pipeline = cfg.test_dataloader.dataset.pipeline
    name_bad_files(cfg)
    with user_errors('train_dataloader.dataset cannot be built'):
        return DATASETS.build(dataset)


@torch.no_grad()
def collect(model: nn.Module, reducer: MixedScale, dataset, num: int, device: str) -> tuple[Tensor, Tensor]:
    """Returns coarse tokens as the head sees them ``(N, C)`` and what it is to say of each ``(N,)``."""
    features, wanted = [], []
    for i in spread_out(range(len(dataset)), num):
        data = model.data_preprocessor(pseudo_collate([dataset[i]]), False)
        images, labels = data['inputs'].to(device), data['data_samples'][0].gt_sem_seg.data[None].float()
        labels = F.interpolate(labels, images.shape[-2:], mode='nearest').long()[:, 0].to(device)
        state = model.backbone.forward_tokens(images)[1]
        seen = state.aux[reducer]
        features.append(seen.features[0].float().cpu())
        wanted.append(impurity(labels, seen.cells, seen.patch)[0].sqrt().cpu())
        print(f'picture {len(features)}: {len(wanted[-1])} cells', flush=True)
    return torch.cat(features), torch.cat(wanted)


@one_line_errors()
def main():
    args = parse_args()
    check_output('--out', args.out)
    cfg = read_config(args.config)
    model = build_model(cfg, training=True)
    name, reducer = find(model)
    weights = read_weights(args.checkpoint)
    missing = [key for key in model.load_state_dict(weights, strict=False).missing_keys if not key.startswith(name)]
    if missing:
        raise UserError(f'checkpoint {args.checkpoint} lacks {missing[0]}; give that of the dense model')
    model.eval()
    features, wanted = collect(model.to(args.device), reducer, training_set(cfg), args.num, args.device)
    weight, bias = fit_linear(features, wanted, args.ridge)
    weights[f'{name}.selector.head.weight'], weights[f'{name}.selector.head.bias'] = weight[None], bias[None]
    with replacing(args.out) as part:
        torch.save(dict(state_dict=dict(weights), meta={}), part)
    said = features @ weight + bias
    agreement = torch.corrcoef(torch.stack([said, wanted]))[0, 1]
    print(f'{args.out}: fitted to {len(wanted)} cells, correlation {agreement:.3f}')


if __name__ == '__main__':
    main()
