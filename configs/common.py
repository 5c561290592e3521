"""What the experiments share: tower sizes, the bridge, losses and the three stages of the paper.

`METHOD`: see README, "The method". Every key that a config may have is in `bridge_jax/config.py`.
"""

import ml_collections

SIZES = {  # depth, width, heads, mlp width
    "tiny": (4, 128, 4, 512),
    "small": (12, 384, 6, 1536),
    "base": (12, 768, 12, 3072),
    "large": (24, 1024, 16, 4096),
    "huge": (32, 1280, 16, 5120),
}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def vit(size: str, *, patch_px: int, image_px: int, **changes) -> ml_collections.ConfigDict:
    """Return a ViT as Hugging Face's `vit` has it (pixels scaled to -1..1)."""
    depth, width, heads, mlp_width = SIZES[size]
    tower = dict(
        tower="vit",
        depth=depth,
        width=width,
        heads=heads,
        mlp_width=mlp_width,
        patch_px=patch_px,
        image_px=image_px,
        position_grid=image_px // patch_px,
        layer_scale=False,
        mask_token=False,
        norm_eps=1e-12,
        dropout=0.0,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        pretrained="",
    )
    return ml_collections.ConfigDict(tower | changes)


def dinov2(size: str, *, image_px: int, **changes) -> ml_collections.ConfigDict:
    """Return a DINOv2 ViT: patch 14, LayerScale, a 37x37 position grid resized to `image_px`, ImageNet statistics."""
    changes = (
        dict(position_grid=37, layer_scale=True, norm_eps=1e-6, mean=IMAGENET_MEAN, std=IMAGENET_STD) | changes
    )
    return vit(size, patch_px=14, image_px=image_px, **changes)


def bert(size: str, *, length: int, **changes) -> ml_collections.ConfigDict:
    """Return a BERT-style encoder with the bert-base-uncased vocabulary size."""
    depth, width, heads, mlp_width = SIZES[size]
    tower = dict(
        tower="bert",
        depth=depth,
        width=width,
        heads=heads,
        mlp_width=mlp_width,
        vocab_size=30522,
        max_positions=512,
        token_types=2,
        length=length,
        norm_eps=1e-12,
        dropout=0.1,
        pretrained="",
    )
    return ml_collections.ConfigDict(tower | changes)


def minilm(*, length: int, **changes) -> ml_collections.ConfigDict:
    """Return MiniLM-L6: a BERT of 6 blocks, width 384, 12 heads."""
    return bert("small", length=length, **(dict(depth=6, heads=12) | changes))
