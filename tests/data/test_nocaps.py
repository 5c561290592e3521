"""nocaps from its official files, made by hand: what is read, what is written of it, and every way to be wrong."""

import json
import re

import pytest

from bridge_jax import config
from bridge_jax.config import ConfigError
from bridge_jax.data import doctor, prepared
from bridge_jax.data.datasets import nocaps
from bridge_jax.data.records import open_splits
from bridge_jax.evals.scores import caption, ptb
from bridge_jax.step.params import init_params
from bridge_jax.workdir.checkpoint import Checkpoints
from tests import process
from tests.data.bad_inputs import encode, picture
from tools import prepare_data

WORDS = ("red", "blue", "circle", "square", "left", "of", "a", "large")
DOMAINS = dict(zip((4, 0, 7, 9, 2, 5), ("in-domain", "near-domain", "out-domain") * 2, strict=True))


def image(image_id, domain=None):
    found = dict(id=image_id, open_images_id=f"{image_id:016x}", file_name=f"{image_id:016x}.jpg", width=64, height=48)
    found |= dict(license=0, coco_url="https://s3.amazonaws.com/nocaps/x.jpg", date_captured="2018-11-06 11:04:33")
    return found if domain is None else found | {"domain": domain}


def annotation(number, image_id, said):
    return dict(image_id=image_id, id=number, caption=said)


def write(raw, domains=DOMAINS, test_ids=(4, 3)):
    """Write both official files and their photos; the ids of `test` begin anew, as other pictures."""
    annotations = [
        annotation(10 * image_id + n, image_id, f" a {WORDS[image_id % 8]} {WORDS[n % 8]} {domain.partition('-')[0]} ")
        for image_id, domain in domains.items()
        for n in range(10)
    ]
    content = dict(images=[image(*item) for item in domains.items()], annotations=annotations, info={}, licenses=[])
    files = {"val": ("nocaps_val_4500_captions.json", content)}
    files["test"] = ("nocaps_test_image_info.json", dict(images=[image(id_) for id_ in test_ids], info={}))
    for split, (name, content) in files.items():
        (raw / split).mkdir(parents=True, exist_ok=True)
        for seed, entry in enumerate(content["images"]):
            (raw / split / entry["file_name"]).write_bytes(encode(picture(seed=seed), "JPEG"))
        (raw / name).write_text(json.dumps(content))
    return raw


def prepare(raw):
    return prepare_data.prepare("nocaps", str(raw / "out"), raw_dir=str(raw), workers=2)


def test_photos_come_with_their_captions_and_domain_and_test_without(tmp_path):
    assert prepare(write(tmp_path)).endswith("val 6, test 2")
    (folder,) = (tmp_path / "out").glob("nocaps/*")
    splits = open_splits(folder)
    assert [(r["image_id"], *set(r["caption_kinds"])) for r in splits["val"]] == list(DOMAINS.items())
    assert {len(r["captions"]) for r in splits["val"]} == {10}
    assert splits["val"][0]["captions"][3] == "a left square in"
    assert [(r["image_id"], r["captions"]) for r in splits["test"]] == [(4, []), (3, [])]
    assert splits["test"][1]["image"] == (tmp_path / "test" / f"{3:016x}.jpg").read_bytes()


