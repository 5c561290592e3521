"""Write a model as ONNX graphs, with PyTorch's own exporter, from a folder of tools.export_pytorch.

    image_embedding.onnx   pixel_values float32 [b,3,H,W], normalised -> image_embeds [b,E], image_states [b,P,D]
    text_embedding.onnx    input_ids, attention_mask int64 [b,T] -> text_embeds [b,E], text_states [b,T,D]
    match.onnx             both embeddings and states, attention_mask: row i with row i -> match_logits, scores [b]
    decoder_memory.onnx    image_states, of a decoder that reads both sides also the text's -> memory, memory_mask
    decoder_step.onnx      word_ids [b,1], past, memory, memory_mask -> logits [b,V], present
    tokenizer.json, preprocessor_config.json, README.md

The states are those before the first interaction layer, so a search keeps them and reranks without the blocks below.
`memory` and `past` are keys and values, [b,layers,2,heads,tokens,width / heads]; `past` begins without tokens.

PyTorch's exporter is used rather than a converter of JAX programs: jax2onnx 0.17 requires orbax-checkpoint < 0.12, and
this way the graph has the names of the PyTorch model. Needs the extra: pip install 'bridge_jax[onnx]'.
"""

import contextlib
import io
import logging
import shutil
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from onnxruntime import quantization
from onnxruntime.quantization import quant_utils
from transformers.utils import logging as transformers_logging

from bridge_jax.config import ConfigError
from bridge_jax.interop import hf_import, onnx_readme, torch_export
from bridge_jax.interop.torch_model.modeling_bridge import BridgeModel

PARTS = ("match", "decoder")
MOST_BYTES = 2**31 - 2**20  # limit of a protocol buffer; a larger model keeps its weights in a file beside it


class _Functions(BridgeModel):
    """The functions of the graphs, each of tensors alone."""

    def image_embedding(self, pixel_values):
        states = self._lower_image(pixel_values)
        return self._embed_image(states), states

    def text_embedding(self, input_ids, attention_mask):
        mask = attention_mask.bool()
        states = self._lower_text(input_ids, mask)
        return self._embed_text(states, mask), states

    def match_states(self, image_embeds, image_states, text_embeds, text_states, attention_mask):
        logits = self._fused(image_states, text_states, attention_mask.bool())[2]
        cosines = (image_embeds * text_embeds).sum(-1)
        return logits, logits + self.config.rerank_weight * self.logit_scale() * cosines

    def decoder_memory(self, image_states, *text):
        """Without `text`, its states and mask, the decoder reads the picture alone."""
        decoder = self._decoder()
        if text:
            mask = text[1].bool()
            *_, image_states, text_states = self._fused(image_states, text[0], mask)
            keys, mask = decoder.read(image_states, (text_states, mask))
        else:
            keys, mask = decoder.read(self._finish_image(image_states))
        return _stack(keys), mask

    def decoder_step(self, word_ids, past, memory, memory_mask):
        logits, kept = self._decoder()(word_ids, (_unstack(memory), memory_mask), _unstack(past))
        return logits[:, 0], _stack(kept)


def _stack(keys):
    return torch.stack([torch.stack(pair, 1) for pair in keys], 1)


def _unstack(memory):
    return [pair.unbind(1) for pair in memory.unbind(1)]


class _Module(torch.nn.Module):
    """One function as a module, which is what the exporter takes."""

    def __init__(self, model: _Functions, function: str, outputs: int):
        super().__init__()
        self.model, self.function, self.outputs = model, function, outputs

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return getattr(self.model, self.function)(*inputs)[: self.outputs]


class _Graph(NamedTuple):
    """A file to write: examples of its inputs, and the names of its outputs."""

    name: str
    function: str
    inputs: dict[str, torch.Tensor]
    outputs: Sequence[str]


