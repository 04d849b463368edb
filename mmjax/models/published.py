"""Which published weights fit a named architecture: what `mmjax.load` takes, by hub name.

"NAME.pt" are OpenAI's own files (NAME.pt). Those of LAION and DataComp hold open_clip's format
and transformers' side by side.
"""

from typing import Any

# Of open_clip's version: how many of its model configs, and of its pretrained tags, are of models
# that mmjax reads and writes, and how many there are. tests/interop/test_open_clip_published.py
# counts them.
OPEN_CLIP: dict[str, Any] = {
    "version": "3.3.0",
    "configs": (130, 144),
    "pretrained tags": (184, 196),
}

PUBLISHED: dict[str, tuple[str, ...]] = {
    "ViT-B/32": (
        "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
        "laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K",
    ),
    "ViT-B/32-quickgelu": ("openai/clip-vit-base-patch32", "ViT-B-32.pt"),
    "ViT-B/16": (
        "laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
        "laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K",
    ),
    "ViT-B/16-quickgelu": ("openai/clip-vit-base-patch16", "ViT-B-16.pt"),
    "ViT-L/14": (
        "laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
        "laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K",
    ),
    "ViT-L/14-quickgelu": ("openai/clip-vit-large-patch14", "ViT-L-14.pt"),
    "ViT-L/14-336-quickgelu": ("openai/clip-vit-large-patch14-336", "ViT-L-14-336px.pt"),
    "ViT-H/14": ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K",),
    "ViT-g/14": ("laion/CLIP-ViT-g-14-laion2B-s34B-b88K",),
    "RN50-quickgelu": ("RN50.pt",),
    "RN101-quickgelu": ("RN101.pt",),
    "RN50x4-quickgelu": ("RN50x4.pt",),
    "CoCa-B/32": (
        "laion/CoCa-ViT-B-32-laion2B-s13B-b90k",
        "laion/mscoco_finetuned_CoCa-ViT-B-32-laion2B-s13B-b90k",
    ),
    "CoCa-L/14": (
        "laion/CoCa-ViT-L-14-laion2B-s13B-b90k",
        "laion/mscoco_finetuned_CoCa-ViT-L-14-laion2B-s13B-b90k",
    ),
    "SigLIP-B/16-224": ("google/siglip-base-patch16-224", "timm/ViT-B-16-SigLIP"),
    "SigLIP-L/16-256": ("google/siglip-large-patch16-256", "timm/ViT-L-16-SigLIP-256"),
    "SigLIP-So400m/14-224": ("google/siglip-so400m-patch14-224", "timm/ViT-SO400M-14-SigLIP"),
    "SigLIP-So400m/14-384": ("google/siglip-so400m-patch14-384", "timm/ViT-SO400M-14-SigLIP-384"),
    "SigLIP2-B/16-224": ("google/siglip2-base-patch16-224", "timm/ViT-B-16-SigLIP2"),
    "SigLIP2-L/16-256": ("google/siglip2-large-patch16-256", "timm/ViT-L-16-SigLIP2-256"),
    "SigLIP2-So400m/14-224": ("google/siglip2-so400m-patch14-224", "timm/ViT-SO400M-14-SigLIP2"),
    "SigLIP2-So400m/14-384": ("google/siglip2-so400m-patch14-384",),
    "SigLIP2-B/16-naflex": ("google/siglip2-base-patch16-naflex",),
    "SigLIP2-So400m/16-naflex": ("google/siglip2-so400m-patch16-naflex",),
    "VideoPrism-LvT-B": ("google/videoprism-lvt-base-f16r288",),
    "VideoPrism-LvT-L": ("google/videoprism-lvt-large-f8r288",),
    "bert-base-uncased": ("google-bert/bert-base-uncased",),
    "roberta-base": ("FacebookAI/roberta-base",),
    "vit-base-patch16-224": ("google/vit-base-patch16-224",),
    "dinov2-base": ("facebook/dinov2-base",),
    "dinov2-large": ("facebook/dinov2-large",),
    "dinov2-with-registers-base": ("facebook/dinov2-with-registers-base",),
    "dinov2-with-registers-large": ("facebook/dinov2-with-registers-large",),
    "dinov3-vitb16": ("facebook/dinov3-vitb16-pretrain-lvd1689m",),
    "dinov3-vitl16": ("facebook/dinov3-vitl16-pretrain-lvd1689m",),
    "tipsv2-b14": ("google/tipsv2-b14",),
    "tipsv2-l14": ("google/tipsv2-l14",),
    "tipsv2-so400m14": ("google/tipsv2-so400m14",),
    "tipsv2-g14": ("google/tipsv2-g14",),
    "aimv2-large-patch14-224": ("apple/aimv2-large-patch14-224",),
    "aimv2-huge-patch14-224": ("apple/aimv2-huge-patch14-224",),
    "aimv2-large-patch14-native": ("apple/aimv2-large-patch14-native",),
    "aimv2-large-patch14-224-lit": ("apple/aimv2-large-patch14-224-lit",),
    "clap-htsat-unfused": ("laion/clap-htsat-unfused",),
}
