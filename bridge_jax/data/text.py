"""Turn captions into token ids, by Hugging Face `tokenizers` with the vocabulary that the text tower was trained with.

>>> tokenizer = Tokenizer("vocab.txt", length=6)
>>> tokenizer.encode(["a dog"])        # [CLS] a dog [SEP] [PAD] [PAD]
(array([[ 101, 1037, 3899,  102,    0,    0]], dtype=int32), array([[ True,  True,  True,  True, False, False]]))
"""

import functools
import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers
from jaxtyping import Bool, Int32
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from bridge_jax import config
from bridge_jax.config import as_json
from bridge_jax.data import prepared

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# The special tokens of each kind of vocabulary, under transformers' names; those of _FRAME stand around a caption, in
# the order given here.
KINDS = {
    "BERT": dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True)),
    "RoBERTa": dict(pad_token="<pad>", unk_token="<unk>", cls_token="<s>", sep_token="</s>", mask_token="<mask>"),
    "CLIP": dict(
        pad_token="<|endoftext|>", unk_token="<|endoftext|>", bos_token="<|startoftext|>", eos_token="<|endoftext|>"
    ),
    "SigLIP": dict(pad_token="</s>", unk_token="<unk>", eos_token="</s>"),
    "SigLIP 2": dict(pad_token="<pad>", unk_token="<unk>", eos_token="<eos>", mask_token="<mask>"),
}
# TIPSv2's vocabulary, which puts no token around a caption. It is the only such vocabulary: see `_is_unframed`.
_UNFRAMED = dict(pad_token="<pad>", unk_token="<unk>")
_FRAME = ("bos_token", "cls_token", "sep_token", "eos_token")
MAX_CHARACTERS = 10_000  # in a caption; longer texts are no captions
_SPACES = "\t\n\r"  # control characters that people type


def fault(caption: str) -> str:
    """Return the fault of a caption, or an empty string. Bytes that are not UTF-8 arrive as U+FFFD or surrogates.

    A caption also counts as empty where it holds only characters that a tokenizer drops: spaces, control and zero-width
    characters.
    """
    if len(caption) > MAX_CHARACTERS:
        return f"a caption of {len(caption)} characters, at most {MAX_CHARACTERS} are read"
    kinds = {character: unicodedata.category(character) for character in set(caption)}
    if "\ufffd" in kinds or "Cs" in kinds.values():
        return "a caption that is not UTF-8"
    if odd := sorted(c for c, kind in kinds.items() if kind == "Cc" and c not in _SPACES):
        return f"a caption with the control character U+{ord(odd[0]):04X}"
    if all(kind[0] == "C" or character.isspace() for character, kind in kinds.items()):
        return "an empty caption"
    return ""


class Measure(NamedTuple):
    """An uncut caption: its tokens without the frame, its `length` with the frame, and its words that become [UNK]."""

    tokens: int
    length: int
    unknown: list[str]


