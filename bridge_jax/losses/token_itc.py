"""Image-text contrast by tokens: do words match their patches, and patches their words? Not in the paper.

`itc` compares mean states. Late interaction compares tokens: each word with its nearest patch, each patch with its
nearest word (FILIP, Yao et al. 2022; ColBERT). The loss trains the queries and keys of the bridge's first attention, on
states before any interaction: all pairs of a group of rows are compared without being fused, so no pair can mark its
own sides (docs/method.md 5.1). `heads/token_itc` adds the similarity to the match logit of every fused pair, and
`itm` learns the rest.
"""

import jax
from jaxtyping import Float

from bridge_jax.config import Config, require
from bridge_jax.config.objectives import Inputs, Needs, stages_with
from bridge_jax.losses.itc import symmetric_info_nce
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.models.heads import TokenMatch
from bridge_jax.models.layers import grouped
from bridge_jax.models.token_similarity import token_similarities
from bridge_jax.types import Array, Batch, Loss, Outputs


def loss(outputs: Outputs, batch: Batch, group: int) -> Loss:
    """Return symmetric InfoNCE over the texts and images of every `group` neighbouring rows; 0: of the whole batch.

    The logits are scaled `models.token_similarity.token_similarities`. Every caption of a photo is a positive of that
    photo. Metrics: `accuracy`, the share of texts whose best image is their own photo.
    """
    logits_Ggg = outputs.own["token_itc"]
    assert not group or logits_Ggg.shape[-1] == group
    losses = jax.vmap(symmetric_info_nce)(logits_Ggg, batch.image_ids.reshape(logits_Ggg.shape[:2]))
    accuracy = losses.metrics["accuracy"].mean()
    return Loss(sum=losses.sum.sum(), count=losses.count.sum(), metrics={"accuracy": accuracy})


def compare(model: BridgeModel, inputs: Inputs) -> Float[Array, "G g g"]:
    """Return the logit of text i with image j in every group; a batch smaller than a group forms one group."""
    B = inputs.batch.image_ids.shape[0]
    g = min(model.cfg.losses["token_itc"]["group"] or B, B)
    tokens = jax.tree.map(lambda rows: grouped(rows, g), (*model.compared(inputs.lower), inputs.lower.text_mask))
    return model.heads.by_loss["token_itc"].scaled(token_similarities(*tokens))


def check(cfg: Config) -> None:
    """Raise ConfigError if the bridge has no attention, or if groups do not divide a batch or its microbatches."""
    group = cfg.losses["token_itc"]["group"]
    require(
        cfg.bridge.layers > 0 and cfg.bridge.design in ("cross", "self_cross"),
        f"config.losses.token_itc reads the bridge's attention, which design {cfg.bridge.design!r} with "
        f"{cfg.bridge.layers} layers does not have: drop the loss",
    )
    for stage in stages_with(cfg, "token_itc"):
        require(
            not group or stage.batch_size % group == 0,
            f"config.losses.token_itc.group is {group}, which does not divide config.stages.{stage.name}.batch_size = "
            f"{stage.batch_size}: choose a divisor, or 0 for the whole batch",
        )
        require(
            stage.microbatches == 1 or (group > 0 and cfg.mining.group > 0 and cfg.mining.group % group == 0),
            f"config.stages.{stage.name}.microbatches is {stage.microbatches}, but token_itc compares the rows of a "
            "group: set config.losses.token_itc.group to a divisor of config.mining.group, whose rows lie in one part",
        )


NEEDS = Needs(
    passes=("compared",),
    head=lambda cfg, name: TokenMatch(cfg.bridge, name=name),
    output=compare,
    reads="captions",
    check=check,
)
