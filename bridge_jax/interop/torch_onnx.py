"""Write the two embedding functions as ONNX, with PyTorch's own exporter, from a folder of tools.export_pytorch.

    image_embedding.onnx   pixel_values float32 [batch,3,H,W], normalised -> image_embeds [batch,E], of length one
    text_embedding.onnx    input_ids, attention_mask int64 [batch,T] -> text_embeds [batch,E]
    tokenizer.json, preprocessor_config.json, README.md

PyTorch's exporter is used rather than a converter of JAX programs: jax2onnx 0.17 requires orbax-checkpoint < 0.12, and
this way the graph has the names of the PyTorch model. Needs the extra: pip install 'bridge_jax[onnx]'.
"""

import contextlib
import io
import logging
import shutil
import warnings
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from bridge_jax.config import ConfigError
from bridge_jax.interop import hf_import, torch_export
from bridge_jax.interop.torch_model.modeling_bridge import BridgeModel

MOST_BYTES = 2**31 - 2**20  # limit of a protocol buffer; a larger model keeps its weights in a file beside it
_README = """\
# The embeddings of a BRIDGE model as ONNX

```python
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer

image_embedding = onnxruntime.InferenceSession("FOLDER/image_embedding.onnx")
text_embedding = onnxruntime.InferenceSession("FOLDER/text_embedding.onnx")
settings = json.loads(Path("FOLDER/preprocessor_config.json").read_text())
picture = Image.open("a.jpg").convert("RGB").resize((settings["image_size"],) * 2, Image.Resampling.BICUBIC)
pixels = (np.float32(picture) / 255 - np.float32(settings["image_mean"])) / np.float32(settings["image_std"])
images = image_embedding.run(None, {"pixel_values": pixels.transpose(2, 0, 1)[None]})[0]
encoded = Tokenizer.from_file("FOLDER/tokenizer.json").encode_batch(["a dog", "a house"])
texts = text_embedding.run(None, {
    "input_ids": np.array([e.ids for e in encoded]), "attention_mask": np.array([e.attention_mask for e in encoded])
})[0]
print(images @ texts.T)  # the order of a search
```

Any number of pictures or captions at once; captions are padded as `tokenizer.json` pads them. Give square pictures:
training cuts the centre square. The match of a pair is not here: see tools.export_pytorch and tools.export_stablehlo.
"""


class _Image(torch.nn.Module):
    def __init__(self, model: BridgeModel):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model.get_image_features(pixel_values)


class _Text(torch.nn.Module):
    def __init__(self, model: BridgeModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model.get_text_features(input_ids, attention_mask)


def export(source: str | Path, out: str | Path) -> None:
    """Write the new folder `out` from `source`, a folder of tools.export_pytorch, whole or not at all.

    Raises ConfigError if `source` is no such folder, or `out` exists or cannot be written.
    """
    if hf_import.model_type(source) != torch_export.MODEL_TYPE:
        raise ConfigError(f"{source}: expected a folder that tools.export_pytorch wrote, got another model")
    folder = hf_import.fetch(source)
    transformers_logging.disable_progress_bar()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of torchvision, which nothing here needs
    model = BridgeModel.from_pretrained(folder).eval()
    config = model.config
    pixels = torch.zeros(2, 3, config.image_size, config.image_size)
    ids = torch.ones(2, config.text_length, dtype=torch.long)
    with torch_export.new_folder(out) as target:
        _write(_Image(model), {"pixel_values": pixels}, "image_embeds", target / "image_embedding.onnx")
        words = {"input_ids": ids, "attention_mask": ids.clone()}  # the same tensor twice would become one input
        _write(_Text(model), words, "text_embeds", target / "text_embedding.onnx")
        for name in (torch_export.VOCABULARY, "preprocessor_config.json"):
            shutil.copyfile(folder / name, target / name)
        (target / "README.md").write_text(_README, encoding="utf-8")


def _write(module: torch.nn.Module, inputs: dict[str, torch.Tensor], output: str, file: Path) -> None:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # the exporter reports on both
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            kwargs=inputs,
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes={name: {0: torch.export.Dim("batch")} for name in inputs},
            dynamo=True,
            verbose=False,
        )
        assert program is not None  # it is None only if torch.onnx.export itself writes a file
        size = sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
        program.save(file, external_data=size > MOST_BYTES)
