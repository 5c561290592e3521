"""The configuration of a BRIDGE model: two towers in Hugging Face's own terms, the bridge and the heads."""

from typing import ClassVar

from transformers import PretrainedConfig


class BridgeConfig(PretrainedConfig):
    """The `config.json` of an exported BRIDGE model.

    `vision_config` and `text_config` are the towers' configs in transformers (ViTConfig, BertConfig, ...), as dicts.
    Interaction layer q reads the image tower's states after block `image_after[q]` and the text tower's after block
    `text_after[q]`.
    `bridge_jax` holds the data from which training starts in JAX; PyTorch does not read it.
    """

    model_type = "bridge"
    attribute_map: ClassVar = {"projection_dim": "embed_width"}  # the name that sentence-transformers looks for

    def __init__(
        self,
        vision_config: dict | None = None,
        text_config: dict | None = None,
        image_size: int = 224,  # side of the square that the model sees; the stored position grid may differ
        text_length: int = 30,  # greatest number of tokens of a caption
        design: str = "cross",  # none, pooled, self_cross or cross
        image_after: list | tuple = (),
        text_after: list | tuple = (),
        finish_before: bool = False,  # the towers' final norm comes before the interaction (placement "after")
        shared_width: int = 768,
        bridge_heads: int = 12,
        embed_width: int = 256,
        interaction_attention_dropout: float = 0.0,
        interaction_output_dropout: float = 0.0,
        logit_scale_max: float = 100.0,
        rerank_weight: float = 1.0,  # score = match logit + rerank_weight x logit scale x cosine
        mlm_head: bool = False,
        mim_width: int = 0,  # values that the masked-image head predicts for a patch; 0: there is no such head
        vqa_head: bool = False,  # it answers with one of `id2label`
        pictures: int = 0,  # number of pictures of a statement for the nlvr2 head; 0: there is no such head
        classifiers: dict | None = None,  # other heads that classify pairs: loss -> features, classes
        sigmoid_head: bool = False,
        token_itc_head: bool = False,  # the match logit includes the tokens' similarity
        caption_decoder: dict | None = None,  # sizes and search of the decoder; None: there is none
        answering_decoder: bool = False,  # the decoder has learned to answer questions, with one of `id2label`
        bridge_jax: dict | None = None,
        **kwargs,
    ):
        self.vision_config = vision_config or {}
        self.text_config = text_config or {}
        self.image_size = image_size
        self.text_length = text_length
        self.design = design
        self.image_after = list(image_after)
        self.text_after = list(text_after)
        self.finish_before = finish_before
        self.shared_width = shared_width
        self.bridge_heads = bridge_heads
        self.embed_width = embed_width
        self.interaction_attention_dropout = interaction_attention_dropout
        self.interaction_output_dropout = interaction_output_dropout
        self.logit_scale_max = logit_scale_max
        self.rerank_weight = rerank_weight
        self.mlm_head = mlm_head
        self.mim_width = mim_width
        self.vqa_head = vqa_head
        self.pictures = pictures
        self.classifiers = classifiers or {}
        self.sigmoid_head = sigmoid_head
        self.token_itc_head = token_itc_head
        self.caption_decoder = caption_decoder
        self.answering_decoder = answering_decoder
        self.bridge_jax = bridge_jax or {}
        super().__init__(**kwargs)

    @property
    def num_labels(self) -> int:
        """The scores of a pair, one. `id2label` holds the answers of a checkpoint that answers questions."""
        return 1

    @num_labels.setter
    def num_labels(self, value):
        """Ignore the value: transformers and sentence-transformers set it, and would replace the answers."""
