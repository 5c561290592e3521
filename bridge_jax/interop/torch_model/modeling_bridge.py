"""BRIDGE: an image and a text tower whose hidden states meet in a few interaction layers (arXiv 2511.11526).

    get_image_features, get_text_features   embeddings of each side alone: search a gallery by dot products
    forward                                 row i of the images fused with row i of the texts
    match, match_pairs                      every image, or some, fused with texts: rerank the best candidates
    answer                                  answers to questions about pictures, if the checkpoint has that head
    judge                                   whether statements are true of their pictures, if it has that head
    classify                                logits of any other classifier of pairs, by the name of its loss
    generate                                captions of pictures or answers to questions, if it has a decoder
    answer_likelihoods                      log-likelihood of each of several answers, if the decoder answers questions

Shapes: B rows, P image tokens (the patches last), T text tokens, D a tower's width, S the shared width, N heads, E the
width of an embedding. Embeddings have length one.
"""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput

from .configuration_bridge import BridgeConfig
from .modeling_bridge_decoder import Decoder
from .modeling_bridge_heads import Heads
from .modeling_bridge_interaction import Bridge, Interaction, image_prefix, pool
from .modeling_bridge_known_towers import TEXT_TOWERS, VISION_TOWERS
from .modeling_bridge_outputs import BridgeOutput, MatchOutput, ZeroShotOutput


