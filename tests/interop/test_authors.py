"""The authors' layout: their forward pass written anew in PyTorch from docs/method.md 7.2, and both ways between us."""

import dataclasses
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from bridge_jax import config, paths
from bridge_jax.config import ConfigError
from bridge_jax.interop import authors, hf_config, names_authors
from bridge_jax.interop.torch_model.modeling_bridge_towers import Dense, TextTower, VisionTower
from bridge_jax.workdir.checkpoint import Checkpoints
from tests import process
from tests import tiny as tiny_model


class Block(nn.Module):
    """Their interaction layer."""

    def __init__(self, D_v, D_t, S, heads):
        super().__init__()
        self.heads = heads
        self.vision_norm, self.text_norm = nn.LayerNorm(D_v), nn.LayerNorm(D_t)
        self.vision_to_shared, self.text_to_shared = nn.Linear(D_v, S), nn.Linear(D_t, S)
        self.Q_text, self.K_vision_to_text, self.V_vision_to_text, self.O_text = (nn.Linear(S, S) for _ in range(4))
        self.Q_vision, self.K_text_to_vision, self.V_text_to_vision, self.O_vision = (nn.Linear(S, S) for _ in range(4))
        self.shared_to_text, self.shared_to_vision = nn.Linear(S, D_t), nn.Linear(S, D_v)
        for name in ("tau_text_param", "tau_vision_param", "gate_text_bias", "gate_vision_bias"):
            setattr(self, name, nn.Parameter(torch.zeros(())))

    def attend(self, q, k, v, tau, bias):
        def split(x):
            return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)

        q, k = F.normalize(split(q), dim=-1), F.normalize(split(k), dim=-1)
        weights = (torch.matmul(q, k.mT) / F.softplus(tau) + bias).softmax(dim=-1)
        return torch.matmul(weights, split(v)).transpose(1, 2).reshape(*v.shape[:1], q.shape[2], v.shape[2])

    def forward(self, H_v, H_t):
        Z_v, Z_t = self.vision_to_shared(self.vision_norm(H_v)), self.text_to_shared(self.text_norm(H_t))
        if not hasattr(self, "bias_text_from_vision"):
            self.bias_text_from_vision = nn.Parameter(torch.zeros(Z_t.shape[1], Z_v.shape[1]))
            self.bias_vision_from_text = nn.Parameter(torch.zeros(Z_v.shape[1], Z_t.shape[1]))
        A_t = self.attend(self.Q_text(Z_t), self.K_vision_to_text(Z_v), self.V_vision_to_text(Z_v),
                          self.tau_text_param, self.bias_text_from_vision)  # fmt: skip
        A_v = self.attend(self.Q_vision(Z_v), self.K_text_to_vision(Z_t), self.V_text_to_vision(Z_t),
                          self.tau_vision_param, self.bias_vision_from_text)  # fmt: skip
        H_t = H_t + torch.sigmoid(self.gate_text_bias) * self.shared_to_text(self.O_text(A_t))
        H_v = H_v + torch.sigmoid(self.gate_vision_bias) * self.shared_to_vision(self.O_vision(A_v))
        return H_v, H_t, Z_v, Z_t


def masked_head(width, target):
    return nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, target))


