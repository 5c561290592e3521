"""tools/doctor.py as users run it, a process each: what it prints, the JSON, the exit code."""

import json
import shutil
from pathlib import Path

import pytest

from bridge_jax.data.datasets import coco, flickr8k, flickr30k
from tests import process
from tests.data import bad_inputs
from tools import prepare_data


def run(*arguments):
    return process.run("tools.doctor", *arguments)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """As many pictures as Flickr8k has, with nothing wrong."""
    folder, entries = tmp_path_factory.mktemp("flickr8k"), []
    (folder / "images").mkdir()
    for split, size in flickr8k.Builder.PUBLISHED.items():
        for _ in range(size):
            number = len(entries)
            colour = (number // 256, number % 256, 100)
            name, tiny = f"{number}.png", bad_inputs.Image.new("RGB", (2, 2), colour)
            (folder / "images" / name).write_bytes(bad_inputs.encode(tiny, "PNG"))
            sentences = [{"raw": "a red dog"}]
            entries.append({"filename": name, "imgid": number, "split": split, "sentences": sentences})
    (folder / "dataset_flickr8k.json").write_text(json.dumps({"images": entries}))
    return folder


def test_nothing_found_then_a_warning_then_broken(published, tmp_path):
    flags = ["--dataset=flickr8k", f"--raw_dir={published}", f"--json={tmp_path / 'found.json'}"]
    good = run(*flags)
    assert (good.returncode, good.stderr) == (0, "")
    assert "8,000 pictures (train 6,000, val 1,000, test 1,000), 8,000 captions and questions\n" in good.stdout
    assert good.stdout.endswith("\nnothing found\n")
    assert json.loads((tmp_path / "found.json").read_text()) == {
        "dataset": "flickr8k", "folder": str(published), "exit_code": 0,
        "splits": {"train": 6000, "val": 1000, "test": 1000}, "captions": 8000, "findings": [],
    }  # fmt: skip

    (published / "images" / "6.png").write_bytes(bad_inputs.ODD_PICTURES["grey.jpg"])
    odd = run(*flags)
    assert odd.returncode == 1
    assert "warning: grey_picture: 1 of 8,000 (0.013 %), greyscale pictures; training gives all three" in odd.stdout
    assert odd.stdout.endswith(f"\n    {published}/images/6.png\n\n1 warning\n")

    for number in range(7):
        (published / "images" / f"{number}.png").unlink()
    bad = run(*flags)
    assert bad.returncode == 2
    assert "broken: missing_picture: 7 of 8,000 (0.087 %), pictures that cannot be read\n" in bad.stdout
    assert f"    {published}/images/4.png: No such file or directory\n    and 2 more; --json=FILE" in bad.stdout
    assert "5.png" not in bad.stdout
    (finding,) = json.loads((tmp_path / "found.json").read_text())["findings"]
    assert (finding["level"], finding["kind"], finding["count"], finding["of"]) == (
        "broken",
        "missing_picture",
        7,
        8000,
    )
    assert [Path(name.split(":")[0]).name for name in finding["names"]] == [f"{number}.png" for number in range(7)]


def test_errors_come_before_warnings_and_odd_names_are_printed(tmp_path):
    names = {"grey.jpg": bad_inputs.ODD_PICTURES["grey.jpg"], "truncated.jpg": bad_inputs.JPEG[:-200]}
    folder = bad_inputs.raw_folder(tmp_path / "raw", 2, names)
    annotations = folder / "dataset_flickr8k.json"
    annotations.write_text(annotations.read_text().replace("good_0.jpg", r"[red]\ud83d.jpg"))
    done = run("--dataset=flickr8k", f"--raw_dir={folder}")
    assert (done.returncode, done.stderr) == (2, "")
    kinds = [line.split(": ")[:2] for line in done.stdout.splitlines() if line.startswith(("broken", "warning"))]
    assert kinds == [
        ["broken", "missing_picture"], ["broken", "damaged_picture"], ["warning", "grey_picture"],
        ["warning", "split_size"],
    ]  # fmt: skip
    assert r"images/[red]\ud83d.jpg: " in done.stdout
    assert "/truncated.jpg: image file is truncated" in done.stdout
    assert done.stdout.endswith("\n2 broken, 2 warnings\n")


def test_a_prepared_set_is_compared_with_a_vocabulary(tmp_path):
    folder = bad_inputs.raw_folder(
        tmp_path / "raw", 2, {"caption_long.jpg": bad_inputs.ODD_CAPTIONS["caption_long.jpg"]}
    )
    prepare_data.prepare("flickr8k", str(tmp_path / "data"), raw_dir=str(folder))
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "dog")))
    flags = ["--dataset=flickr8k", f"--data_dir={tmp_path / 'data'}"]
    without = run(*flags)
    assert without.returncode == 1  # three photos are not 8,000
    assert "no --vocabulary: lengths in tokens and unknown words are not checked\n" in without.stdout
    assert "cut_caption" not in without.stdout
    found = run(*flags, f"--vocabulary={vocabulary}", "--length=600")
    assert found.returncode == 1
    assert "warning: cut_caption: 1 of 4 (25 %), captions or questions with too many tokens" in found.stdout
    assert "\n    caption_long.jpg: 602 tokens (number 1 of 1)\n" in found.stdout
    assert "warning: unknown_word: 200 of 609 (33 %), tokens that the vocabulary lacks" in found.stdout
    assert "\n    and (200)\n" in found.stdout
    assert "cut_caption" not in run(*flags, f"--vocabulary={vocabulary}", "--length=602").stdout


