"""What is evaluated on and is left out of what is trained on: copies of real photos are found, other photos are not."""

import io
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image, ImageEnhance

from bridge_jax.config import ConfigError
from bridge_jax.data import held_out
from bridge_jax.data import prepared as data_sets
from bridge_jax.data.held_out import HeldOut
from bridge_jax.data.perceptual_hash import MAX_DISTANCE, nearest, perceptual_hash
from bridge_jax.data.records import open_splits
from tests.data import test_visual_genome
from tests.data.bad_inputs import encode, picture
from tests.data.test_pairs import tar
from tools import prepare_data


def jpeg(image, quality=75):
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def cut(image, share):
    """Leave out `share` of either side, more of it at the right and below."""
    width, height = image.size
    left, top = round(0.4 * share * width), round(0.4 * share * height)
    return image.crop((left, top, left + round(width * (1 - share)), top + round(height * (1 - share))))


def altered(image):
    """Half as large, cut by 4 %, brighter, and compressed more."""
    return jpeg(
        ImageEnhance.Brightness(cut(image, 0.04).resize((image.width // 2, image.height // 2))).enhance(1.15), 60
    )


CHANGES = {  # how a photo is altered -> the least share of photos that is found again
    "re-encoded": (lambda image: jpeg(image, 50), 1.0),
    "half": (lambda image: jpeg(image.resize((image.width // 2, image.height // 2))), 1.0),
    "double": (lambda image: jpeg(image.resize((image.width * 2, image.height * 2))), 1.0),
    "grey": (lambda image: jpeg(image.convert("L")), 1.0),
    "png": (lambda image: encode(image, "PNG"), 1.0),
    "darker": (lambda image: jpeg(ImageEnhance.Brightness(image).enhance(0.7)), 1.0),
    "brighter": (lambda image: jpeg(ImageEnhance.Brightness(image).enhance(1.3)), 0.98),
    "cut by 2 %": (lambda image: jpeg(cut(image, 0.02)), 1.0),
    "cut by 4 %": (lambda image: jpeg(cut(image, 0.04)), 0.9),
    "all of it": (altered, 0.9),
}


def differing(one, other):
    return int(np.bitwise_count(one ^ other))


@pytest.fixture(scope="module")
def photos(shared):
    """A thousand photos of Flickr8k, and all of COCO's, as they lie on disk."""
    return {
        "flickr8k": [p.read_bytes() for p in sorted((shared / "data" / "flickr8k" / "images").glob("*.jpg"))[:1000]],
        "coco": [path.read_bytes() for path in sorted((shared / "data" / "coco").glob("*/*.jpg"))],
    }


@pytest.fixture(scope="module")
def hashes(photos):
    return {name: np.array([perceptual_hash(one) for one in encoded], np.uint64) for name, encoded in photos.items()}


@pytest.mark.parametrize("name", ["flickr8k", "coco"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_of_a_real_photo_is_found(photos, hashes, name, change):
    alter, least = CHANGES[change]
    known, distances = hashes[name], []
    for which in range(0, len(known), 10 if name == "flickr8k" else 1):
        copy = alter(Image.open(io.BytesIO(photos[name][which])).convert("RGB"))
        found, distance = nearest(known, perceptual_hash(copy))
        distances.append(distance if found == which else 64)
    share = np.mean(np.array(distances) <= MAX_DISTANCE)
    print(f"{name}, {change}: {100 * share:.0f} % found, median {np.median(distances):.0f} bits, most {max(distances)}")
    assert share >= least


def test_distinct_real_photos_do_not_collide(hashes):
    """Half a million pairs of Flickr8k and those of COCO: none of other photos within the distance."""
    every = np.concatenate([hashes["flickr8k"], hashes["coco"]])
    distances = np.concatenate([np.bitwise_count(every[i + 1 :] ^ one) for i, one in enumerate(every)])
    print({bits: int((distances <= bits).sum()) for bits in range(0, 15, 2)}, f"of {len(distances)} pairs")
    assert (distances <= MAX_DISTANCE).sum() == 0
    assert 28 < distances.mean() < 34  # nearly independent bits


def test_the_hash_is_the_sign_of_slow_waves():
    """A slow twin: the transform written out as a sum, of a picture that needs no resizing."""
    coarse = picture(32, 32, seed=5)
    grey, n = np.asarray(coarse).astype(float) @ np.array([0.299, 0.587, 0.114]), np.arange(32)
    waves = [[np.cos(np.pi * (2 * n + 1) * u / 64), np.cos(np.pi * (2 * n + 1) * v / 64)] for u, v in np.ndindex(8, 8)]
    sums = np.array([np.sum(grey * np.outer(down, across)) for down, across in waves])
    bits = "".join("1" if one > np.median(sums) else "0" for one in sums)
    enlarged = coarse.resize((128, 128), Image.Resampling.NEAREST)
    assert perceptual_hash(encode(enlarged, "PNG")) == np.uint64(int(bits, 2))


def test_a_flat_picture_has_no_noise_for_a_hash():
    flat = {int(perceptual_hash(encode(Image.new("RGB", size, (200, 30, 77)), "PNG"))) for size in ((8, 8), (97, 31))}
    assert flat == {1 << 63}


def test_the_nearest_is_that_of_bits_counted_one_by_one():
    draw = np.random.default_rng(0)
    many = draw.integers(0, 2**64, 300, dtype=np.uint64)
    for one in draw.integers(0, 2**64, 20, dtype=np.uint64):
        slow = [bin(int(other) ^ int(one)).count("1") for other in many]
        assert nearest(many, one) == (slow.index(min(slow)), min(slow))


def coco_raw(raw):
    """Write a raw COCO of photos of noise with ids 900 to 903: train, restval, val, test."""
    entries = []
    for number, split in enumerate(("train", "restval", "val", "test")):
        (raw / "val2014").mkdir(parents=True, exist_ok=True)
        (raw / "val2014" / f"{number}.jpg").write_bytes(photo(number))
        entry = dict(filename=f"{number}.jpg", imgid=number, cocoid=900 + number, filepath="val2014", split=split)
        entries.append(entry | {"sentences": [{"raw": "a dog"}]})
    (raw / "dataset_coco.json").write_text(json.dumps({"images": entries}))
    return raw


def photo(seed):
    """Coarse noise, which survives compression as photos do."""
    return jpeg(picture(12, 9, seed=seed).resize((120, 90), Image.Resampling.BICUBIC), 90)


@pytest.fixture
def prepared(tmp_path):
    prepare_data.prepare("coco", str(tmp_path / "out"), raw_dir=str(coco_raw(tmp_path / "coco")))
    return tmp_path / "out"


def folder_of(out, dataset):
    (folder,) = out.glob(f"{dataset}/*")
    return folder


def test_pictures_of_the_web_are_left_out_by_their_hash(prepared, tmp_path):
    again = {number: Image.open(io.BytesIO(photo(number))) for number in range(4)}
    pictures = {"of_train": again[0], "of_val": again[2], "of_test": again[3].resize((60, 45))}
    files = {f"{name}.jpg": jpeg(image, 70) for name, image in pictures.items()} | {"own.jpg": photo(17)}
    tar(tmp_path / "0.tar", files | {f"{name[:-4]}.txt": b"a dog" for name in files})
    line = prepare_data.prepare("cc3m", str(prepared), hold_out=["coco"], raw_dir=str(tmp_path), workers=2)
    copies = "0 by id and 2 by hash, copies of pictures in coco/val 1, coco/test 1"
    assert line.endswith(f": train 2; left out of train: {copies}")
    folder = folder_of(prepared, "cc3m")
    assert sorted(record["image"] for record in open_splits(folder)["train"]) == sorted(
        [files["of_train.jpg"], files["own.jpg"]]
    )
    listed = (folder / held_out.COPIES).read_text().splitlines()
    told = [entry.partition(": by hash: ") for entry in sorted(listed)]
    assert [name.rpartition("/")[2] for name, _, _ in told] == ["of_test.jpg", "of_val.jpg"]
    assert [of.partition(",")[0] for _, _, of in told] == ["coco/test/3.jpg", "coco/val/2.jpg"]
    assert tfds.builder_from_directory(folder).info.metadata["held_out"] == {
        "by_id": 0,
        "by_hash": 2,
        "max_distance": MAX_DISTANCE,
        "splits": {"coco/test": 1, "coco/val": 1},
    }


def test_photos_of_coco_are_left_out_by_their_id_there_even_if_they_cannot_be_read(prepared, tmp_path):
    raw = test_visual_genome.write(
        tmp_path / "vg", {i: ["a tree"] for i in range(1, 5)}, coco_ids={1: 902, 2: 900, 3: 903, 4: 12}
    )
    (raw / "VG_100K" / "3.jpg").unlink()
    line = prepare_data.prepare("visual_genome", str(prepared), hold_out=["coco"], raw_dir=str(raw), workers=2)
    assert ": train 2; left out of train: 2 by id and 0 by hash, " in line
    records = open_splits(folder_of(prepared, "visual_genome"))["train"]
    assert [record["image_id"] for record in records] == [2, 4]
    line = prepare_data.prepare("visual_genome", str(prepared), hold_out=["coco"], raw_dir=str(raw), workers=2)
    assert "is prepared already (train 2; left out of train: 2 by id and 0 by hash, " in line


def test_other_numbers_are_not_compared_and_only_train_is_left_out(prepared, tmp_path):
    """Flickr8k's own number 902 is another photo; its val may have what COCO's has."""
    (tmp_path / "raw" / "images").mkdir(parents=True)
    entries = []
    for number, (split, seed) in enumerate((("train", 31), ("train", 2), ("val", 2))):
        (tmp_path / "raw" / "images" / f"{number}.jpg").write_bytes(photo(seed))
        entry = dict(filename=f"{number}.jpg", imgid=902 + number, split=split, sentences=[{"raw": "a dog"}])
        entries.append(entry)
    (tmp_path / "raw" / "dataset_flickr8k.json").write_text(json.dumps({"images": entries}))
    raw = str(tmp_path / "raw")
    line = prepare_data.prepare("flickr8k", str(prepared), hold_out=["coco"], raw_dir=raw, workers=1)
    assert ": train 1, val 1; left out of train: 0 by id and 1 by hash, " in line


def test_a_shard_of_nothing_but_copies_is_no_shard_to_stumble_over(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(data_sets, "SHARD_EXAMPLES", 2)
    phrases = {i: ["a tree"] for i in range(1, 7)}
    raw = test_visual_genome.write(tmp_path / "vg", phrases, coco_ids={3: 902, 4: 903})
    prepare_data.prepare("visual_genome", str(prepared), hold_out=["coco"], raw_dir=str(raw), workers=1)
    records = open_splits(folder_of(prepared, "visual_genome"))["train"]
    assert [record["image_id"] for record in records] == [1, 2, 5, 6]


def test_what_cannot_be_held_out_is_one_clear_line(prepared, tmp_path):
    raw = test_visual_genome.write(tmp_path / "vg", {1: ["a tree"], 2: ["a cat"]}, coco_ids={1: 902, 2: 903})

    def prepare(*names):
        return prepare_data.prepare("visual_genome", str(prepared), hold_out=names, raw_dir=str(raw), workers=1)

    with pytest.raises(ConfigError, match="--held_out: 'coc' is not a data set; nearest: 'coco'"):
        prepare("coc")
    with pytest.raises(ConfigError, match=r"--held_out: data set 'flickr30k' is not prepared in"):
        prepare("coco", "flickr30k")
    with pytest.raises(ConfigError, match="--held_out: all 2 pictures of train are held out"):
        prepare("coco")
    assert not list(prepared.glob("visual_genome/*"))
    prepare()
    with pytest.raises(ConfigError, match="was prepared without looking for copies of coco; delete"):
        prepare("coco")
    with pytest.raises(ConfigError, match=r"--held_out: data set 'visual_genome' in .* has no split but train"):
        held_out.read(["visual_genome"], str(prepared), workers=1)


def test_nothing_is_a_copy_of_nothing():
    empty = HeldOut({}, {}, np.zeros(0, np.uint64), ())
    assert empty.copy_by_id(None) is empty.copy_by_id(3) is empty.copy_by_hash([photo(1)]) is None
