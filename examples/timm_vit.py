"""A classifier of timm on fewer tokens, without OpenMMLab: ``pip install 'mmtoken[timm]'``.

    python examples/timm_vit.py [--model deit_small_patch16_224] [--pretrained]

:class:`FastViT` is all that mmtoken has to know of a backbone. It wraps a model that timm has built, with its weights,
and hands the class token and the patches to the model's own head, whichever of them that pools.
"""

import argparse
import time

import torch

from mmtoken.core import TokenHost, TokenState, token_attention


class FastViT(TokenHost):
    """timm's ``VisionTransformer`` with plain blocks and a reducer between them.

    Args:
        vit (timm.models.VisionTransformer): Classifier, without norms of queries and keys.
        reducer (dict, optional): Method, such as ``dict(type='ToMe', keep=0.3)``.
    """

    def __init__(self, vit, reducer=None):
        super().__init__()
        self.vit, self.embed_dims, self.num_heads = vit, vit.embed_dim, vit.blocks[0].attn.num_heads
        self.num_prefix, self.patch_size = vit.num_prefix_tokens, vit.patch_embed.patch_size[0]
        self.out_indices = (len(vit.blocks) - 1,)
        self.init_reducer(reducer)

    blocks = property(lambda self: self.vit.blocks)

    def stem(self, images):  # (B, 3, H, W) → one token for each patch, class and register tokens first
        x = self.vit.norm_pre(self.vit._pos_embed(self.vit.patch_embed(images)))
        return TokenState(x, self.vit.patch_embed.grid_size, self.num_prefix)

    def attend(self, block, x, layout):  # the first half of a block; ToMe wants the keys
        out, keys = token_attention(block.attn.qkv(block.norm1(x)), self.num_heads, layout)
        return x + block.drop_path1(block.ls1(block.attn.proj(out))), keys

    def mlp(self, block, x):  # the second half
        return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))

    def features(self, state, i):  # after the last block: every patch has its token again, so any pooling is right
        tokens = torch.cat([state.prefix, state.dense()], dim=1)
        return self.vit.forward_head(self.vit.norm(tokens))


@torch.no_grad()
def main(argv=None):
    import timm  # after mmtoken, which lets it load beside a torch that torchvision was not built for

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='deit_small_patch16_224', help='name in timm')
    parser.add_argument('--pretrained', action='store_true', help='download its weights; random ones without')
    args = parser.parse_args(argv)
    vit = timm.create_model(args.model, pretrained=args.pretrained).eval()
    images = torch.randn(1, 3, *vit.patch_embed.img_size)
    for reducer in (None, dict(type='ToMe', keep=0.3), dict(type='Expedit', layer=len(vit.blocks) // 2, grid=0.5)):
        fast = FastViT(vit, reducer).eval()
        (logits,) = fast(images)
        start = time.perf_counter()
        fast(images)
        took = time.perf_counter() - start
        name = 'no reducer' if reducer is None else reducer['type']
        print(
            f'{name}: {fast.token_counts(images)[-1]:.0f} tokens in the last block, {1000 * took:.0f} ms, '
            f'logits {tuple(logits.shape)}, {(logits - vit(images)).abs().max():.1e} from those of timm'
        )


if __name__ == '__main__':
    main()