class BridgeModel(PreTrainedModel):
    """The whole model. `vision_model` and `text_model` carry the parameter names of the towers in transformers."""

    config_class = BridgeConfig
    main_input_name = "pixel_values"

    def __init__(self, config: BridgeConfig):
        super().__init__(config)
        self.vision_model = VISION_TOWERS[config.vision_config["model_type"]](config.vision_config)
        self.text_model = TEXT_TOWERS[config.text_config["model_type"]](config.text_config)
        self.bridge = Bridge(config)
        self.heads = Heads(config)
        self.decoder = None
        if config.caption_decoder:
            widths = config.vision_config["hidden_size"], config.text_config["hidden_size"]
            self.decoder = Decoder(
                config.caption_decoder, *widths, config.text_config["vocab_size"], config.text_length
            )
        self.post_init()

    @classmethod
    def can_generate(cls) -> bool:
        """Return False: `generate` is our own search and ignores transformers' generation settings."""
        return False

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of words, the first that the text tower has."""
        return next(module for module in self.text_model.modules() if isinstance(module, nn.Embedding))

    def get_image_features(self, pixel_values):
        """Return the embeddings [B,E] of pictures [B,3,H,W] alone."""
        return self._embed_image(self._lower_image(pixel_values))

    def get_text_features(self, input_ids, attention_mask=None):
        """Return the embeddings [B,E] of captions [B,T] alone."""
        mask = _mask(input_ids, attention_mask)
        return self._embed_text(self._lower_text(input_ids, mask), mask)

    def forward(
        self, pixel_values, input_ids=None, attention_mask=None, bool_masked_pos=None, return_dict=True
    ) -> BridgeOutput | BaseModelOutputWithPooling | tuple:
        """Fuse row i of the pictures with row i of the captions.

        Patches where `bool_masked_pos` [B,patches] is True are hidden. With `return_dict=False`, return a tuple.
        Without captions, return the pictures' own states [B,P,D] and embeddings [B,E], as a pipeline asks for them.
        """
        if input_ids is None:
            states = self._finish_image(self._lower_image(pixel_values, bool_masked_pos))
            alone = BaseModelOutputWithPooling(states, self.heads.unimodal_image(pool(states, None)))
            return alone if return_dict else alone.to_tuple()
        mask = _mask(input_ids, attention_mask)
        image = self._lower_image(pixel_values, bool_masked_pos)
        text = self._lower_text(input_ids, mask)
        alone = self._embed_image(image), self._embed_text(text, mask)
        output = BridgeOutput(*alone, *self._fused(image, text, mask))
        return output if return_dict else output.to_tuple()

    def match(self, pixel_values, input_ids, attention_mask=None, pairs_at_once: int = 128):
        """Fuse every picture [I,3,H,W] with every caption [T,L]; the blocks below the bridge run once for each side."""
        images, texts = len(pixel_values), len(input_ids)
        pairs = torch.cartesian_prod(torch.arange(images), torch.arange(texts)).to(input_ids.device)
        found = self.match_pairs(pixel_values, input_ids, attention_mask, pairs[:, 0], pairs[:, 1], pairs_at_once)
        return MatchOutput(*(each.view(images, texts) for each in found))

    def match_pairs(self, pixel_values, input_ids, attention_mask, image_of, text_of, pairs_at_once: int = 128):
        """Fuse picture `image_of[i]` with caption `text_of[i]` for each of B pairs: logits and scores [B]."""
        mask = _mask(input_ids, attention_mask)
        image, text = self._lower_image(pixel_values), self._lower_text(input_ids, mask)
        cosines = (self._embed_image(image) @ self._embed_text(text, mask).T)[image_of, text_of]
        pairs = zip(image_of.split(pairs_at_once), text_of.split(pairs_at_once), strict=True)
        logits = torch.cat([self._fused(image[i], text[t], mask[t])[2] for i, t in pairs])
        return logits, logits + self.config.rerank_weight * self.logit_scale() * cosines

    def logit_scale(self):
        """Return the contrastive scale: logits are scale x cosine."""
        return self.heads.log_scale.float().exp().clamp(max=self.config.logit_scale_max)

    def logit_bias(self):
        """Return the bias of the sigmoid loss: a pair is right with probability sigmoid(scale x cosine + bias)."""
        if self.heads.sigmoid is None:
            raise ValueError("this checkpoint was trained without the sigmoid loss and has no bias")
        return self.heads.sigmoid.bias.float()

    def answer_logits(self, pixel_values, input_ids, attention_mask=None):
        """Return the logit of every answer to question i about picture i: [B,answers], in the order of `id2label`."""
        if self.heads.vqa is None:
            if self.config.answering_decoder:
                raise ValueError(
                    "this checkpoint has no vqa head; its decoder answers: rank answers with answer_likelihoods, or "
                    "write an answer with generate"
                )
            raise ValueError("this checkpoint was trained without the vqa loss and answers no questions")
        features = self._features(pixel_values, input_ids, attention_mask)
        return self.heads.vqa(features[:, : -self.config.embed_width])

    def answer(self, pixel_values, input_ids, attention_mask=None):
        """Return the best answer to question i about picture i: B strings."""
        best = self.answer_logits(pixel_values, input_ids, attention_mask).argmax(-1)
        words = self.config.id2label or {}
        return [words[i] for i in best.tolist()]

    def judge(self, pixel_values, input_ids, attention_mask=None):
        """Return logits [B] that statement i is true of its pictures [B,k,3,H,W], in order; [B,3,H,W] for k = 1."""
        if self.heads.nlvr2 is None:
            raise ValueError("this checkpoint was trained without the nlvr2 loss and judges no statements")
        k, mask = self.config.pictures, _mask(input_ids, attention_mask)
        ids, mask = input_ids.repeat_interleave(k, 0), mask.repeat_interleave(k, 0)
        features = self._features(pixel_values.reshape(-1, *pixel_values.shape[-3:]), ids, mask)
        return self.heads.nlvr2(features.reshape(len(input_ids), -1))[:, 0]

    def classify(self, loss, pixel_values, input_ids, attention_mask=None):
        """Return the logits [B,classes] of the classifier trained with `loss` for picture i with text i."""
        if loss not in self.config.classifiers:
            known = ", ".join(self.config.classifiers) or "none"
            raise ValueError(f"this checkpoint has no classifier {loss!r}; it has: {known}")
        width, _ = self.config.classifiers[loss]  # the classifier reads so many of the features, from the first
        return getattr(self.heads, loss)(self._features(pixel_values, input_ids, attention_mask)[:, :width])

    def _features(self, pixel_values, input_ids, attention_mask):
        """Return both sides' finished states, averaged, and the product of the fused embeddings times E."""
        output, mask = self(pixel_values, input_ids, attention_mask), _mask(input_ids, attention_mask)
        common = self.config.embed_width * output.fused_text_embeds * output.fused_image_embeds
        return torch.cat([pool(output.text_states, mask), pool(output.image_states, None), common], -1)

    def generate(self, pixel_values, input_ids, attention_mask=None, num_beams=None, length_penalty=None):
        """Caption pictures, or answer questions about them. Return ids [B,T] for the tokenizer to decode.

        `input_ids` [B,L]: the questions, or for captions an empty text, whose two tokens begin and end a caption.
        `num_beams` and `length_penalty` default to those of the config.
        """
        decoder, memory = self._decoder(), self._memory(pixel_values, input_ids, attention_mask)
        last = _mask(input_ids, attention_mask)[0].sum() - 1
        beams = self.config.caption_decoder["beams"] if num_beams is None else num_beams
        penalty = self.config.caption_decoder["length_penalty"] if length_penalty is None else length_penalty
        return decoder.beam(memory, int(input_ids[0, 0]), int(input_ids[0, last]), beams, penalty)

    def caption_logits(self, pixel_values, input_ids, attention_mask, caption_ids):
        """Return logits [B,T,vocabulary] of every next word of captions [B,T]. `input_ids` as for `generate`."""
        return self._decoder()(caption_ids, self._memory(pixel_values, input_ids, attention_mask))[0]

    def answer_likelihoods(self, pixel_values, input_ids, attention_mask, answer_ids, answer_mask):
        """Return the log-likelihood [B,A] of each of the answers [A,T], end token included, to question i on picture i.

        Pass the answers as the tokenizer returns them, padded on the right; `answer_mask` is its attention mask.
        """
        if not self.config.answering_decoder:
            raise ValueError("this checkpoint was trained without the vqa_generative loss: no decoder answers")
        memory = self._memory(pixel_values, input_ids, attention_mask)
        return self._decoder().likelihoods(memory, answer_ids, answer_mask.bool())

    def _decoder(self):
        if self.decoder is None:
            raise ValueError("this checkpoint was trained with neither the caption nor the vqa_generative loss")
        return self.decoder

    def _memory(self, pixel_values, input_ids, attention_mask):
        decoder, image = self._decoder(), self._lower_image(pixel_values)
        if self.config.caption_decoder["reads"] == "image":
            return decoder.read(self._finish_image(image))
        mask = _mask(input_ids, attention_mask)
        fused = self._fused(image, self._lower_text(input_ids, mask), mask)
        return decoder.read(fused[3], (fused[4], mask))

    def masked_token_logits(self, pixel_values, input_ids, attention_mask=None):
        """Predict the words behind [MASK] with the picture's help: [B,T,vocabulary]."""
        if self.heads.mlm is None:
            raise ValueError("this checkpoint was trained without the mlm loss and has no masked-language head")
        return self.heads.mlm(self(pixel_values, input_ids, attention_mask).text_states)

    def masked_patch_prediction(self, pixel_values, input_ids, attention_mask, bool_masked_pos):
        """Predict the hidden patches with the caption's help: [B,patches,target]."""
        if self.heads.mim is None:
            raise ValueError("this checkpoint was trained without the mim loss and has no masked-image head")
        states = self(pixel_values, input_ids, attention_mask, bool_masked_pos).image_states
        return self.heads.mim(states[:, image_prefix(self.config.vision_config) :])

    def _lower_image(self, pixel_values, bool_masked_pos=None):
        """Run the image tower up to the first block that the bridge follows, inclusive."""
        side = self.config.image_size
        if pixel_values.shape[1:] != (3, side, side):
            raise ValueError(f"pixel_values: expected [B,3,{side},{side}], got {list(pixel_values.shape)}")
        stop = [*self.config.image_after, self.config.vision_config["num_hidden_layers"] - 1][0] + 1
        states = self.vision_model.blocks(self.vision_model.embed(pixel_values, bool_masked_pos), 0, stop)
        return self.vision_model.finish(states) if self.config.finish_before else states

    def _lower_text(self, input_ids, mask):
        if input_ids.shape[1] > self.config.text_length:
            raise ValueError(f"input_ids: at most {self.config.text_length} tokens, got {input_ids.shape[1]}")
        stop = [*self.config.text_after, self.config.text_config["num_hidden_layers"] - 1][0] + 1
        states = self.text_model.blocks(self.text_model.embed(input_ids), mask, 0, stop)
        return self.text_model.finish(states) if self.config.finish_before else states

    def _finish_image(self, states):
        if self.config.finish_before:
            return states
        depth = self.config.vision_config["num_hidden_layers"]
        return self.vision_model.finish(self.vision_model.blocks(states, self.config.image_after[0] + 1, depth))

    def _embed_image(self, states):
        return self.heads.unimodal_image(pool(self._finish_image(states), None))

    def _embed_text(self, states, mask):
        if not self.config.finish_before:
            depth = self.config.text_config["num_hidden_layers"]
            states = self.text_model.finish(self.text_model.blocks(states, mask, self.config.text_after[0] + 1, depth))
        return self.heads.unimodal_text(pool(states, mask))

    def _fused(self, image, text, mask):
        """Run the upper towers with the interaction: embeddings, match logit, states."""
        config = self.config
        image_stops = [*config.image_after[1:], config.vision_config["num_hidden_layers"] - 1]
        text_stops = [*config.text_after[1:], config.text_config["num_hidden_layers"] - 1]
        token_term = 0.0
        if self.heads.token_itc is not None:
            first = self.bridge.layers[0]
            assert isinstance(first, Interaction)
            token_term = self.heads.token_itc(first.token_similarity(image, text, mask))
        for q, layer in enumerate(self.bridge.layers):
            image, text = layer(image, text, mask)
            image = self.vision_model.blocks(image, config.image_after[q] + 1, image_stops[q] + 1)
            text = self.text_model.blocks(text, mask, config.text_after[q] + 1, text_stops[q] + 1)
        if not config.finish_before:
            image, text = self.vision_model.finish(image), self.text_model.finish(text)
        image_embeds, text_embeds = self.heads.fused_image(pool(image, None)), self.heads.fused_text(pool(text, mask))
        match_logits = self.heads.itm(text_embeds, image_embeds) + token_term
        return image_embeds, text_embeds, match_logits, image, text