def test_shapes_bring_their_own_vocabulary(small_shapes):
    done = run("--dataset=shapes", f"--data_dir={small_shapes}", "--length=16")
    assert (done.returncode, done.stderr) == (0, "")
    assert "no --vocabulary" not in done.stdout
    cut = run("--dataset=shapes", f"--data_dir={small_shapes}", "--length=5")
    assert cut.returncode == 1
    assert "warning: cut_caption: " in cut.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset=flickr8"], "--dataset: 'flickr8' is not a data set; nearest: 'flickr8k'"),
        (
            ["--dataset=flickr8k"],
            "expected one of --raw_dir (raw files) and --data_dir (prepared data), got both or neither; give one",
        ),
        (["--dataset=coco", "--raw_dir=a", "--data_dir=b"], "expected one of --raw_dir"),
        (["--dataset=shapes", "--raw_dir=a"], "--raw_dir: 'shapes' has no raw files; give --data_dir"),
        (["--dataset=coco", "--data_dir=nowhere"], "--data_dir: data set 'coco' is not prepared in nowhere/coco/1.0.0"),
    ],
)
def test_a_wrong_command_is_one_clear_line(flags, message):
    done = run(*flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


def test_the_published_sizes():
    sizes = {name: tuple(module.Builder.PUBLISHED.values()) for name, module in
             {"coco": coco, "flickr30k": flickr30k, "flickr8k": flickr8k}.items()}  # fmt: skip
    assert sizes == {
        "coco": (113_287, 5_000, 5_000), "flickr30k": (29_000, 1_014, 1_000), "flickr8k": (6_000, 1_000, 1_000)
    }  # fmt: skip


def test_the_real_photos(shared, tmp_path):
    """Flickr8k as it lies there: nothing broken; its test split is absent. A photo cut short is found among 7,000."""
    real, folder = shared / "data" / "flickr8k", tmp_path / "raw"
    flags = ["--dataset=flickr8k", f"--vocabulary={shared / 'weights' / 'minilm_l6' / 'vocab.txt'}", "--length=24"]
    found = run(*flags, f"--raw_dir={real}", f"--json={tmp_path / 'found.json'}")
    assert found.returncode == 1
    record = json.loads((tmp_path / "found.json").read_text())
    assert [(f["kind"], f["count"]) for f in record["findings"]] == [("cut_caption", 619), ("split_size", 1)]
    shutil.copytree(real, folder)
    photo = sorted((folder / "images").iterdir())[3000]
    photo.write_bytes(photo.read_bytes()[:-500])
    damaged = run(*flags, f"--raw_dir={folder}")
    assert damaged.returncode == 2
    assert f"    {photo}: image file is truncated" in damaged.stdout


def test_what_can_be_used_becomes_a_list_and_nothing_else_is_touched(tmp_path):
    raw = tmp_path / "raw"
    (raw / "deep").mkdir(parents=True)
    draw = bad_inputs.picture
    for number in range(150):
        (raw / "deep" / f"{number}.png").write_bytes(bad_inputs.encode(draw(seed=number), "PNG"))
    (raw / "deep" / "0.png").write_bytes(b"no picture")
    (raw / "deep" / "2.png").write_bytes((raw / "deep" / "1.png").read_bytes())
    rows = [f'deep/{n}.png,"a dog, {n}",{"val" if n in (2, 3) else "train"}' for n in range(150)]
    rows += ["deep/4.png,  ,train", 'deep/5.png,"says ""wuff""",train']
    (raw / "mine.csv").write_text("\n".join(["image,caption,split", *rows]) + "\n")
    before = {path: path.read_bytes() for path in raw.rglob("*") if path.is_file()}
    found = run("--dataset=folder", f"--raw_dir={raw}", "--fix=cleaned.csv")
    assert found.returncode == 2
    assert "broken: same_picture: 1 of" in found.stdout
    assert f"{raw}/cleaned.csv: 148 pictures, 149 captions; prepare them with --list=cleaned.csv\n" in found.stdout
    assert {path: path.read_bytes() for path in before} == before
    said = process.run(
        "tools.prepare_data",
        "--dataset=folder",
        f"--raw_dir={raw}",
        "--list=cleaned.csv",
        f"--data_dir={tmp_path / 'out'}",
    )
    assert said.stdout.endswith(": train 146, val 2\n"), said.stderr
    good = run("--dataset=folder", f"--raw_dir={raw}", "--list=cleaned.csv")
    assert "broken" not in good.stdout
    again = run("--dataset=folder", f"--raw_dir={raw}", "--list=cleaned.csv", "--fix=cleaned.csv")
    assert again.returncode == 2
    assert again.stderr.startswith("error: --fix: expected the name of a new .csv in")
