"""The rows of the table of names: each tower's parameters under our paths and under Hugging Face's names on disk."""

# Rows are (our name, their name, kind, shape of our kernel or array[, shape of theirs]). The letters of a shape are
# sizes: D width, M MLP width, p patch side, P stored positions of the image, T stored positions of the text,
# R registers, V vocabulary, X token types, Q queries, keys and values in one, G both halves of a gated MLP.
_VIT_STEM = (
    ("class_token", "embeddings.cls_token", "array", "11D"),
    ("position", "embeddings.position_embeddings", "array", "1PD"),
    ("patch", "embeddings.patch_embeddings.projection", "conv", "pp3D"),
    ("norm", "layernorm", "norm", "D"),
)
_VIT_ATTENTION = (
    ("attention/query", "attention.attention.query", "linear", "DD"),
    ("attention/key", "attention.attention.key", "linear", "DD"),
    ("attention/value", "attention.attention.value", "linear", "DD"),
    ("attention/out", "attention.output.dense", "linear", "DD"),
)
_CLIP_BLOCK = (
    ("attention_norm", "layer_norm1", "norm", "D"),
    ("attention/query", "self_attn.q_proj", "linear", "DD"),
    ("attention/key", "self_attn.k_proj", "linear", "DD"),
    ("attention/value", "self_attn.v_proj", "linear", "DD"),
    ("attention/out", "self_attn.out_proj", "linear", "DD"),
    ("mlp_norm", "layer_norm2", "norm", "D"),
    ("mlp/up", "mlp.fc1", "linear", "DM"),
    ("mlp/down", "mlp.fc2", "linear", "MD"),
)
_CLIP_TEXT_STEM = (
    ("word", "embeddings.token_embedding", "embedding", "VD"),
    ("position", "embeddings.position_embedding", "embedding", "TD"),
    ("final_norm", "final_layer_norm", "norm", "D"),
)
_MASK_TOKEN = ("mask_token", "embeddings.mask_token", "array", "11D")
_DINOV2_STEM = (*_VIT_STEM, ("mask_token", "embeddings.mask_token", "array", "11D", "1D"))
_REGISTERS = ("registers", "embeddings.register_tokens", "array", "1RD")
STEM = {
    "vit": (*_VIT_STEM, _MASK_TOKEN),
    "dinov2": _DINOV2_STEM,
    "dinov2_with_registers": (*_DINOV2_STEM, _REGISTERS),
    "clip_vision_model": (
        ("class_token", "embeddings.class_embedding", "array", "11D", "D"),
        ("position", "embeddings.position_embedding.weight", "array", "1PD", "PD"),
        ("patch", "embeddings.patch_embedding", "conv_only", "pp3D"),
        ("embed_norm", "pre_layrnorm", "norm", "D"),
        ("norm", "post_layernorm", "norm", "D"),
        _MASK_TOKEN,
    ),
    "siglip_vision_model": (
        ("position", "embeddings.position_embedding.weight", "array", "1PD", "PD"),
        ("patch", "embeddings.patch_embedding", "conv", "pp3D"),
        ("norm", "post_layernorm", "norm", "D"),
        _MASK_TOKEN,
    ),
    "dinov3_vit": (
        ("class_token", "embeddings.cls_token", "array", "11D"),
        _REGISTERS,
        ("patch", "embeddings.patch_embeddings", "conv", "pp3D"),
        ("norm", "norm", "norm", "D"),
        _MASK_TOKEN,
    ),
    "tipsv2_vision_model": (
        ("class_token", "cls_token", "array", "11D"),
        ("position", "pos_embed", "array", "1PD"),
        ("patch", "patch_embed.proj", "conv", "pp3D"),
        ("registers", "register_tokens", "array", "1RD"),
        ("norm", "norm", "norm", "D"),
        ("mask_token", "mask_token", "array", "11D", "1D"),
    ),
    "clip_text_model": _CLIP_TEXT_STEM,
    "siglip_text_model": _CLIP_TEXT_STEM,
    "tipsv2_text_model": (
        ("word", "token_embedding", "embedding", "VD"),
        ("final_norm", "ln_final", "norm", "D"),
    ),
    "modernbert": (
        ("word", "embeddings.tok_embeddings", "embedding", "VD"),
        ("norm", "embeddings.norm", "norm_only", "D"),
        ("final_norm", "final_norm", "norm_only", "D"),
    ),
    "bert": (
        ("word", "embeddings.word_embeddings", "embedding", "VD"),
        ("position", "embeddings.position_embeddings", "embedding", "TD"),
        ("token_type", "embeddings.token_type_embeddings", "embedding", "XD"),
        ("norm", "embeddings.LayerNorm", "norm", "D"),
    ),
}
BLOCK = {
    "vit": (
        ("attention_norm", "layernorm_before", "norm", "D"),
        *_VIT_ATTENTION,
        ("mlp_norm", "layernorm_after", "norm", "D"),
        ("mlp/up", "intermediate.dense", "linear", "DM"),
        ("mlp/down", "output.dense", "linear", "MD"),
    ),
    "dinov2": (
        ("attention_norm", "norm1", "norm", "D"),
        *_VIT_ATTENTION,
        ("attention_scale/scale", "layer_scale1.lambda1", "array", "D"),
        ("mlp_norm", "norm2", "norm", "D"),
        ("mlp/up", "mlp.fc1", "linear", "DM"),
        ("mlp/down", "mlp.fc2", "linear", "MD"),
        ("mlp_scale/scale", "layer_scale2.lambda1", "array", "D"),
    ),
    "dinov3_vit": (
        ("attention_norm", "norm1", "norm", "D"),
        ("attention/query", "attention.q_proj", "linear", "DD"),
        ("attention/key", "attention.k_proj", "linear_only", "DD"),
        ("attention/value", "attention.v_proj", "linear", "DD"),
        ("attention/out", "attention.o_proj", "linear", "DD"),
        ("attention_scale/scale", "layer_scale1.lambda1", "array", "D"),
        ("mlp_norm", "norm2", "norm", "D"),
        ("mlp/up", "mlp.up_proj", "linear", "DM"),
        ("mlp/down", "mlp.down_proj", "linear", "MD"),
        ("mlp_scale/scale", "layer_scale2.lambda1", "array", "D"),
    ),
    "tipsv2_vision_model": (
        ("attention_norm", "norm1", "norm", "D"),
        ("attention/qkv", "attn.qkv", "linear", "DQ"),
        ("attention/out", "attn.proj", "linear", "DD"),
        ("attention_scale/scale", "ls1.gamma", "array", "D"),
        ("mlp_norm", "norm2", "norm", "D"),
        ("mlp/up", "mlp.c_fc", "linear", "DM"),
        ("mlp/down", "mlp.c_proj", "linear", "MD"),
        ("mlp_scale/scale", "ls2.gamma", "array", "D"),
    ),
    "tipsv2_text_model": (
        ("attention_norm", "ln_1", "norm", "D"),
        ("attention/qkv", "attn.in_proj_", "linear", "DQ"),
        ("attention/out", "attn.out_proj", "linear", "DD"),
        ("mlp_norm", "ln_2", "norm", "D"),
        ("mlp/up", "mlp.c_fc", "linear", "DM"),
        ("mlp/down", "mlp.c_proj", "linear", "MD"),
    ),
    "clip_vision_model": _CLIP_BLOCK,
    "siglip_vision_model": _CLIP_BLOCK,
    "clip_text_model": _CLIP_BLOCK,
    "siglip_text_model": _CLIP_BLOCK,
    "modernbert": (
        ("attention_norm", "attn_norm", "norm_only", "D"),  # the first block has none: see `names.text`
        ("attention/qkv", "attn.Wqkv", "linear_only", "DQ"),
        ("attention/out", "attn.Wo", "linear_only", "DD"),
        ("mlp_norm", "mlp_norm", "norm_only", "D"),
        ("mlp/up", "mlp.Wi", "linear_only", "DG"),
        ("mlp/down", "mlp.Wo", "linear_only", "MD"),
    ),
    "bert": (
        ("attention/query", "attention.self.query", "linear", "DD"),
        ("attention/key", "attention.self.key", "linear", "DD"),
        ("attention/value", "attention.self.value", "linear", "DD"),
        ("attention/out", "attention.output.dense", "linear", "DD"),
        ("attention_norm", "attention.output.LayerNorm", "norm", "D"),
        ("mlp/up", "intermediate.dense", "linear", "DM"),
        ("mlp/down", "output.dense", "linear", "MD"),
        ("mlp_norm", "output.LayerNorm", "norm", "D"),
    ),
}
STEM["roberta"] = STEM["xlm-roberta"] = STEM["bert"]
BLOCK["roberta"] = BLOCK["xlm-roberta"] = BLOCK["bert"]
BLOCK["dinov2_with_registers"] = BLOCK["dinov2"]
# Name of the list of blocks; `encoder.layer` for all others.
LAYERS = {
    "clip_vision_model": "encoder.layers",
    "siglip_vision_model": "encoder.layers",
    "clip_text_model": "encoder.layers",
    "siglip_text_model": "encoder.layers",
    "dinov3_vit": "layer",
    "modernbert": "layers",
    "tipsv2_vision_model": "blocks",
    "tipsv2_text_model": "transformer.resblocks",
}
# Prefix that a file may put before every name; the model_type itself for all others.
PREFIXES = {
    "clip_vision_model": "vision_model",
    "siglip_vision_model": "vision_model",
    "clip_text_model": "text_model",
    "siglip_text_model": "text_model",
    "modernbert": "model",
    "xlm-roberta": "roberta",
    "tipsv2_vision_model": "vision_encoder",
    "tipsv2_text_model": "text_encoder",
}
OLD_NORM = {"gamma": "weight", "beta": "bias"}  # LayerNorm in BERT files of 2019
# Tensors (bare names) that a file may hold and no tower has: poolers, task heads, buffers.
EXCUSED = {
    "vit": (r"pooler\.dense\.(weight|bias)", r"classifier\.(weight|bias)", r"decoder\.0\.(weight|bias)"),
    "dinov2": (r"classifier\.(weight|bias)",),
    "dinov2_with_registers": (r"classifier\.(weight|bias)",),
    "bert": (
        r"pooler\.dense\.(weight|bias)",
        r"embeddings\.(position_ids|token_type_ids)",
        r"cls\.(predictions|seq_relationship)\..*",
        r"(classifier|qa_outputs)\.(weight|bias)",
    ),
    "roberta": (
        r"pooler\.dense\.(weight|bias)",
        r"embeddings\.(position_ids|token_type_ids)",
        r"lm_head\..*",
        r"(classifier|qa_outputs)\..*",
    ),
    "dinov3_vit": (),
    "modernbert": (r"(head|decoder|classifier)\..*",),
    "tipsv2_vision_model": (r"text_encoder\..*", r"temperature"),
    "tipsv2_text_model": (r"vision_encoder\..*", r"temperature"),
}
EXCUSED["xlm-roberta"] = EXCUSED["roberta"]
for _side in ("vision", "text"):  # MetaCLIP 2 has CLIP's names
    for _table in (STEM, BLOCK, LAYERS, PREFIXES):
        _table[f"metaclip_2_{_side}_model"] = _table[f"clip_{_side}_model"]
# The other tower of a pair, and the projections, scale and bias with which CLIP and SigLIP compare the two.
_PAIR = (r"(vision|text)_model\..*", r"(visual|text)_projection\.weight", r"logit_(scale|bias)")
for _type in PREFIXES.keys() - EXCUSED.keys():
    EXCUSED[_type] = (*_PAIR, r"embeddings\.position_ids", *((r"head\..*",) if "siglip" in _type else ()))
