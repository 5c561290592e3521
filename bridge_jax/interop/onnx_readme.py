"""The README.md of a folder of ONNX graphs: lines that run them, in Python and in a browser."""

_EMBEDDINGS = """\
# A BRIDGE model as ONNX

```python
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer

folder = Path("FOLDER")


def load(name):
    session = onnxruntime.InferenceSession(folder / f"{name}.onnx")
    outputs = [output.name for output in session.get_outputs()]
    return lambda **inputs: dict(zip(outputs, session.run(None, inputs)))


def words(captions):
    encoded = tokenizer.encode_batch(captions)
    mask = np.array([e.attention_mask for e in encoded])
    return {"input_ids": np.array([e.ids for e in encoded]), "attention_mask": mask}


tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
image_embedding, text_embedding = load("image_embedding"), load("text_embedding")
settings = json.loads((folder / "preprocessor_config.json").read_text())
picture = Image.open("a.jpg").convert("RGB").resize((settings["image_size"],) * 2, Image.Resampling.BICUBIC)
pixels = (np.float32(picture) / 255 - np.float32(settings["image_mean"])) / np.float32(settings["image_std"])
image = image_embedding(pixel_values=pixels.transpose(2, 0, 1)[None])
captions = words(["a dog", "a house"])
texts = text_embedding(**captions)
print(image["image_embeds"] @ texts["text_embeds"].T)  # the order of a search
```

Any number of pictures or captions at once; captions are padded as `tokenizer.json` pads them. Give square pictures:
training cuts the centre square.
"""
_MATCH = """
## The match

Row i of the pictures is matched with row i of the captions. A search ranks by embeddings, keeps the states of its
pictures or computes those of the best candidates, and orders these anew by `scores`.

```python
match = load("match")
both = {name: value.repeat(2, axis=0) for name, value in image.items()}  # the picture, beside each of two captions
found = match(**both, **texts, attention_mask=captions["attention_mask"])
print(found["match_logits"], found["scores"])
```
"""
_DECODER = """
## The decoder

It writes the likeliest next word until the text ends.

```python
decoder_memory, decoder_step = load("decoder_memory"), load("decoder_step")
frame = words([""]){question}
start, *_, end = frame["input_ids"][frame["attention_mask"] == 1].tolist()
{memory}
past, caption = memory["memory"][..., :0, :], [start]
while caption[-1] != end and len(caption) < frame["input_ids"].shape[1] - 1:
    step = decoder_step(word_ids=np.array([caption[-1:]]), past=past, **memory)
    past, caption = step["present"], [*caption, int(step["logits"][0].argmax())]
print(tokenizer.decode(caption))
```
"""
_MEMORY = {
    "image": 'memory = decoder_memory(image_states=image["image_states"])',
    "fused": """\
read = {"text_states": text_embedding(**frame)["text_states"], "attention_mask": frame["attention_mask"]}
memory = decoder_memory(image_states=image["image_states"], **read)""",
}
_BROWSER = """
## In a browser

After `npm install onnxruntime-web@1.30.0 @huggingface/tokenizers@0.2.0`; a bundler or an import map finds the two. A
canvas resizes pictures a little otherwise than training does.

```javascript
import * as ort from "onnxruntime-web/wasm";
import { Tokenizer } from "@huggingface/tokenizers";

const json = async name => (await fetch(`FOLDER/${name}.json`)).json();
const load = name => ort.InferenceSession.create(`FOLDER/${name}.onnx`);
const [settings, vocabulary] = [await json("preprocessor_config"), await json("tokenizer")];
const tokenizer = new Tokenizer(vocabulary, {}), { pad_id, strategy } = vocabulary.padding;

async function pixels(url) {
  const side = settings.image_size, { image_mean, image_std } = settings;
  const canvas = new OffscreenCanvas(side, side).getContext("2d");
  canvas.imageSmoothingQuality = "high";
  canvas.drawImage(await createImageBitmap(await (await fetch(url)).blob()), 0, 0, side, side);
  const { data } = canvas.getImageData(0, 0, side, side), planes = new Float32Array(3 * side * side);
  for (let i = 0; i < side * side; i++)
    for (let c = 0; c < 3; c++) planes[c * side * side + i] = (data[4 * i + c] / 255 - image_mean[c]) / image_std[c];
  return new ort.Tensor(planes, [1, 3, side, side]);
}

function words(captions) {
  const ids = [], mask = [], length = strategy.Fixed;
  for (const caption of captions) {
    const all = tokenizer.encode(caption).ids;
    const kept = all.length > length ? [...all.slice(0, length - 1), all.at(-1)] : all;
    for (let i = 0; i < length; i++) {
      ids.push(BigInt(i < kept.length ? kept[i] : pad_id));
      mask.push(BigInt(i < kept.length));
    }
  }
  const tensor = values => new ort.Tensor("int64", values, [captions.length, length]);
  return { input_ids: tensor(ids), attention_mask: tensor(mask) };
}

const [imageEmbedding, textEmbedding] = [await load("image_embedding"), await load("text_embedding")];
const image = await imageEmbedding.run({ pixel_values: await pixels("a.jpg") });
const captions = words(["a dog", "a house"]);
const texts = await textEmbedding.run(captions);
```
"""
_BROWSER_MATCH = """
The match, after it:

```javascript
const match = await load("match");

function repeat(tensor, times) {
  const values = new Float32Array(times * tensor.size);
  for (let i = 0; i < times; i++) values.set(tensor.data, i * tensor.size);
  return new ort.Tensor(values, [times, ...tensor.dims.slice(1)]);
}

const both = Object.fromEntries(Object.entries(image).map(([name, value]) => [name, repeat(value, 2)]));
const found = await match.run({ ...both, ...texts, attention_mask: captions.attention_mask });
```
"""


def text(match: bool, reads: str) -> str:
    """Return the README. `match`: the folder has that graph. `reads`: what its decoder reads, or empty without one."""
    parts = [_EMBEDDINGS]
    if match:
        parts.append(_MATCH)
    if reads:
        question = "  # of a decoder that answers: the question" if reads == "fused" else ""
        parts.append(_DECODER.format(memory=_MEMORY[reads], question=question))
    parts.append(_BROWSER)
    if match:
        parts.append(_BROWSER_MATCH)
    return "".join(parts)