def test_few_broken_photos_and_captions_are_skipped_and_listed(tmp_path):
    write(tmp_path, dict.fromkeys(range(200), "in-domain"))
    content = json.loads((tmp_path / nocaps.VAL).read_text())
    content["annotations"][25]["caption"] = "d" * 100_000
    (tmp_path / nocaps.VAL).write_text(json.dumps(content))
    (tmp_path / "val" / f"{7:016x}.jpg").unlink()
    assert prepare(tmp_path).endswith("val 199, test 2")
    (listed,) = (tmp_path / "out").rglob(prepared.SKIPPED)
    first, second = listed.read_text().splitlines()
    assert f"{2:016x}.jpg: a caption of 100000 characters" in first
    assert f"{7:016x}.jpg: No such file" in second
    for id_ in (8, 9):
        (tmp_path / "val" / f"{id_:016x}.jpg").write_bytes(b"")
    (tmp_path / "out").rename(tmp_path / "before")
    with pytest.raises(ConfigError, match="more than 1% of 202 images are broken"):
        prepare(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.pop("annotations"), "is not a nocaps file: expected JSON with `images` and `annotations` "),
        (lambda c: c["images"].append(7), r"images\[6\] has no usable "),
        (lambda c: c["images"][1].pop("domain"), r"images\[1\] has no usable 'domain'"),
        (
            lambda c: c["images"][1].update(domain="far"),
            r"images\[1\] has the domain 'far'; expected one of in-domain, ",
        ),
        (lambda c: c["images"][1].update(id=4), r"images\[1\] has the id 4; expected a number that no other image has"),
        (lambda c: c["images"][1].update(id="4"), r"images\[1\] has the id '4'; expected a number"),
        (lambda c: c["images"][1].update(file_name="../x.jpg"), r"images\[1\]: '\.\./x\.jpg' leaves the folder"),
        (lambda c: c["images"][1].update(file_name="/etc/passwd"), r"images\[1\]: '/etc/passwd' leaves the folder"),
        (lambda c: c["images"].append(image(77, "in-domain")), r"images\[6\], id 77, has no caption"),
        (lambda c: c["images"].pop(0), r"a caption belongs to image 4, which `images` lacks"),
        (lambda c: c["annotations"].append("a dog"), r"annotations\[60\]: expected an `image_id` and a `caption`"),
        (lambda c: c["annotations"][3].update(caption=3), r"annotations\[3\]: expected an `image_id` and a `caption`"),
        (lambda c: (c["images"].clear(), c["annotations"].clear()), "lists no photo"),
    ],
)
def test_files_that_do_not_fit_are_one_clear_line(tmp_path, change, says):
    path = write(tmp_path) / nocaps.VAL
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=says) as caught:
        prepare(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    (told,) = doctor.raw(nocaps.Builder.survey, tmp_path).listed.values()
    assert str(caught.value) in told


def test_missing_files_and_folders_are_one_clear_line(tmp_path):
    with pytest.raises(ConfigError, match=r"--raw_dir: no nocaps_val_4500_captions\.json in .*; fetch it from https:"):
        prepare(tmp_path)
    write(tmp_path)
    (tmp_path / "test").rename(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"no image folder test/ in .*; put the photos of nocaps_test_image_info"):
        prepare(tmp_path)
    (tmp_path / "nocaps_test_image_info.json").write_text("[" * 100_000)
    (tmp_path / "other").rename(tmp_path / "test")
    with pytest.raises(ConfigError, match=r"image_info\.json is not a nocaps file: expected JSON with `images` \("):
        prepare(tmp_path)
    (tmp_path / "nocaps_test_image_info.json").unlink()
    assert prepare(tmp_path).endswith(": val 6")


def evaluate(workdir, data_dir, vocabulary, *arguments):
    given = [f"--workdir={workdir}", f"--data_dir={data_dir}", f"--vocabulary={vocabulary}", *arguments]
    settings = ["--config=configs/nocaps.py", "--config.evals.caption.bootstrap_samples=20"]
    return process.run("tools.evaluate", *settings, "--config.evals.caption.beams=2", *given)


@pytest.fixture(scope="module")
def run(tiny_caption, small_shapes, tmp_path_factory):
    """A checkpoint that writes captions of shapes, its vocabulary, and nocaps prepared elsewhere."""
    workdir, cfg = tmp_path_factory.mktemp("nocaps"), config.parse(tiny_caption())
    saves = Checkpoints(workdir)
    saves.save(8, "task", init_params(cfg), None, cfg)
    saves.close()
    (vocabulary,) = small_shapes.rglob(prepared.VOCABULARY)
    prepare(write(workdir / "raw"))
    return workdir, workdir / "raw" / "out", vocabulary


def test_a_checkpoint_of_another_data_set_is_scored_overall_and_by_domain(run, tmp_path):
    done = evaluate(*run, "--split=val", f"--json={tmp_path / 'out.json'}")
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads((tmp_path / "out.json").read_text())
    assert (record["dataset"], record["split"], record["config"]["evals"]["caption"]["beams"]) == ("nocaps", "val", 2)
    labels = re.findall(r"CIDEr-D(?:, [a-z-]+)?", done.stdout)
    assert labels == ["CIDEr-D", *(f"CIDEr-D, {domain}" for domain in nocaps.DOMAINS)]

    said = evaluate(*run, "--split=val", f"--results={tmp_path / 'val.json'}")
    assert (said.returncode, said.stderr) == (0, "")
    written = {entry["image_id"]: entry["caption"] for entry in json.loads((tmp_path / "val.json").read_text())}
    assert list(written) == list(DOMAINS)
    (folder,) = run[1].glob("nocaps/*")
    references = {r["image_id"]: [ptb.tokenise(c) for c in r["captions"]] for r in open_splits(folder)["val"]}
    for name, part in (
        ("", list(DOMAINS)),
        *((f"{d}/", [i for i in DOMAINS if DOMAINS[i] == d]) for d in nocaps.DOMAINS),
    ):
        expected = caption.cider([ptb.tokenise(written[i]) for i in part], [references[i] for i in part]).mean()
        assert record["metrics"][f"caption/{name}cider"] == pytest.approx(expected)
        assert record["metrics"][f"caption/{name}pictures"] == len(part)
    assert len({record["metrics"][f"caption/{domain}/bleu_1"] for domain in nocaps.DOMAINS}) > 1


def test_what_nobody_described_has_results_and_no_scores(run, tmp_path):
    done = evaluate(*run, "--split=test", f"--results={tmp_path / 'test.json'}")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads((tmp_path / "test.json").read_text())
    assert [(entry["image_id"], set(entry)) for entry in found] == [
        (4, {"image_id", "caption"}),
        (3, {"image_id", "caption"}),
    ]
    done = evaluate(*run, "--split=test")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: split 'test' of 'nocaps' has pictures without captions to score with; ")
    assert done.stderr.count("\n") == 1
    done = evaluate(*run, "--split=train")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "data set 'nocaps' has no split 'train'" in done.stderr