class Theirs(nn.Module):
    """Their model: two towers with poolers, the blocks behind both, heads. Sizes are those of a config of ours."""

    def __init__(self, cfg: config.Config):
        super().__init__()
        D_v, D_t, S, E = cfg.vision.width, cfg.text.width, cfg.bridge.shared_width, cfg.bridge.embed_width
        self.depths = cfg.vision.depth, cfg.text.depth
        self.vision_encoder, self.text_encoder = nn.Module(), nn.Module()
        vision_config = hf_config.vision_config(cfg) | {"use_mask_token": False}
        self.vision_encoder.vit, self.text_encoder.bert = (
            VisionTower(vision_config),
            TextTower(hf_config.text_config(cfg)),
        )
        self.vision_encoder.vit.pooler, self.text_encoder.bert.pooler = Dense(D_v, D_v), Dense(D_t, D_t)
        self.interaction_layers = nn.ModuleList(Block(D_v, D_t, S, cfg.bridge.heads) for _ in range(cfg.bridge.layers))
        self.vision_pool_proj_cross, self.text_pool_proj_cross = nn.Linear(S, E), nn.Linear(S, E)
        self.vision_pool_proj_uni, self.text_pool_proj_uni = nn.Linear(D_v, E), nn.Linear(D_t, E)
        self.mlm_head, self.mim_head = masked_head(D_t, cfg.text.vocab_size), masked_head(D_v, D_v)
        self.itm_head = nn.Sequential(nn.Linear(2 * E + 1, E), nn.ReLU(), nn.Dropout(0.1), nn.Linear(E, 2))
        self.logit_scale, self.itc_alpha = nn.Parameter(torch.tensor(2.6592)), nn.Parameter(torch.tensor(0.5))

    def mean(self, states, mask):
        """Texts are averaged by the attention mask, which the blocks do not read."""
        return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    def forward(self, pixels, ids, mask):
        vit, bert = self.vision_encoder.vit, self.text_encoder.bert
        H_v = vit.finish(vit.blocks(vit.embed(pixels), 0, self.depths[0]))
        H_t = bert.blocks(bert.embed(ids), mask, 0, self.depths[1])
        u_v = F.normalize(self.vision_pool_proj_uni(H_v.mean(1)), dim=-1)
        u_t = F.normalize(self.text_pool_proj_uni(self.mean(H_t, mask)), dim=-1)
        for block in self.interaction_layers:
            H_v, H_t, Z_v, Z_t = block(H_v, H_t)
        p_v = F.normalize(self.vision_pool_proj_cross(Z_v.mean(1)), dim=-1)
        p_t = F.normalize(self.text_pool_proj_cross(self.mean(Z_t, mask)), dim=-1)
        return u_v, u_t, p_v, p_t, self.itm_head(torch.cat([p_t, p_v, (p_t * p_v).sum(1, keepdim=True)], dim=1))


def small(**sections):
    return tiny_model.config(
        bridge=dict(placement="after", layers=3), stage=dict(losses=("itc", "mlm", "mim")), **sections
    )


@pytest.fixture(scope="module")
def cfg():
    return small()


@pytest.fixture(scope="module")
def batch(cfg):
    return tiny_model.batch(cfg)


def inputs(cfg, batch):
    pixels = (batch.images.astype(np.float32) / 255 - np.float32(cfg.vision.mean)) / np.float32(cfg.vision.std)
    return torch.tensor(pixels.transpose(0, 3, 1, 2)), torch.tensor(batch.ids).long(), torch.tensor(batch.text_mask)


@pytest.fixture(scope="module")
def theirs(cfg, batch):
    """A model of theirs, run once, with every parameter drawn at random."""
    model = Theirs(cfg).eval()
    with torch.no_grad():
        model(*inputs(cfg, batch))
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            spread = 1 / parameter.shape[1] ** 0.5 if parameter.ndim == 2 else 0.3
            parameter += spread * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(scope="module")
def file(theirs, tmp_path_factory):
    """Their state dict, with the position biases as they have them after a forward pass."""
    path = tmp_path_factory.mktemp("theirs") / "theirs.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in theirs.state_dict().items()}, path)
    return path


def assert_equal(cfg, batch, params, model):
    with torch.no_grad():
        expected = model(*inputs(cfg, batch))
    found = dataclasses.astuple(authors.forward(cfg, params, batch.images, batch.ids, batch.text_mask))
    for ours, want in zip(found, expected, strict=True):
        assert ours.shape == tuple(want.shape)
        assert np.abs(np.asarray(ours) - want.numpy()).max() <= 1e-5
    assert np.abs(np.asarray(found[0]) - np.asarray(found[2])).max() > 0.1


