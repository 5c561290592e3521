"""Retrieval of videos: against a twin that embeds and fuses one by one, against photos, and by tools.evaluate.

The videos are scenes of the shapes set, four frames of four different ones each, said to show what the first says.
"""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bridge_jax import config
from bridge_jax.data import image, text
from bridge_jax.data.records import open_split, pictures
from bridge_jax.evals.retrieval import Evaluator
from bridge_jax.evals.scores import recall
from bridge_jax.step import sharding
from bridge_jax.step.predict import build_predict
from bridge_jax.types import Lower
from bridge_jax.workdir.checkpoint import Checkpoints
from tests import process, runs
from tools import prepare_data

VIDEOS, FRAMES, TOP_K, WEIGHT = 12, 3, 4, 0.5


@pytest.fixture(scope="module")
def trained(tiny):
    """The config of a checkpoint that was trained on photos, and its parameters with an open bridge."""
    settings = tiny()
    settings.evals.retrieval.update(rerank_top_k=TOP_K, rerank_weight=WEIGHT, batch_size=8, folds=1)
    cfg = config.parse(settings)
    return cfg, runs.opened(cfg, "heads/itm/out")


@pytest.fixture(scope="module")
def raw(trained, tmp_path_factory):
    """A raw folder of MSR-VTT."""
    folder, scenes = tmp_path_factory.mktemp("raw"), [*open_split(trained[0].data, "train")]
    lines, said = ["key,vid_key,video_id,sentence"], []
    for video in range(VIDEOS):
        of_video = folder / "frames" / f"video{video}"
        of_video.mkdir(parents=True)
        for frame in range(4):
            scene = Image.open(io.BytesIO(scenes[(4 * video + frame) % len(scenes)]["image"]))
            turned = scene.rotate(90 * ((4 * video + frame) // len(scenes)))
            turned.convert("RGB").save(of_video / f"{frame:04d}.jpg", quality=95)
        said.append(next(c for c in scenes[4 * video % len(scenes)]["captions"] if c not in said))  # no ties
        lines.append(f'ret{video},msr{video},video{video},"{said[-1]}"')
    (folder / "MSRVTT_JSFUSION_test.csv").write_text("\n".join(lines) + "\n")
    return folder


def prepared(raw, trained, folder, frames):
    """Return the config on the videos that are prepared with so many frames."""
    prepare_data.prepare("msrvtt", str(folder), raw_dir=str(raw), num_frames=frames)
    cfg = trained[0]
    vocabulary = next(Path(cfg.data.data_dir).rglob("tokenizer.json"))
    data = dataclasses.replace(cfg.data, dataset="msrvtt", data_dir=str(folder), vocabulary=str(vocabulary))
    return dataclasses.replace(cfg, data=data)


@pytest.fixture(scope="module")
def cfg(raw, trained, tmp_path_factory):
    return prepared(raw, trained, tmp_path_factory.mktemp("videos"), FRAMES)


def run(cfg, params):
    return Evaluator(cfg, build_predict(cfg, sharding.make_mesh(cfg.mesh))).run(params, "test", rerank=True)


@pytest.fixture(scope="module")
def metrics(cfg, trained):
    return run(cfg, trained[1])


@pytest.fixture(scope="module")
def twin(cfg, trained):
    """Return [texts, videos] of cosines and of match logits, one by one; text i is of video i."""
    predict, params = build_predict(cfg, sharding.make_mesh(cfg.mesh)), trained[1]
    tokenizer = text.load(cfg.data, cfg.text)
    videos, texts = [], []
    for record in open_split(cfg.data, "test"):
        views = [image.eval_view(encoded, cfg.vision.image_px)[None] for encoded in pictures(record)]
        lower = [predict.lower_image(params, view) for view in views]
        mean = np.mean([predict.unimodal_image(params, states)[0] for states in lower], axis=0)
        videos.append((np.stack(lower, axis=1), mean / np.linalg.norm(mean)))
        ids, mask = tokenizer.encode(record["captions"])
        states = predict.lower_text(params, ids, mask)
        texts.append((states, predict.unimodal_text(params, states, mask)[0], mask))
    pairs = [[Lower(image=v, text=t, text_mask=mask) for v, _ in videos] for t, _, mask in texts]
    logits = [[float(predict.fused(params, pair)[1][0]) for pair in row] for row in pairs]
    return np.array([[float(t @ v) for _, v in videos] for _, t, _ in texts]), np.array(logits)


def ranks(rows):
    return np.array([1 + [*np.argsort(-row, kind="stable")].index(own) for own, row in enumerate(rows)])


def reranked(cosines, score):
    found = cosines - 1e6
    for row, best in enumerate(np.argsort(-cosines, axis=1)[:, :TOP_K]):
        found[row, best] = score[row, best]
    return found


def test_recalls_are_the_twins(metrics, twin, trained):
    cosines, logits = twin
    score = logits + WEIGHT * float(np.exp(trained[1]["heads"]["log_scale"])) * cosines
    for direction, rows, scores in (("text_to_image", cosines, score), ("image_to_text", cosines.T, score.T)):
        again = reranked(rows, scores)
        for name, found in (("unimodal", ranks(rows)), ("rerank", ranks(again))):
            for key, value in recall.summary(found).items():
                assert metrics[f"{name}/{direction}/{key}"] == pytest.approx(value), (name, direction, key)
    assert ranks(cosines).tolist() != ranks(reranked(cosines, score)).tolist()  # or reranking would say nothing


def test_every_frame_counts(cfg, metrics, trained, raw, tmp_path):
    """Of two other frames of the same videos, other numbers."""
    assert run(prepared(raw, trained, tmp_path, 2), trained[1]) != metrics
    assert open_split(cfg.data, "test").frames == FRAMES


def test_one_frame_is_scored_as_a_photo_bit_for_bit(raw, trained, tmp_path):
    """The middle frames as photos of Flickr8k, which know nothing of videos."""
    of_videos = prepared(raw, trained, tmp_path / "videos", 1)
    entries = []
    (tmp_path / "images").mkdir()
    for number, record in enumerate(open_split(of_videos.data, "test")):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(record["image"])
        said = [{"raw": caption} for caption in record["captions"]]
        entries.append({"filename": f"{number}.jpg", "imgid": number, "split": "test", "sentences": said})
    (tmp_path / "dataset_flickr8k.json").write_text(json.dumps({"images": entries}))
    prepare_data.prepare("flickr8k", str(tmp_path / "photos"), raw_dir=str(tmp_path))
    data = dataclasses.replace(of_videos.data, dataset="flickr8k", data_dir=str(tmp_path / "photos"))
    assert run(of_videos, trained[1]) == run(dataclasses.replace(of_videos, data=data), trained[1])


def test_a_video_that_stands_still_ranks_as_its_frame(raw, trained, tmp_path):
    """Of folders with one frame, that one five times over: numbers as of one, up to rounding."""
    still = tmp_path / "raw"
    for video in range(VIDEOS):
        (still / "frames" / f"video{video}").mkdir(parents=True)
        first = raw / "frames" / f"video{video}" / "0001.jpg"
        (still / "frames" / f"video{video}" / "0001.jpg").write_bytes(first.read_bytes())
    (still / "MSRVTT_JSFUSION_test.csv").write_bytes((raw / "MSRVTT_JSFUSION_test.csv").read_bytes())
    found = [run(prepared(still, trained, tmp_path / str(frames), frames), trained[1]) for frames in (1, 5)]
    assert found[1] == pytest.approx(found[0])


def test_lower_states_that_are_kept_are_those_of_all_frames(cfg, metrics, trained):
    evaluator = Evaluator(cfg, build_predict(cfg, sharding.make_mesh(cfg.mesh)), lower_frozen=True)
    first = evaluator.run(trained[1], "test", rerank=True)
    assert evaluator.run(trained[1], "test", rerank=True) == pytest.approx(first) == metrics


@pytest.fixture(scope="module")
def workdir(trained, tmp_path_factory):
    folder, (cfg, params) = tmp_path_factory.mktemp("workdir"), trained
    saves = Checkpoints(folder)
    saves.save(8, "task", params, None, cfg)
    saves.close()
    return folder


def evaluate(workdir, *arguments):
    return process.run("tools.evaluate", f"--workdir={workdir}", "--config=configs/msrvtt.py", *arguments)


def test_a_checkpoint_of_photos_is_scored_on_videos(workdir, cfg, metrics, tmp_path):
    of = cfg.evals["retrieval"]
    keys = ("rerank_top_k", "rerank_weight", "fit_rerank_weight")
    flags = [f"--config.evals.retrieval.{key}={getattr(of, key)}" for key in keys]
    flags += [f"--config.evals.retrieval.bootstrap_samples={of.bootstrap_samples}", "--checkpoint=latest"]
    flags += [f"--config.data.data_dir={cfg.data.data_dir}", f"--vocabulary={cfg.data.vocabulary}"]
    done = evaluate(workdir, "--split=test", "--rerank", f"--json={tmp_path / 'out.json'}", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert "msrvtt/test, step 8\n" in done.stdout
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["metrics"] == pytest.approx(metrics, rel=1e-5)
    assert record["config"]["evals"]["retrieval"]["batch_size"] == 16  # of configs/msrvtt.py
    assert record["config"]["vision"]["depth"] == cfg.vision.depth  # of the checkpoint


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--split=test"], "data set 'msrvtt' is not prepared in data/msrvtt/1.0.0; run python -m tools.prepare_data"),
        (["--split=test", "--config.evals.retrieval.batch=3"], "--config: not found: "),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(workdir, arguments, says):
    done = evaluate(workdir, "--checkpoint=latest", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_split_that_is_not_there(workdir, cfg):
    done = evaluate(workdir, "--checkpoint=latest", "--split=val", f"--data_dir={cfg.data.data_dir}")
    assert done.returncode == 2
    assert "data set 'msrvtt' has no split 'val'; " in done.stderr