class Tokenizer:
    """A `vocab.txt` (BERT WordPiece) or a `tokenizer.json` of one of KINDS, padded and cut to `length`.

    With a `vocab.txt` captions become lower case, unless the `tokenizer_config.json` beside it says otherwise.
    `special` maps transformers' names (`pad_token`, ...) to the vocabulary's special tokens.

    Raises ConfigError, naming the file, where it cannot be read, lacks a special token, or does not put its kind's
    special tokens around a caption ([CLS] and [SEP] for BERT, none for TIPSv2).
    """

    def __init__(self, path: str | Path, length: int):
        self.path, self.length = Path(path), length
        self._tokenizer = _read(self.path)
        self.special = _special(self._tokenizer, self.path)
        ids = {name: _id(self._tokenizer, token, self.path) for name, token in self.special.items()}
        self._ids, self.pad_id, self.unk_id = ids, ids["pad_token"], ids["unk_token"]
        self.special_ids = frozenset(ids.values())
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        self._tokenizer.enable_truncation(length)
        self._tokenizer.enable_padding(length=length, pad_id=self.pad_id, pad_token=self.special["pad_token"])

    def encode(self, captions: Sequence[str]) -> tuple[Int32[np.ndarray, "n T"], Bool[np.ndarray, "n T"]]:
        """Return ids and a mask, False on padding. A caption that is too long keeps its first words and its end."""
        encodings = self._tokenizer.encode_batch(list(captions))
        ids = np.array([e.ids for e in encodings], np.int32).reshape(-1, self.length)
        mask = np.array([e.attention_mask for e in encodings], bool).reshape(-1, self.length)
        return ids, mask

    def words(self, caption: str) -> list[tuple[str, list[int]]]:
        """Return what stands between the white space of a caption, each with the places of its tokens in `encode`.

        A word that is cut off has none.
        """
        spans = self._tokenizer.encode(caption).offsets  # (0, 0) for the frame and for padding
        return [
            (word[0], [place for place, (start, end) in enumerate(spans) if start < word.end() and end > word.start()])
            for word in re.finditer(r"\S+", caption)
        ]

    def measure(self, captions: Sequence[str]) -> list[Measure]:
        """Return the measure of each caption before it is cut to `length`."""
        measured = []
        for caption, encoding in zip(captions, self._uncut.encode_batch(list(captions)), strict=True):
            tokens = [i for i, framing in enumerate(encoding.special_tokens_mask) if not framing]
            spans = [encoding.offsets[i] for i in tokens if encoding.ids[i] == self.unk_id]
            measured.append(Measure(len(tokens), len(encoding.ids), [caption[start:end] for start, end in spans]))
        return measured

    @functools.cached_property
    def _uncut(self) -> tokenizers.Tokenizer:
        whole = tokenizers.Tokenizer.from_str(self.to_json())
        whole.no_truncation()
        whole.no_padding()
        return whole

    @functools.cached_property
    def frame(self) -> tuple[int, int]:
        """The tokens before and after a caption. Raises ConfigError where the vocabulary has none before it."""
        framed = self._uncut.encode("").ids
        if len(framed) != 2:
            raise config.ConfigError(
                f"config.data.vocabulary: {self.path} puts no token before a caption, and the decoder starts from one; "
                "take the vocabulary of another text tower"
            )
        return framed[0], framed[1]

    @property
    def mask_id(self) -> int:
        """The token that stands for a word to predict. Raises ConfigError where the vocabulary has none."""
        if "mask_token" not in self._ids:
            raise config.ConfigError(
                f"config.data.vocabulary: {self.path} has no mask token, which the mlm loss needs; leave that loss out"
            )
        return self._ids["mask_token"]

    @property
    def fingerprint(self) -> str:
        """A hash of the whole tokenizer: vocabulary, normalisation, length."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Return the whole tokenizer, padding and truncation included, as the text of a tokenizer.json."""
        return self._tokenizer.to_str()

    def decode(self, ids: Sequence[int]) -> str:
        """Return the caption without its special tokens."""
        return self._tokenizer.decode([int(i) for i in ids])


def load(data: config.Data, text: config.Text) -> Tokenizer:
    """Return the tokenizer of `config.data.vocabulary`; where that is empty, the one prepared with the data set.

    Raises ConfigError where there is no such file, and where it has more tokens than the text tower has embeddings.
    """
    if data.vocabulary:
        path = Path(data.vocabulary).expanduser()
    else:
        path = prepared.prepared_folder(data) / prepared.VOCABULARY
        if not path.is_file():
            raise config.ConfigError(
                f"config.data.vocabulary is empty and data set {data.dataset!r} stores no vocabulary; give the "
                "vocab.txt or tokenizer.json that belongs to the text tower"
            )
    tokenizer = Tokenizer(path, text.length)
    if tokenizer.vocab_size > text.vocab_size:
        raise config.ConfigError(
            f"config.data.vocabulary: {path} has {tokenizer.vocab_size} tokens but config.text.vocab_size is "
            f"{text.vocab_size}; take the tower's own vocabulary or raise vocab_size"
        )
    return tokenizer


def train_vocabulary(captions: Sequence[str], path: Path, later: Sequence[str] = ()) -> None:
    """Write a tokenizer.json with a token for each word of `captions`, lower-cased, most frequent first.

    Words of `later` that no caption has follow, in the order in which they occur, so that the ids of the captions'
    words do not depend on them.
    """
    tokenizer = tokenizers.Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        captions, trainers.WordLevelTrainer(special_tokens=list(SPECIAL), show_progress=False)
    )
    known = tokenizer.get_vocab()
    for line in later:
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(line)):
            known.setdefault(word, len(known))
    tokenizer.model = models.WordLevel(known, unk_token="[UNK]")
    _frame(tokenizer, path)
    tokenizer.save(str(path))


