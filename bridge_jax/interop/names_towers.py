"""The rows of the table of names: what each tower stores, under our paths and under Hugging Face's names on disk."""

# Rows are (ours, theirs, kind, shape of our kernel or array[, shape of theirs]). The letters of a shape are sizes:
# D width, M mlp width, p patch side, P stored positions of the image, T those of the text, V vocabulary, X token types.
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
STEM = {
    "vit": (*_VIT_STEM, ("mask_token", "embeddings.mask_token", "array", "11D")),
    "dinov2": (*_VIT_STEM, ("mask_token", "embeddings.mask_token", "array", "11D", "1D")),
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
STEM["roberta"], BLOCK["roberta"] = STEM["bert"], BLOCK["bert"]
OLD_NORM = {"gamma": "weight", "beta": "bias"}  # LayerNorm in BERT files of 2019
# Tensors (bare names) that a file may hold and no tower has: poolers, task heads, buffers.
EXCUSED = {
    "vit": (r"pooler\.dense\.(weight|bias)", r"classifier\.(weight|bias)", r"decoder\.0\.(weight|bias)"),
    "dinov2": (r"classifier\.(weight|bias)",),
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
}
