"""Latency of every method on a GPU beside smaller pictures, for three backbones and four sizes, in one run.

    python tools/misc/gpu_report.py --out DIR [--minutes 4] [--device cuda] [--dry-run]
    python tools/misc/gpu_report.py --macs DIR/gpu_report.json
    python tools/misc/gpu_report.py --table DIR/gpu_report.json

Timed is DINOv2 (ViT-S, B, L; random weights, which cost the same) at 1024 to 6720 tokens in bf16, weights and
activations, on made-up pictures: with CUDA graphs at batch 1 and 8, and without at batch 1; and ViT-S at 3780 tokens in
other precisions, with attention that is not fused, with ``torch.compile`` and with early exits. The models of a section
run in turns, and its rows are written to ``DIR/gpu_report.json`` when it is done, the most important sections first:
what ``--minutes`` or a hand cuts off loses the rest alone. MACs are counted last, without the channels that carry a
bias on a GPU; ``--macs`` counts, on any machine, what a file lacks. ``--dry-run`` is a rehearsal on the CPU with a toy.
``--table`` prints the file as Markdown.
"""

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from datetime import datetime, timezone
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mmtoken  # noqa: F401  before any upstream package
from mmtoken.analysis import MacReport, environment, interleave, segmentor_macs
from mmtoken.analysis.benchmark import Bench
from mmtoken.analysis.report import markdown
from mmtoken.engine.devices import check_device
from mmtoken.engine.errors import UserError, one_line_errors
from mmtoken.engine.files import check_output, read_json, read_rows, write_text
from mmtoken.engine.flags import check_apart, check_positive
from mmtoken.hosts.dinov2 import TokenDINOv2

ROOT = Path(__file__).resolve().parents[2]
PATCH = 14
#: Patches down and across: 1024, 1728, 3780 and 6720 tokens.
GRIDS = [(60, 63), (80, 84), (36, 48), (32, 32)]
MAIN = GRIDS[0]
ARCHS = dict(small='vit-s', base='vit-b', large='vit-l')
#: Of the rehearsal.
TOY = dict(embed_dims=32, num_layers=6, num_heads=2)
#: Sides of the rivals' pictures, as parts of the whole.
SMALLER = (0.8, 0.65, 0.5)
#: Seconds that one section may sample; between FEWEST and MOST rounds each.
SECONDS, FEWEST, MOST = 2.5, 10, 40


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, help='folder for gpu_report.json')
    parser.add_argument('--minutes', type=float, help='begin no section after so many (4)')
    parser.add_argument('--device', help='where to run it (cuda)')
    parser.add_argument('--dry-run', action='store_true', help='a toy on the CPU, to see that all sections run')
    parser.add_argument('--table', type=Path, metavar='JSON', help='print the tables of a file, and time nothing')
    parser.add_argument('--macs', type=Path, metavar='JSON', help='count what a file lacks, and time nothing')
    args = parser.parse_args()
    if sum(value is not None for value in (args.out, args.table, args.macs)) != 1:
        raise UserError('give one of --out, --table and --macs')
    check_positive(args, 'minutes')
    for flag in ('minutes', 'device', 'dry_run'):
        check_apart(args, flag, 'table', 'macs', why='nothing is timed')
    check_apart(args, 'device', 'dry_run', why='it runs on the CPU')
    args.minutes, args.device = args.minutes or 4, args.device or 'cuda'
    return args


