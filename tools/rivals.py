"""Make models of sentence-transformers to time beside ours: random weights, towers as large, our vocabulary.

No hub is needed: their files are written to a folder first, and loaded from it as anybody's are. They need the extra
`rivals`.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from bridge_jax.config import as_json
from bridge_jax.index import store
from bridge_jax.index.model import Model

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer

_CHAT = """{% for message in messages %}{% for part in message['content'] %}
{% if part['type'] == 'image' %}[IMAGES]{% else %}{{ part['text'] }}{% endif %} {% endfor %}{% endfor %}"""
_MARKS = {"image_token": "[IMAGE]", "boi_token": "[IMAGES]", "eoi_token": "[END]"}


def bi_encoder(model: Model, folder: Path) -> "SentenceTransformer":
    """Return a CLIP, which embeds texts and photos apart."""
    from sentence_transformers import SentenceTransformer
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

    text, vision = model.cfg.text, model.cfg.vision
    tokenizer = _tokenizer(model, folder / "clip", text.length)
    ids = dict(pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.pad_token_id)
    words = dict(vocab_size=text.vocab_size, max_position_embeddings=text.length, eos_token_id=tokenizer.eos_token_id)
    config = CLIPConfig(
        text_config=_size(text) | words | ids,
        vision_config=_size(vision) | dict(image_size=vision.image_px, patch_size=vision.patch_px),
        projection_dim=model.cfg.bridge.embed_width,
    )
    CLIPModel(config).save_pretrained(folder / "clip")
    CLIPProcessor(CLIPImageProcessorPil(), tokenizer).save_pretrained(folder / "clip")
    return SentenceTransformer(str(folder / "clip"), device="cpu")


def cross_encoder(model: Model, folder: Path) -> "CrossEncoder":
    """Return a Gemma 3 with one score: its image tower reads a photo, its text tower the patches and the text.

    Of the architectures that a CrossEncoder loads without code of its own, it is the one that scores pairs of text and
    photo by a head, and whose towers may have any size. It reads every patch: with the pooling of its own, which is
    made for larger photos, four would be left of 64.
    """
    from sentence_transformers import CrossEncoder
    from transformers import Gemma3Config, Gemma3ForSequenceClassification, Gemma3ImageProcessorPil, Gemma3Processor

    text, vision = model.cfg.text, model.cfg.vision
    patches = (vision.image_px // vision.patch_px) ** 2
    length = text.length + patches + 16  # with the marks and spaces round the photo
    marks = dict(extra_special_tokens=_MARKS, bos_token=_MARKS["eoi_token"])
    tokenizer = _tokenizer(model, folder / "gemma", length, **marks)
    words = dict(vocab_size=len(tokenizer), max_position_embeddings=length)
    attention = dict(num_key_value_heads=text.heads, head_dim=text.width // text.heads)
    ids = {name.replace("token", "token_index"): tokenizer.convert_tokens_to_ids(word) for name, word in _MARKS.items()}
    config = Gemma3Config(
        text_config=_size(text) | words | attention | dict(pad_token_id=tokenizer.pad_token_id),
        vision_config=_size(vision)
        | dict(image_size=vision.image_px, patch_size=vision.patch_px, vision_use_head=False),
        mm_tokens_per_image=patches,
        **ids,
    )
    config.num_labels = 1
    scorer = Gemma3ForSequenceClassification(config)
    scorer.model.multi_modal_projector.mm_input_projection_weight.data.normal_(std=0.02)  # is zero before training
    scorer.save_pretrained(folder / "gemma")
    pictures = Gemma3ImageProcessorPil(size=dict(height=vision.image_px, width=vision.image_px))
    processor = Gemma3Processor(pictures, tokenizer, chat_template=_CHAT.replace("\n", ""), image_seq_length=patches)
    processor.save_pretrained(folder / "gemma")
    return CrossEncoder(str(folder / "gemma"), device="cpu")


def parameters(model: Any) -> int:
    """Return the number of parameters of a PyTorch module, or of a tree of arrays."""
    if hasattr(model, "parameters"):
        return sum(each.numel() for each in model.parameters())
    return sum(int(np.prod(each.shape)) for each in jax.tree.leaves(model))


def _size(tower: Any) -> dict[str, int]:
    return dict(
        hidden_size=tower.width,
        num_hidden_layers=tower.depth,
        num_attention_heads=tower.heads,
        intermediate_size=tower.mlp_width,
    )


def _tokenizer(model: Model, folder: Path, length: int, **more: Any) -> Any:
    """Return the model's tokenizer for transformers, through a file in the new folder."""
    from transformers import PreTrainedTokenizerFast

    folder.mkdir()
    content = as_json.loads(model.tokenizer.to_json()) | {"truncation": None, "padding": None}  # to our length
    (folder / store.TOKENIZER).write_text(json.dumps(content), encoding="utf-8")
    special = model.tokenizer.special
    return PreTrainedTokenizerFast(
        tokenizer_file=str(folder / store.TOKENIZER),
        model_max_length=length,
        pad_token=special["pad_token"],
        eos_token=next(special[name] for name in ("sep_token", "eos_token") if name in special),
        **more,
    )
