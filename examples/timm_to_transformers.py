"""A checkpoint of timm's ViT into the ViT of transformers: other names, and q, k, v in one matrix there and three here.

Needs: pip install timm transformers. Run it: python examples/timm_to_transformers.py
"""

import timm
import torch
import transformers

import fxmap

# Small, so that this runs in a second; in earnest timm.create_model("vit_base_patch16_224") and ViTConfig().
src = timm.create_model(
    "vit_base_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=10
).eval()
torch.save(src.state_dict(), "timm.pth")

config = transformers.ViTConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=128,
    image_size=32,
    patch_size=8,
    num_labels=10,
    layer_norm_eps=1e-6,  # as timm's: with the default, 1e-12, the report names the layer norm that differs
)
dst = transformers.ViTForImageClassification(config).eval()

mapping = fxmap.load(dst, "timm.pth", src=src)
print(mapping.summary())
assert mapping.ok

images = torch.randn(2, 3, 32, 32)
print("largest difference:", (src(images) - dst(images).logits).abs().max().item())
dst.save_pretrained("converted")  # a folder that from_pretrained reads
