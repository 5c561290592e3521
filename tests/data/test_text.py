"""Oracle: ids of bert-base-uncased known by heart, and tokenizer.json against vocab.txt of the same tower."""

import json

import numpy as np
import pytest
import tokenizers
import transformers

from bridge_jax import config
from bridge_jax.config import ConfigError
from bridge_jax.data import prepared, text
from configs import shapes as shapes_config
from tools import prepare_data

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "##s", "run", "##ning", "."]


@pytest.fixture
def vocab_txt(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return path


def config_with(vocabulary, vocab_size=128, **changes):
    settings = shapes_config.get_config()
    settings.vision.patch_px, settings.vision.position_grid, settings.text.length = 8, 8, 24  # as these tests count
    settings.data.update(vocabulary=str(vocabulary), **changes)
    settings.text.vocab_size = vocab_size
    return config.parse(settings)


def test_vocab_txt_is_lower_case_word_piece_framed_and_padded(vocab_txt):
    tokenizer = text.Tokenizer(vocab_txt, 9)
    ids, mask = tokenizer.encode(["Dogs RUNNING .", "a cat"])
    np.testing.assert_array_equal(ids, [[2, 6, 7, 8, 9, 10, 3, 0, 0], [2, 5, 1, 3, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(mask.sum(axis=1), [7, 4])
    assert (ids.dtype, mask.dtype) == (np.int32, bool)
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.mask_id) == (0, 1, 4)
    assert tokenizer.special_ids == {0, 1, 2, 3, 4}
    assert tokenizer.vocab_size == len(WORDS)


def test_a_long_caption_keeps_its_first_words_and_the_separator(vocab_txt):
    ids, mask = text.Tokenizer(vocab_txt, 5).encode(["a dog a dog a dog"])
    np.testing.assert_array_equal(ids, [[2, 5, 6, 5, 3]])
    assert mask.all()


def test_a_caption_is_measured_before_it_is_cut(vocab_txt):
    tokenizer = text.Tokenizer(vocab_txt, 4)
    long, empty = tokenizer.measure(["Dogs RUNNING with Two dogs.", ""])
    assert long == text.Measure(9, 11, ["with", "Two"])
    assert empty == text.Measure(0, 2, [])
    assert tokenizer.encode(["Dogs RUNNING"])[0].tolist() == [[2, 6, 7, 3]]  # it still cuts


def test_no_captions_give_no_rows(vocab_txt):
    ids, mask = text.Tokenizer(vocab_txt, 5).encode([])
    assert ids.shape == mask.shape == (0, 5)


def test_the_towers_own_files_agree(shared):
    folder = shared / "weights" / "minilm_l6"
    captions = ["a dog", "A Café, in the snow . unbelievableness ☃", "don't stop", "x " * 40, "中 文", "tab\tnew\nline"]
    one, other = (text.Tokenizer(folder / name, 16) for name in ("vocab.txt", "tokenizer.json"))
    np.testing.assert_array_equal(one.encode(captions)[0], other.encode(captions)[0])
    np.testing.assert_array_equal(one.encode(captions)[1], other.encode(captions)[1])
    np.testing.assert_array_equal(one.encode(["a dog"])[0][0, :5], [101, 1037, 3899, 102, 0])
    assert one.vocab_size == other.vocab_size == 30522


def roberta_json(path, frame=("<s>", "</s>")):
    """Write a byte-level BPE like RoBERTa's: pieces are made of bytes, a space belongs to the word behind it."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    model.train_from_iterator(["a dog", "the dog", "a dog and the dog"], trainer)
    start, end = ((token, model.token_to_id(token)) for token in frame)
    model.post_processor = tokenizers.processors.RobertaProcessing(end, start, add_prefix_space=False)
    model.save(str(path))
    return path


def test_a_roberta_vocabulary_is_cased_bytes_in_its_own_frame(tmp_path):
    tokenizer = text.Tokenizer(roberta_json(tmp_path / "tokenizer.json"), 9)
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.mask_id) == (1, 3, 4)
    assert tokenizer.special_ids == {0, 1, 2, 3, 4}
    ids, mask = tokenizer.encode(["a dog", "A dog", "é ☃ é ☃ é ☃"])
    assert (ids[0, 0], ids[0, 3], tuple(ids[0, 4:])) == (0, 2, (1,) * 5)  # <s> a dog </s> <pad> ...
    assert mask.sum(axis=1).tolist() == [4, 4, 9]
    assert ids[2, -1] == 2
    assert ids[0, 1] != ids[1, 1]
    assert 3 not in ids
    assert tokenizer.decode(ids[1]) == "A dog"


def test_a_sentencepiece_vocabulary_gives_transformers_ids(tmp_path):
    """The tokenizer.json of XLM-RoBERTa and multilingual-e5, trained here: cased unigrams after NFKC."""
    trained = tokenizers.Tokenizer(tokenizers.models.Unigram())
    trained.normalizer = tokenizers.normalizers.NFKC()
    splits = [tokenizers.pre_tokenizers.WhitespaceSplit(), tokenizers.pre_tokenizers.Metaspace()]
    trained.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(splits)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=60, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    trained.train_from_iterator(["a dog in Paris", "the Dog and a dog", "ein Hund in Köln"] * 5, trainer)
    pieces = [tuple(piece) for piece in json.loads(trained.to_str())["model"]["vocab"]]
    theirs = transformers.XLMRobertaTokenizer(vocab=pieces)
    theirs.backend_tokenizer.normalizer = trained.normalizer
    theirs.save_pretrained(tmp_path)
    tokenizer = text.Tokenizer(tmp_path / "tokenizer.json", 14)
    captions = ["a dog", "ein Hund", "A dog", "in \u212bköln ☃", "Paris and a dog " * 4]
    expected = theirs(captions, padding="max_length", truncation=True, max_length=14, return_tensors="np")
    ids, mask = tokenizer.encode(captions)
    np.testing.assert_array_equal(ids, expected.input_ids)
    np.testing.assert_array_equal(mask, expected.attention_mask)
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.mask_id, tokenizer.frame) == (1, 3, 4, (0, 2))
    assert ids[0].tolist() != ids[2].tolist()
    assert (ids[-1, 0], ids[-1, -1]) == (0, 2)
    assert tokenizer.decode(ids[1]) == "ein Hund"
    assert tokenizer.measure(["dog ☃"])[0].unknown == ["☃"]


def word_json(path, words, frame):
    """Write a tokenizer.json with one token a word, each caption in `frame`."""
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=words[1]))
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    named = [(word, words.index(word)) for word in frame.split() if word != "$A"]
    model.post_processor = tokenizers.processors.TemplateProcessing(single=frame, special_tokens=named)
    model.save(str(path))
    return path


@pytest.mark.parametrize(
    ("words", "frame", "ids"),
    [
        (["x", "<|endoftext|>", "<|startoftext|>", "dog"], "<|startoftext|> $A <|endoftext|>", [2, 3, 1, 1, 1]),
        (["</s>", "<unk>", "<pad>", "dog"], "$A </s>", [3, 0, 0, 0, 0]),
        # Gemma's vocabulary also holds HTML, and so RoBERTa's tokens: the frame decides.
        (["<pad>", "<unk>", "<eos>", "dog", "<mask>", "<s>", "</s>"], "$A <eos>", [3, 2, 0, 0, 0]),
    ],
    ids=["clip", "siglip", "siglip2"],
)
def test_vocabularies_of_pairs(tmp_path, words, frame, ids):
    tokenizer = text.Tokenizer(word_json(tmp_path / "tokenizer.json", words, frame), 5)
    found, mask = tokenizer.encode(["dog", "dog dog dog dog dog dog"])
    assert found[0].tolist() == ids
    assert mask.sum(axis=1).tolist() == [2 + frame.startswith("<"), 5]  # the end is seen although it pads too
    assert found[1, -1] == found[0, mask[0].sum() - 1]
    if "<mask>" in words:
        assert tokenizer.mask_id == 4
    else:
        with pytest.raises(ConfigError, match="has no mask token, which the mlm loss needs; leave that loss out"):
            _ = tokenizer.mask_id


def test_a_tipsv2_vocabulary_has_no_frame(tmp_path):
    words = ["<pad>", "<unk>", "\u2581", "d", "o", "g", "do", "dog", "\u2581dog"]
    vocab = {word: i for i, word in enumerate(words)}
    theirs = transformers.Tipsv2Tokenizer(vocab=vocab, merges=[("d", "o"), ("do", "g"), ("\u2581", "dog")])
    theirs.save_pretrained(tmp_path)
    tokenizer = text.Tokenizer(tmp_path / "tokenizer.json", 4)
    ids, mask = tokenizer.encode(["Dog dog", "dog " * 6])
    np.testing.assert_array_equal(ids, [[8, 8, 0, 0], [8, 8, 8, 8]])
    assert mask.sum(axis=1).tolist() == [2, 4]
    assert (tokenizer.pad_id, tokenizer.unk_id) == (0, 1)
    with pytest.raises(ConfigError, match="puts no token before a caption, and the decoder starts from one"):
        _ = tokenizer.frame
    framed = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    framed["model"]["vocab"] |= {"<eos>": 9, "<mask>": 10}  # a SigLIP 2 that has lost its frame
    (tmp_path / "tokenizer.json").write_text(json.dumps(framed), encoding="utf-8")
    with pytest.raises(ConfigError, match="does not put <eos> around a caption"):
        text.Tokenizer(tmp_path / "tokenizer.json", 4)


def test_a_frame_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"does not put <s> and </s> around a caption; take a .* RoBERTa's"):
        text.Tokenizer(roberta_json(tmp_path / "tokenizer.json", frame=("</s>", "<s>")), 8)


def test_a_trained_vocabulary_knows_its_words(tmp_path):
    path = tmp_path / "tokenizer.json"
    text.train_vocabulary(["two red dogs", "two Blue dogs"], path)
    tokenizer = text.Tokenizer(path, 6)
    ids, _ = tokenizer.encode(["two blue cats"])
    assert tokenizer.decode(ids[0]) == "two blue"
    assert tokenizer.unk_id in ids[0]
    assert tokenizer.vocab_size == len(text.SPECIAL) + 4
    text.train_vocabulary(["two red dogs", "two Blue dogs"], tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_an_empty_setting_means_the_prepared_vocabulary(tmp_path):
    prepare_data.prepare("shapes", str(tmp_path), num_train=4, seed=0)
    cfg = config_with("", data_dir=str(tmp_path))
    tokenizer = text.load(cfg.data, cfg.text)
    assert tokenizer.path == prepared.prepared_folder(cfg.data) / "tokenizer.json"
    assert tokenizer.length == 24


def test_what_does_not_fit_is_one_clear_line(tmp_path, vocab_txt, shared):
    cfg = config_with(vocab_txt, vocab_size=10)
    with pytest.raises(ConfigError, match=r"has 11 tokens but config.text.vocab_size is 10"):
        text.load(cfg.data, cfg.text)
    cfg = config_with(tmp_path / "none.txt")
    with pytest.raises(ConfigError, match=r"config.data.vocabulary: no file .*none.txt"):
        text.load(cfg.data, cfg.text)
    lacking = tmp_path / "lacking.txt"
    lacking.write_text("\n".join(w for w in WORDS if w != "[MASK]"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"lacking.txt has no \[MASK\]"):
        text.Tokenizer(lacking, 8)
    broken = tmp_path / "broken.json"
    broken.write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"broken.json is not a tokenizer file"):
        text.Tokenizer(broken, 8)
    unframed = tmp_path / "unframed.json"
    settings = json.loads((shared / "weights" / "minilm_l6" / "tokenizer.json").read_text(encoding="utf-8"))
    unframed.write_text(json.dumps(settings | {"post_processor": None}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"unframed.json does not put \[CLS\] and \[SEP\]"):
        text.Tokenizer(unframed, 8)


def test_photos_without_a_vocabulary_say_which_file_to_name(tmp_path):
    folder = tmp_path / "flickr8k" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}", encoding="utf-8")
    cfg = config_with("", dataset="flickr8k", data_dir=str(tmp_path))
    with pytest.raises(ConfigError, match="vocabulary is empty and data set 'flickr8k' stores no vocabulary"):
        text.load(cfg.data, cfg.text)


CASED = [*WORDS[:5], "Paris", "in", "A", "dog", "a", "É", "e"]


def vocabulary(folder, words, **settings):
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder / "vocab.txt"


def test_a_cased_vocabulary_keeps_capitals_and_accents(tmp_path):
    tokenizer = text.Tokenizer(vocabulary(tmp_path, CASED, do_lower_case=False), 8)
    ids, _ = tokenizer.encode(["A dog in Paris É"])
    assert ids[0].tolist() == [2, 7, 8, 6, 5, 10, 3, 0]


def test_its_tokenizer_config_says_what_is_dropped(tmp_path):
    path = vocabulary(tmp_path, CASED, do_lower_case=True, strip_accents=True)
    assert text.Tokenizer(path, 5).encode(["A É"])[0].tolist() == [[2, 9, 11, 3, 0]]
    path = vocabulary(tmp_path, CASED, do_lower_case=False, strip_accents=True)
    assert text.Tokenizer(path, 5).encode(["A é"])[0].tolist() == [[2, 7, 11, 3, 0]]


def test_capitals_without_a_tokenizer_config_are_refused(tmp_path):
    path = vocabulary(tmp_path, CASED)
    with pytest.raises(
        ConfigError, match=r"vocab\.txt has capitals \('Paris'\).* put the tower's tokenizer_config\.js"
    ):
        text.Tokenizer(path, 8)
    assert text.Tokenizer(vocabulary(tmp_path, [*WORDS, "[unused0]", "ß"]), 8).vocab_size == len(WORDS) + 2


@pytest.mark.parametrize("content", ["[]", "{", '{"do_lower_case": "no"}', '{"strip_accents": 1}'])
def test_a_tokenizer_config_that_cannot_be_is_refused(tmp_path, content):
    path = vocabulary(tmp_path, WORDS)
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"tokenizer_config\.json: expected JSON with `do_lower_case`"):
        text.Tokenizer(path, 8)


def test_a_vocabulary_may_begin_with_a_byte_order_mark(tmp_path):
    path = vocabulary(tmp_path, ["\ufeff[PAD]", *WORDS[1:]])
    assert text.Tokenizer(path, 4).encode(["a dog"])[0].tolist() == [[2, 5, 6, 3]]