def test_a_model_as_built_has_exactly_the_keys_of_the_table(cfg):
    shapes = {name: tuple(tensor.shape) for name, tensor in Theirs(cfg).state_dict().items()}
    assert shapes == names_authors.layout(cfg.vision, cfg.text, cfg.bridge)


def test_our_forward_is_theirs(cfg, batch, theirs, file):
    params, notes = authors.read(file, cfg)
    assert notes == []
    assert_equal(cfg, batch, params, theirs)


def test_reading_and_writing_give_the_same_bits(cfg, batch, theirs, file, tmp_path):
    params, _ = authors.read(file, cfg)
    authors.write(tmp_path / "again", cfg, params)
    weights, biases = (load_file(tmp_path / "again" / name) for name in (authors.WEIGHTS, authors.BIASES))
    stored = load_file(file)
    assert stored.keys() == weights.keys() | biases.keys()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in (weights | biases).items())
    again, notes = authors.read(tmp_path / "again", cfg)
    assert notes == []
    before, after = paths.flatten(params), paths.flatten(again)
    assert all(before[path].tobytes() == after[path].tobytes() for path in before | after)
    built = Theirs(cfg).eval()
    built.load_state_dict(weights, strict=True)
    with torch.no_grad():
        built(*inputs(cfg, batch))
    assert built.load_state_dict(biases, strict=False).unexpected_keys == []
    assert_equal(cfg, batch, params, built)


def test_our_checkpoint_becomes_theirs_and_comes_back(cfg, batch, tmp_path):
    ours = tiny_model.params(cfg)
    params, fresh = authors.to_theirs(cfg, ours)
    assert all(re.match(r"(vision|text)/pooler|heads/(fused_|itm|alpha|mim/out)", path) for path in fresh)
    authors.write(tmp_path / "theirs", cfg, params, fresh)
    assert "heads/alpha" in (tmp_path / "theirs/README.md").read_text()
    model = Theirs(cfg).eval()
    model.load_state_dict(load_file(tmp_path / "theirs" / authors.WEIGHTS), strict=True)
    with torch.no_grad():
        model(*inputs(cfg, batch))
    model.load_state_dict(load_file(tmp_path / "theirs" / authors.BIASES), strict=False)
    assert_equal(cfg, batch, params, model)

    back, anew = authors.to_ours(cfg, authors.read(tmp_path / "theirs", cfg)[0])
    back, ours = paths.flatten(back), paths.flatten(ours)
    assert back.keys() == ours.keys()
    assert set(anew) == {p for p in ours if re.match("heads/(fused_|itm/|mim/out)|vision/mask_token", p)}
    for path in back.keys() - set(anew):
        assert np.asarray(back[path]).tobytes() == np.asarray(ours[path]).tobytes(), path
    np.testing.assert_array_equal(back["heads/fused_image/linear/kernel"], ours["heads/unimodal_image/linear/kernel"])