def _read(path: Path) -> tokenizers.Tokenizer:
    if not path.is_file():
        raise config.ConfigError(f"config.data.vocabulary: no file {path}; expected a vocab.txt or a tokenizer.json")
    try:
        if path.suffix == ".json":
            return tokenizers.Tokenizer.from_file(str(path))
        vocabulary = models.WordPiece.read_file(str(path))
    except Exception as error:  # the Rust side raises bare Exception
        raise config.ConfigError(f"config.data.vocabulary: {path} is not a tokenizer file: {error}") from error
    vocabulary = {token if id_ else token.removeprefix("\ufeff"): id_ for token, id_ in vocabulary.items()}
    normalizer = _normalizer(vocabulary, path)
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    for token in SPECIAL:  # before add_special_tokens, which would add the missing ones in silence
        _id(tokenizer, token, path)
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    _frame(tokenizer, path)
    return tokenizer


def _normalizer(vocabulary: Mapping[str, int], path: Path) -> normalizers.Normalizer:
    """Return the normaliser of a `vocab.txt`, as the tokenizer_config.json beside it says. Raises ConfigError."""
    file = path.with_name("tokenizer_config.json")
    if not file.is_file():
        cased = [word for word in vocabulary if word != word.lower() and not re.fullmatch(r"\[\w+\]", word)]
        if capital := min(cased, key=vocabulary.__getitem__, default=""):
            raise config.ConfigError(
                f"config.data.vocabulary: {path} has capitals ({capital!r}), and nothing says whether captions keep "
                "theirs; put the tower's tokenizer_config.json beside it, or take its tokenizer.json"
            )
        return normalizers.BertNormalizer(lowercase=True)
    try:
        settings = as_json.loads(file.read_bytes())
        lowercase, strip_accents = settings.get("do_lower_case", True), settings.get("strip_accents")
        chinese = settings.get("tokenize_chinese_chars", True)
        return normalizers.BertNormalizer(True, chinese, strip_accents, lowercase)
    except (ValueError, TypeError, AttributeError) as error:
        expected = (
            "expected JSON with `do_lower_case`, `strip_accents` and `tokenize_chinese_chars`, each true or false"
        )
        raise config.ConfigError(f"config.data.vocabulary: {file}: {expected} ({error})") from error


def _special(tokenizer: tokenizers.Tokenizer, path: Path) -> dict[str, str]:
    """Return the special tokens of the first kind whose tokens the vocabulary has and puts around a caption."""
    tokenizer.no_padding()
    framed = tokenizer.encode("").tokens
    missing = {kind: sum(tokenizer.token_to_id(t) is None for t in names.values()) for kind, names in KINDS.items()}
    for kind, special in KINDS.items():
        if not missing[kind] and framed == [token for name, token in special.items() if name in _FRAME]:
            return special
    if not framed and _is_unframed(tokenizer, missing):
        return _UNFRAMED
    kind = min(missing, key=lambda kind: missing[kind])
    for token in KINDS[kind].values():
        _id(tokenizer, token, path)
    frame = " and ".join(token for name, token in KINDS[kind].items() if name in _FRAME)
    raise config.ConfigError(
        f"config.data.vocabulary: {path} does not put {frame} around a caption; "
        f"take a tokenizer.json with {kind}'s post-processor, or BERT's vocab.txt"
    )


def _is_unframed(tokenizer: tokenizers.Tokenizer, missing: Mapping[str, int]) -> bool:
    """Return whether a vocabulary is TIPSv2's: SentencePiece's BPE, without the special tokens of another such kind.

    `missing`: the number of special tokens that it lacks of each of KINDS. Files that have lost their frame have all.
    """
    is_bpe = isinstance(tokenizer.model, models.BPE) and tokenizer.model.byte_fallback
    others = all(missing[kind] for kind in KINDS if kind != "SigLIP")  # whose two are in any such vocabulary
    return is_bpe and others and all(tokenizer.token_to_id(token) is not None for token in _UNFRAMED.values())


def _frame(tokenizer: tokenizers.Tokenizer, path: Path) -> None:
    sep, cls = _id(tokenizer, "[SEP]", path), _id(tokenizer, "[CLS]", path)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls))


def _id(tokenizer: tokenizers.Tokenizer, token: str, path: Path) -> int:
    id_ = tokenizer.token_to_id(token)
    if id_ is None:
        raise config.ConfigError(
            f"config.data.vocabulary: {path} has no {token}; take the text tower's own vocabulary, which has one"
        )
    return id_
