"""The command line tools/import_hf.py: its printed section parses back into the record that imports."""

import ast
import dataclasses

import pytest

from bridge_jax.config import Text, Vision
from bridge_jax.interop import hf_import
from tests import process
from tools import import_hf


def printed(out: str, name: str) -> dict:
    start = out.index(f"{name} = dict(")
    call = ast.parse(out[start : out.index("\n)\n", start) + 3]).body[0].value
    return {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}


def test_vision_section_imports_as_printed(vit_folder, vision, capsys):
    path = vit_folder.write()
    import_hf.main(["import_hf", str(path)])
    out = capsys.readouterr().out
    cfg = Vision(**printed(out, "vision"))
    assert cfg == dataclasses.replace(vision, pretrained=str(path))
    imported = hf_import.import_vision(path, cfg)
    assert f"{sum(array.size for array in vit_folder.tensors.values()):,}" in out
    assert f"│ tensors used    │ {len(imported.used)} " in out
    assert "the source has no preprocessor_config.json" in out


def test_text_section_imports_as_printed(bert_folder, text, capsys):
    path = bert_folder.write()
    import_hf.main(["import_hf", str(path)])
    cfg = Text(**printed(capsys.readouterr().out, "text"))
    assert cfg == dataclasses.replace(text, pretrained=str(path), length=10, dropout=0.0)


@pytest.mark.parametrize(
    ("model_type", "line"),
    [
        ("siglip2", "model_type 'siglip2' is not supported; supported: vit, dinov2, dinov2_with_registers, "),
        (None, "'model_type' is missing"),
    ],
)
def test_what_cannot_be_imported_exits_2_with_one_line(bert_folder, model_type, line):
    bert_folder.config["model_type"] = model_type
    if model_type is None:
        del bert_folder.config["model_type"]
    done = process.run("tools.import_hf", bert_folder.write())
    assert (done.returncode, done.stdout) == (2, "")
    assert line in done.stderr
    assert done.stderr.count("\n") == 1