# ---------------------------------------------------------------------- models
def methods(depth: int) -> dict[str, dict | list | None]:
    """Reducers by name for a backbone of so many blocks; merging is spread over the first two thirds of them."""
    first, tome = list(range(depth * 2 // 3)), 'mmtoken.ToMe'
    return {
        'dense': None,
        'tome-30': dict(type=tome, keep=0.3, layers=first),
        'mixed-60': dict(type='mmtoken.MixedScale', fine=0.6),
        'mixed-65-tome-50': [dict(type='mmtoken.MixedScale', fine=0.65), dict(type=tome, keep=0.5, layers=first)],
        'expedit-50': dict(type='mmtoken.Expedit', layer=depth // 2, grid=0.5),
        'avgpool-50': dict(type='mmtoken.AvgPool', layer=depth // 2, grid=0.5),
    }


class Smaller(nn.Module):
    """A model on a smaller picture, which is cut out and not resized: a data pipeline resizes anyway."""

    def __init__(self, model: nn.Module, part: float):
        super().__init__()
        self.model, self.part = model, part

    def forward(self, images: Tensor):
        h, w = (max(1, round(side / PATCH * self.part)) * PATCH for side in images.shape[2:])
        return self.model(images[..., :h, :w].contiguous())


class Unfused(nn.Module):
    """A model whose attention makes the matrix of all scores, as stock mmseg's does."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor):
        with patch.object(F, 'scaled_dot_product_attention', self.attention):
            return self.model(images)

    @staticmethod
    def attention(q, k, v, attn_mask=None, dropout_p=0.0, scale=None):
        return ((q * scale) @ k.transpose(-1, -2)).softmax(-1) @ v


class Cast(nn.Module):
    """A model that is fed and run in another precision, or under autocast with fp32 weights."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, autocast: bool = False):
        super().__init__()
        self.model, self.dtype, self.autocast = model, dtype, autocast

    def forward(self, images: Tensor):
        with torch.autocast(images.device.type, torch.bfloat16) if self.autocast else nullcontext():
            return self.model(images.to(self.dtype))


class Zoo:
    """Models of one architecture that share their weights; on the meta device they serve to count MACs."""

    def __init__(self, arch: str | dict, device: str = 'meta', dtype: torch.dtype = torch.float32):
        self.arch, self.dtype = arch, dtype
        torch.manual_seed(0)
        with torch.device(device):
            self.dense = TokenDINOv2(arch, layer_scale=0.1)
            self.dense.init_weights()
        self.dense.to(dtype).eval()
        self.depth = len(self.dense.blocks)

    def build(self, reducer=None) -> nn.Module:
        """Returns a model with a reducer."""
        with torch.device('meta'):
            model = TokenDINOv2(self.arch, reducer=reducer).eval()
        model.load_state_dict(self.dense.state_dict(), assign=True)
        return model.requires_grad_(False)

    def static(self) -> dict[str, nn.Module]:
        """All static methods and the smaller pictures, dense first."""
        found = {name: self.build(reducer) for name, reducer in methods(self.depth).items()}
        return found | {f'dense-x{part}': Smaller(self.build(), part) for part in SMALLER}

    def few(self) -> dict[str, nn.Module]:
        """What is compiled, which takes its time."""
        return {name: self.build(methods(self.depth)[name]) for name in ('dense', 'tome-30')}

    def precisions(self) -> dict[str, nn.Module]:
        """Dense, fused in bf16 and otherwise."""
        wide, full = torch.float32, self.build()
        full.load_state_dict({key: value.to(wide) for key, value in full.state_dict().items()}, assign=True)
        return {
            'dense': self.build(),
            'unfused': Unfused(self.build()),
            'autocast': Cast(full, wide, autocast=self.dtype != wide),
            'fp32': Cast(full, wide),
            'unfused-fp32': Unfused(Cast(full, wide)),
        }


def exits(zoo: Zoo, images: Tensor, tries: int) -> dict[str, nn.Module]:
    """DToP and DoViT in a segmentor, their threshold set so that half of the tokens run through the last block."""
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope('mmseg')
    dims, depth = zoo.dense.embed_dims, zoo.depth
    where = (depth // 3 - 1, depth * 2 // 3 - 1)
    head = dict(
        type='mmseg.FCNHead', in_channels=dims, channels=dims, num_convs=0, concat_input=False, num_classes=19,
        norm_cfg=None, in_index=2,
    )  # fmt: skip

    def build(reducer=None) -> nn.Module:
        backbone = dict(type='mmtoken.TokenDINOv2', arch=zoo.arch, out_indices=(*where, depth - 1), reducer=reducer)
        model = dict(
            type='mmtoken.TokenEncoderDecoder', backbone=backbone, decode_head=head, train_cfg=None,
            test_cfg=dict(mode='whole'),
        )  # fmt: skip
        torch.manual_seed(0)
        model = MODELS.build(model).to(images.device)
        model.backbone.load_state_dict(zoo.dense.state_dict(), strict=False)
        for name, parameter in model.named_parameters():
            if 'conv_seg.weight' in name:
                nn.init.normal_(parameter, std=0.05)
        return model.to(zoo.dtype).eval()

    found = {'dense': build()}
    for name in ('DToP', 'DoViT'):
        heads = [dict(head, in_index=i) for i in (0, 1)]
        low, high = 0.0, 1.0
        for _ in range(tries):
            threshold = (low + high) / 2
            model = build(dict(type=f'mmtoken.{name}', heads=heads, exits=where, threshold=threshold))
            counts = model.backbone.token_counts(images)
            low, high = (threshold, high) if counts[-1] < counts[0] / 2 else (low, threshold)
        found[f'{name.lower()}-half'] = model
    return found


def pictures(number: int, shape: tuple[int, int], device: str) -> Tensor:
    """Made-up pictures ``(N, 3, H, W)``: soft colours, and boxes with sharp edges and some texture."""
    draw = torch.Generator().manual_seed(0)
    images = F.interpolate(torch.randn(number, 3, 6, 6, generator=draw), shape, mode='bicubic')
    for image in images:
        for _ in range(24):
            y, x, h, w = (torch.rand(4, generator=draw) * torch.tensor([*shape, shape[0] / 4, shape[1] / 4])).int()
            box = image[:, y : y + h + 8, x : x + w + 8]
            box.copy_(torch.randn(3, 1, 1, generator=draw) + 0.3 * torch.randn(box.shape, generator=draw))
    return images.to(device)


# ---------------------------------------------------------------------- sections
class Report:
    """Runs sections until the time is up, and writes the file after each."""

    def __init__(self, args: argparse.Namespace):
        self.dry, self.device = args.dry_run, 'cpu' if args.dry_run else args.device
        self.dtype = torch.float32 if args.dry_run else torch.bfloat16
        self.begin, self.end = time.monotonic(), time.monotonic() + 60 * args.minutes
        self.file = args.out / 'gpu_report.json'
        self.about = dict(
            command=' '.join(sys.argv),
            dry_run=self.dry,
            date=datetime.now(timezone.utc).isoformat(timespec='seconds'),
            commit=output('git', '-C', ROOT, 'rev-parse', 'HEAD'),
            driver=output('nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader'),
            cuda=torch.version.cuda,
            **environment(self.device),
            precision=str(self.dtype).removeprefix('torch.'),
            inputs='made-up pictures',
            weights='random',
        )
        self.rows, self.problems, self.skipped, self.zoos = [], [], [], {}

    def zoo(self, arch: str) -> Zoo:
        if arch not in self.zoos:
            self.zoos.clear()  # one architecture at a time in memory
            self.zoos[arch] = Zoo(TOY if self.dry else arch, self.device, self.dtype)
        return self.zoos[arch]

    def write(self) -> None:
        seconds = round(time.monotonic() - self.begin)
        about = dict(self.about, elapsed=seconds, problems=self.problems, skipped=self.skipped)
        write(self.file, dict(about, rows=self.rows))

    def section(self, title: str, arch: str, grid: tuple[int, int], needs: float = 0, **kwargs) -> None:
        """Runs a section if the time that it needs, in seconds, is left; what goes wrong is noted, not raised."""
        grid = (6, 8) if self.dry else grid
        if time.monotonic() + needs > self.end:
            self.skipped.append(title)
        else:
            try:
                self.run(title, arch, grid, **kwargs)
            except Exception as error:
                self.problem(title, error)
            gc.collect()  # graphs hold their memory
            if not self.dry:
                torch.cuda.empty_cache()
        self.write()

    def problem(self, where: str, error: Exception) -> None:
        self.problems.append(f'{where}: {type(error).__name__}: {str(error)[:300]}')
        print(self.problems[-1], flush=True)

    def run(
        self,
        title: str,
        arch: str,
        grid: tuple[int, int],
        batch: int = 1,
        graph: bool = False,
        compiled: bool = False,
        kind: str = 'static',
    ) -> None:
        start = time.monotonic()
        zoo, shape = self.zoo(arch), tuple(PATCH * side for side in grid)
        images = pictures(max(batch, 2), shape, self.device).to(self.dtype)
        models = exits(zoo, images, 1 if self.dry else 9) if kind == 'exits' else getattr(zoo, kind)()
        graph, compiled = graph and not self.dry, compiled and not self.dry
        bench = Bench(models, self.device, compile=compiled, cuda_graph=graph)
        for name, step in list(bench.steps.items()):
            try:
                self.try_once(getattr(step, 'call', step), images[:batch], graph)
                step(images[:batch])
            except Exception as error:
                self.problem(f'{title}, {name}', error)
                del bench.steps[name]
                if name == bench.baseline:
                    return
        macs = bench.costs(images) if bench.varies else {name: MacReport(total=1) for name in bench.steps}
        once = interleave(bench.steps, 2, 1, inputs=(images[:batch],), device=self.device)
        seconds = sum(samples[-1] for samples in once.values())
        rounds = FEWEST // 2 if self.dry else int(min(MOST, max(FEWEST, SECONDS / seconds)))
        rows = bench.measure(images, batch, rounds, 1, macs)
        prefix = f'{ARCHS[arch]}-{grid[0] * grid[1]}'
        mode = kind if kind not in ('static', 'few') else 'compile' if compiled else 'graph' if graph else 'eager'
        counted = {} if bench.varies else dict(macs=None, mac_ratio=None, efficiency=None)
        self.rows += [
            dict(
                row | counted,
                config='-'.join([prefix, *([mode] if mode != 'graph' else []), row['name']]),
                section=title,
                arch=arch,
                kind=kind,
                mode=mode,
                cuda_graph=graph,
                compile=compiled,
                tokens=grid[0] * grid[1],
                shape=list(shape),
                rounds=len(row['seconds']),
                seconds=[round(sample, 7) for sample in row['seconds']],
            )
            for row in rows
        ]
        best = max(rows, key=lambda row: row['speedup']['ratio'])
        print(
            f'{title}: dense {rows[0]["ms_per_image"]["median"]:.3f} ms, {best["name"]} '
            f'x{best["speedup"]["ratio"]:.2f} ({time.monotonic() - start:.1f} s)',
            flush=True,
        )

    def try_once(self, step, images: Tensor, graph: bool) -> None:
        """Runs a step; before a capture, which a wait for the GPU would break, once more to see that there is none."""
        step(images)
        if graph:
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode('error')
            try:
                step(images)
            finally:
                torch.cuda.set_sync_debug_mode('default')

    def all(self) -> None:
        def grids(arch: str, **kwargs) -> None:
            for grid in GRIDS[:1] if self.dry else GRIDS:
                mode = 'CUDA graphs' if kwargs.get('graph') else 'eager'
                title = f'{ARCHS[arch]}, {grid[0] * grid[1]} tokens, batch {kwargs["batch"]}, {mode}'
                self.section(title, arch, grid, **kwargs)

        archs = list(ARCHS)[:1] if self.dry else ARCHS
        for arch in archs:
            grids(arch, batch=1, graph=True)
            grids(arch, batch=8, graph=True)
            if arch == 'small':
                self.section('vit-s, precisions and attention', arch, MAIN, kind='precisions', graph=True)
        self.section('vit-s, early exits', 'small', MAIN, kind='exits')
        self.section('vit-s, early exits, batch 8', 'small', MAIN, kind='exits', batch=8)
        self.section('vit-s, torch.compile', 'small', MAIN, 45, kind='few', graph=True, compiled=True)
        for arch in archs:
            grids(arch, batch=1)
        for _ in count_rows(self.rows, self.dry):
            if time.monotonic() > self.end:
                break
        self.write()


def output(*command) -> str | None:
    """What a command prints; None if it cannot run."""
    with suppress(OSError, subprocess.CalledProcessError):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
        return done.stdout.strip() or None
    return None


def write(file: Path, report: dict) -> None:
    """Writes a report, each row on a line of its own."""
    rows = ',\n  '.join(json.dumps(row) for row in report['rows'])
    head = json.dumps({key: value for key, value in report.items() if key != 'rows'}, indent=1)
    write_text(file, f'{head[:-2]},\n "rows": [\n  {rows}\n ]\n}}\n')


def read_report(file: Path) -> dict:
    """Reads what :func:`write` wrote."""
    report = read_json(file, {})
    rows = read_rows(file, 'config', 'arch', 'kind', 'mode', 'section', 'batch')
    if not rows or 'dry_run' not in report:
        raise UserError(f'{file}: no report of this tool; give the gpu_report.json that --out wrote')
    return report


def count_rows(rows: list[dict], dry: bool) -> Iterator[None]:
    """Counts the MACs of the rows that have none, and yields after each."""
    known, zoo = {}, None
    for row in sorted(rows, key=lambda row: (row['arch'], row['kind'])):
        if row['macs'] is None:
            if zoo is None or zoo[0] != (row['arch'], row['kind']):
                models = getattr(Zoo(TOY if dry else row['arch']), row['kind'])()
                zoo = (row['arch'], row['kind']), models
            key = (*zoo[0], *row['shape'], row['name'])
            if key not in known:
                known[key] = segmentor_macs(zoo[1][row['name']], row['shape'])
            row['macs'] = known[key].total
            row['tokens_by_block'] = [round(count, 1) for count in known[key].tokens]
            yield
    for row in rows:
        base = next(one for one in rows if one['section'] == row['section'])
        if row['macs'] is not None and base['macs'] is not None:
            row['mac_ratio'] = row['macs'] / base['macs']
            row['efficiency'] = row['speedup']['ratio'] * row['mac_ratio']


# ---------------------------------------------------------------------- tables
def number(value: float | None, spec: str, unit: float = 1) -> str:
    """A cell; empty for what was not counted."""
    return '' if value is None else format(value / unit, spec)


def tables(rows: list[dict]) -> str:
    """Markdown tables of a report, one for each backbone and mode; their first columns name rows of the file."""
    parts = []
    for arch, mode in dict.fromkeys((row['arch'], row['mode']) for row in rows):
        own = [row for row in rows if (row['arch'], row['mode']) == (arch, mode)]
        batches = sorted({row['batch'] for row in own})
        head = ['config', 'GMACs', 'MACs ×']
        head += [cell for batch in batches for cell in (f'ms, {batch}', f'speed-up, {batch}', '÷')]
        lines = []
        for config in dict.fromkeys(row['config'] for row in own):
            by_batch = {row['batch']: row for row in own if row['config'] == config}
            first = next(iter(by_batch.values()))
            line = [config, number(first['macs'], '.1f', 1e9), number(first['mac_ratio'], '.2f')]
            for batch in batches:
                row = by_batch.get(batch)
                line += (
                    [
                        f'{row["ms_per_image"]["median"]:.2f}',
                        f'{row["speedup"]["ratio"]:.2f}',
                        number(row['efficiency'], '.2f'),
                    ]
                    if row
                    else ['', '', '']
                )
            lines.append(line)
        parts.append(f'{ARCHS[arch]}, {mode}\n\n{markdown(head, lines)}')
    return '\n\n'.join(parts)


@one_line_errors()
def main():
    args = parse_args()
    if args.macs:
        report = read_report(args.macs)
        for _ in count_rows(report['rows'], report['dry_run']):
            write(args.macs, report)
        write(args.macs, report)
        return
    if args.table:
        print(tables(read_report(args.table)['rows']))
        return
    check_output('--out', args.out / 'gpu_report.json')
    check_device('cpu' if args.dry_run else args.device)
    report = Report(args)
    report.all()
    print(f'{len(report.rows)} rows in {report.file}; skipped: {len(report.skipped)}, problems: {len(report.problems)}')


if __name__ == '__main__':
    main()