def test_position_biases_are_zero_or_resized_and_it_is_said(cfg, file, tmp_path):
    stored = load_file(file)
    name = "interaction_layers.1.bias_vision_from_text"
    ramp = torch.arange(3 * 3.0).reshape(3, 3) // 3  # rows of patches: 0, 1, 2
    stored[name] = torch.cat([torch.tensor([9.0]), ramp.flatten()])[:, None].repeat(1, 4) + torch.arange(4.0)
    del stored["interaction_layers.0.bias_text_from_vision"]
    save_file(stored, tmp_path / "changed.safetensors")
    params, notes = authors.read(tmp_path / "changed.safetensors", cfg)
    assert notes == [
        "interaction_layers.0.bias_text_from_vision is not stored: zero",
        f"{name} resized from (10, 4) to (5, 6)",
    ]
    assert not params["bridge"]["layer_0"]["text_over_image"]["position_bias"].any()
    bias = params["bridge"]["layer_1"]["image_over_text"]["position_bias"]
    square = F.interpolate(ramp[None, None], size=(2, 2), mode="bicubic").flatten().numpy()
    for t in range(4):
        np.testing.assert_allclose(bias[:, t], np.concatenate([[9.0], square]) + t, rtol=1e-5)
    assert not bias[:, 4:].any()


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        (dict(bridge=dict(layers=3)), "config.bridge.placement: expected 'after', as in the authors' model"),
        (dict(bridge=dict(placement="after", design="pooled")), "config.bridge.design: expected 'cross'"),
        (
            dict(bridge=dict(placement="after"), vision=dict(layer_scale=True)),
            "config.vision.layer_scale: expected False",
        ),
    ],
)
def test_another_architecture_is_refused(file, tmp_path, sections, says):
    cfg = tiny_model.config(**sections)
    with pytest.raises(ConfigError, match=re.escape(says)):
        authors.read(file, cfg)
    with pytest.raises(ConfigError, match=re.escape(says)):
        authors.write(tmp_path / "out", cfg, tiny_model.params(cfg))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("itm_head.3.weight", (3, 16), "tensor 'itm_head.3.weight' has shape (3, 16); expected (2, 16)"),
        ("interaction_layers.2.bias_text_from_vision", (6, 7), "bias_text_from_vision' has shape (6, 7); expected"),
        ("vqa_head.0.weight", (2, 2), "tensors that fill no parameter: vqa_head.0.weight; parameters without"),
        ("text_encoder.bert.embeddings.position_ids", (1, 8), None),
    ],
)
def test_tensors_that_do_not_fit_are_named(cfg, file, tmp_path, name, shape, says):
    save_file(load_file(file) | {name: torch.zeros(shape)}, tmp_path / "spoilt.safetensors")
    if says is None:
        assert authors.read(tmp_path / "spoilt.safetensors", cfg)
        return
    with pytest.raises(ConfigError, match=re.escape(says)):
        authors.read(tmp_path / "spoilt.safetensors", cfg)


def test_pickles_and_torn_files_are_never_read(cfg, file, tmp_path):
    torch.save({}, tmp_path / "theirs.pt")
    with pytest.raises(ConfigError, match=r"theirs.pt: expected a safetensors file. A .pt or .bin runs code"):
        authors.read(tmp_path / "theirs.pt", cfg)
    (tmp_path / "torn.safetensors").write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"torn.safetensors is not a whole safetensors file"):
        authors.read(tmp_path / "torn.safetensors", cfg)


def test_the_commands_go_both_ways(tiny, tmp_path, tiny_flags):
    flags = [flag for flag in tiny_flags if not flag.startswith("--config.bridge.placement=")]
    flags.append("--config.bridge.placement=after")
    settings = tiny()
    settings.bridge.placement = "after"
    cfg = config.parse(settings)
    saves = Checkpoints(tmp_path / "run")
    saves.save(5, "align", tiny_model.params(cfg), None, cfg)
    saves.close()
    out, back = tmp_path / "theirs", tmp_path / "back"
    done = process.run("tools.export_pytorch", f"--workdir={tmp_path / 'run'}", "--layout=authors", f"--out={out}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "drawn anew, since the authors' model reads other states there: vision/pooler/kernel" in done.stdout
    done = process.run("tools.import_authors", out, *flags, f"--workdir={back}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("started fresh: heads/fused_image/linear/bias")
    meta = Checkpoints(back, read_only=True).meta(1)
    assert meta.fused_trained
    done = process.run("tools.import_authors", out, *tiny_flags, f"--workdir={tmp_path / 'no'}")
    assert (done.returncode, done.stdout, (tmp_path / "no").exists()) == (2, "", False)
    assert done.stderr.startswith("error: config.bridge.placement: expected 'after'")