class BridgeForSequenceClassification(BridgeModel):
    """Score picture i with text i: sentence-transformers' CrossEncoder loads this class."""

    def __init__(self, config: BridgeConfig):
        if config.design == "none":
            raise ValueError("this checkpoint has no bridge (design none) and scores no pairs: use SentenceTransformer")
        super().__init__(config)

    def forward(self, pixel_values, input_ids, attention_mask=None, image_of=None, text_of=None, return_dict=True):
        """Return `logits` [B,1], the scores of `match_pairs`. Without `image_of` and `text_of`, rows i are a pair."""
        rows = torch.arange(len(input_ids))
        pairs = (rows, rows) if image_of is None else (image_of, text_of)
        _, scores = self.match_pairs(pixel_values, input_ids, attention_mask, *pairs)
        return SequenceClassifierOutput(logits=scores[:, None])


class BridgeForZeroShotImageClassification(BridgeModel):
    """Compare every picture with every text, each alone: the pipeline of that name loads this class."""

    def forward(self, pixel_values, input_ids, attention_mask=None, return_dict=True):
        images, texts = self.get_image_features(pixel_values), self.get_text_features(input_ids, attention_mask)
        return ZeroShotOutput(self.logit_scale() * images @ texts.T)


def _mask(input_ids, attention_mask):
    return torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