def export(
    source: str | Path, out: str | Path, parts: Collection[str] | None = None, int8: bool = False
) -> dict[str, int]:
    """Write the new folder `out` from `source`, a folder of tools.export_pytorch, whole or not at all.

    `parts` are those of PARTS to write beside the embeddings, by default all that the model has. With `int8`, the
    weights of linear layers and of the table of words are uint8, and onnxruntime rounds the layers' inputs as it runs.
    Return the bytes of each graph.

    Raises ConfigError if `source` is no such folder or lacks a part, or `out` exists or cannot be written.
    """
    if hf_import.model_type(source) != torch_export.MODEL_TYPE:
        raise ConfigError(f"{source}: expected a folder that tools.export_pytorch wrote, got another model")
    folder = hf_import.fetch(source)
    transformers_logging.disable_progress_bar()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of torchvision, which nothing here needs
    model = _Functions.from_pretrained(folder).eval()
    has = _parts(model, source, parts)
    sizes = {}
    with torch_export.new_folder(out) as target:
        for graph in _graphs(model, has):
            _write(_Module(model, graph.function, len(graph.outputs)), graph, target, int8)
            sizes[graph.name] = sum(file.stat().st_size for file in target.glob(f"{graph.name}.onnx*"))
        for name in (torch_export.VOCABULARY, "preprocessor_config.json"):
            shutil.copyfile(folder / name, target / name)
        reads = model.config.caption_decoder["reads"] if "decoder" in has else ""
        (target / "README.md").write_text(onnx_readme.text("match" in has, reads), encoding="utf-8")
    return sizes


def _parts(model: _Functions, source: str | Path, parts: Collection[str] | None) -> set[str]:
    """Return the parts to write. Raises ConfigError for one that is asked for and that the model lacks."""
    has = {"match": bool(model.config.image_after), "decoder": model.decoder is not None}
    for part in parts or ():
        if part not in has:
            raise ConfigError(f"--parts: {part!r} is none; expected any of {', '.join(PARTS)}")
        if not has[part]:
            missing = {"match": "bridge", "decoder": "decoder"}[part]
            raise ConfigError(f"{source} has no {missing}: leave {part} out of --parts")
    return {part for part in PARTS if (has[part] if parts is None else part in parts)}


def _graphs(model: _Functions, parts: set[str]) -> Iterator[_Graph]:
    """Yield the graphs of the embeddings and of the parts."""
    config, fused = model.config, "decoder" in parts and model.config.caption_decoder["reads"] == "fused"
    pixels = torch.zeros(2, 3, config.image_size, config.image_size)
    ids = torch.ones(2, config.text_length, dtype=torch.long)
    text = {"input_ids": ids, "attention_mask": ids.clone()}  # the same tensor twice would become one input
    image_outputs = ("image_embeds", *(("image_states",) if parts else ()))
    text_outputs = ("text_embeds", *(("text_states",) if "match" in parts or fused else ()))
    yield _Graph("image_embedding", "image_embedding", {"pixel_values": pixels}, image_outputs)
    yield _Graph("text_embedding", "text_embedding", text, text_outputs)
    if not parts:
        return
    with torch.no_grad():
        image = dict(zip(("image_embeds", "image_states"), model.image_embedding(pixels), strict=True))
        words = dict(zip(("text_embeds", "text_states"), model.text_embedding(**text), strict=True))
    mask = {"attention_mask": ids}
    if "match" in parts:
        yield _Graph("match", "match_states", image | words | mask, ("match_logits", "scores"))
    if "decoder" in parts:
        reads = {"image_states": image["image_states"]}
        if fused:
            reads |= {"text_states": words["text_states"]} | mask
        yield _Graph("decoder_memory", "decoder_memory", reads, ("memory", "memory_mask"))
        with torch.no_grad():
            memory = dict(zip(("memory", "memory_mask"), model.decoder_memory(*reads.values()), strict=True))
        step = {"word_ids": ids[:, :1], "past": memory["memory"][..., :3, :].clone()}
        yield _Graph("decoder_step", "decoder_step", step | memory, ("logits", "present"))


def _write(module: _Module, graph: _Graph, folder: Path, int8: bool) -> None:
    batch, words = torch.export.Dim("batch"), torch.export.Dim("words", max=module.model.config.text_length)
    shapes = tuple({0: batch, 4: words} if name == "past" else {0: batch} for name in graph.inputs)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # the exporter reports on both
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            tuple(graph.inputs.values()),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=(shapes,),
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # it is None only if torch.onnx.export itself writes a file
    weights = [value.const_value for value in program.model.graph.initializers.values()]
    external = sum(weight.nbytes for weight in weights if weight is not None) > MOST_BYTES
    file = folder / f"{graph.name}.onnx"
    if not int8:
        program.save(file, external_data=external)
        return
    proto = program.model_proto
    quant_utils.add_pre_process_metadata(proto)  # else it warns that the graph may not be folded, which it is
    quantization.quantize_dynamic(
        proto,
        file,
        op_types_to_quantize=["MatMul", "Gather"],
        per_channel=True,
        weight_type=quantization.QuantType.QUInt8,  # signed ones overflow on CPUs with AVX2 and without VNNI
        use_external_data_format=external,
    )
