"""Cut a caption into words as the COCO caption evaluation does: Penn Treebank tokens without punctuation.

For published scores, Stanford's PTBTokenizer (CoreNLP 3.4.1, in Java, `-lowerCase`) cut the captions into tokens, and a
list of punctuation was removed from them. This file does the same by its own regular expressions, written from the
output of the Java program. NLTK's tokenisers follow the Treebank's script and not this program: on captions as people
type them (periods inside, a.m., Mr., 2:50pm, words without a blank between them) their output mostly differs.

Surprises of the program are kept. Tokens are lower-case when the list is applied, so brackets stay, as -lrb- and -rrb-,
and so do !!, * and &. A pound sign becomes #, a euro sign $. Words around a forgotten blank are one: `man.The` is
`man.the`.

Known to differ: a single letter with a period before a word that begins sentences (A, The, In; in Java also that of the
next line), which loses its period there; `1 1/2`, one word there; entities of HTML but six; telephone numbers in
brackets; addresses of mail and web with a mark behind them or more than a path in them; an apostrophe inside a word
that is no contraction (dy'ou); a slash behind three hyphens; rare currencies.

>>> tokenise("A man's dog can't jump -- it's 2:50 p.m., and Mr. Smith (the owner) is gone...")
"a man 's dog ca n't jump it 's 2:50 p.m. and mr. smith -lrb- the owner -rrb- is gone"
"""

import re

_SPELT = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3", "£": "#", "€": "$", "¢": "cents",
}  # fmt: skip
# The list of the COCO code, and characters that the Java program turns into members of it.
_REMOVED = {"'", "''", "`", "``", '"', *"‘’“”«»‹›", "…", "?", "!", ",", ":", ";"}
_REMOVED |= {"-", "--", "---", "----", *"‐–—―"}

# A period belongs to the first list in any case, to the second only with a capital, to the third only before a number.
_ABBREVIATIONS = """
    adj adm adv al ala alex apr ariz assn assoc asst aug ave bancorp bhd bldg blvd brig bros calif capt cf cie cmdr co
    col colo conn corp cos cpl ct dec dept det dr elec ens esq est etc ext feb fla fri ft ga gen gov hon inc ind insp
    intl jan jos jr jul jun kan ky lieut lt ltd maj mar md messrs mfg mich minn mlle mme mo mon mont mr mrs ms msgr mt
    natl neb nev nov oct okla penn pfc ph plc pres prof pty pvt rd rep rev sen sep sept seq sgt spc sq sr st supt tel
    tenn thu thurs treas tue tues univ va vs vt wed wis wm wyo
"""
_PLACES = "Ark Del Ill La Mass Miss Ore Pa Tex Wash"
_BEFORE_NUMBERS = "art ca fig figs no nos op pp prop"


def _any(words: str) -> str:
    return "(?:" + "|".join(map(re.escape, words.split())) + ")"


# The parts of the tokens.
_Q = "['’]"
_L = "[A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u1fff\u3040-\ud7ff]"  # a letter, or an accent to put on it
_A = f"(?:{_L}|[0-9])"
_END = f"(?!{_A})"
_ALONE = f"(?!{_A}|[.!?'’]{_L})"  # the end of a word without an ending: gonna, but not gonna's
_ACRONYM = rf"(?:{_L}\.){{2,}}{_END}"  # p.m.
_NAME = f"(?:[DOdo]{_Q})?"  # o'clock, D'Angelo
_BOTH = "[A-Za-z0-9]+(?:-[A-Za-z]+)*"
_KEPT = r"(?:\.(?=[,;:]))?"  # the period of any word, before another mark
# The first pattern that matches is the token, so longer tokens stand before the ones they contain.
_TOKEN = re.compile(
    "|".join(
        (
            r'https?://[^\s"<>|()]*[^\s"<>|().!?,;:-]',
            r"''|``|\.{3,}",
            rf"mailto:\S+@\S+{_A}|[\w.+-]*\w@\w[\w.-]*\w",
            rf"(?:{_L}+\.)+(?:com|net|org|edu)/[\w/.-]*[\w/]",
            r"</?[A-Za-z][^<>]*>",
            rf">?[:;=][-o']?[()\]DP]{_END}",  # :-)
            r"\^_\^",
            r"@[A-Za-z_]\w*",
            rf"\#{_L}+",
            r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}|\d{1,4}-\d{1,4}/\d{1,4}",  # dates, 11-1/2
            rf"{_BOTH}(?:/{_BOTH}){{1,2}}{_END}",  # his/her
            rf"{_NAME}{_A}(?:{_A}|[.,])*(?:-(?:{_ACRONYM}|{_NAME}{_A}+))+{_KEPT}",  # t-shirt, 3.5-inch, u.s.-based
            # One word that makes two tokens: can not, gon na, 't is; endings: do n't, it 's; and other apostrophes.
            rf"(?i:can(?=not{_ALONE})|(?:gon|wan)(?=na{_ALONE})|got(?=ta{_ALONE})|(?:gim|lem)(?=me{_ALONE}))",
            r"(?i:'t(?=is|was))",
            rf"(?i:{_L}+(?=n[`'’]t(?!{_L}))|n[`'’]t(?!{_L})|{_Q}(?:s|m|d|ll|re|ve)(?!{_L}))",
            rf"(?i:{_Q}(?:em|cause|til){_END}|{_Q}n(?:{_Q}|{_END})|(?:c{_Q}mon|e{_Q}er|ne{_Q}er|ma{_Q}am|ol{_Q}){_END})",
            rf"{_Q}\d\d(?:[sS]{_END}|(?=\s|$))",  # '90s
            rf"[Yyj]{_Q}(?={_L})",
            rf"[A-HJ-XZdlno]{_Q}{_L}{{2,}}",  # O'Reilly
            r"[A-Z]+(?:[&+][A-Z]+)+",  # AT&T
            rf"{_ACRONYM}|[Pp]h\.[Dd]\.{_END}",
            rf"{_L}{_A}*(?:[.!?]{_L}{_A}*)+{_KEPT}",  # man.The: a space forgotten
            rf"(?i:{_any(_ABBREVIATIONS)}\.)|(?:{_any(_PLACES)}|{_any(_PLACES.upper())})\.",
            rf"(?i:{_any(_BEFORE_NUMBERS)}\.(?=\s?\d))",
            rf"{_L}\.",
            r"[-+]?\d*(?:[.:,]\d+)+|[-+]\d+",
            r"[A-Z]+\$",  # US$
            rf"{_A}+(?:[‐‑_]{_A}+)*{_KEPT}",
            r"[!?]+|-+|\*+|_+|\#+|<<|>>",
            r"\S",
        )
    )
)
# Replaced first: entities, a typographic apostrophe in an ending, and characters read as nothing or as a blank.
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&nbsp;": " "}
_READ_AS = re.compile(
    rf"{_any(' '.join(_ENTITIES))}|(?i:(?<=n)’(?=t(?!{_L}))|’(?=(?:s|m|d|ll|re|ve)(?!{_L})))"
    "|\u00ad|[\u200b-\u200f\U00010000-\U0010ffff]"
)
_SMILEY = re.compile(r">?[:;=].")


def tokenise(caption: str) -> str:
    """Return the words of a caption in lower case, with blanks between them and no punctuation; it may be empty."""
    tokens = _TOKEN.findall(_READ_AS.sub(_read_as, caption))
    words = (token for token in tokens if token not in _REMOVED and token.strip("."))
    return " ".join(_written(word).lower() for word in words)


def _read_as(match: re.Match[str]) -> str:
    return (_ENTITIES | {"’": "'", "\u00ad": ""}).get(match[0], " ")


def _written(word: str) -> str:
    """Write a token as the Java program does, except for lower case."""
    if _SMILEY.match(word):
        return word.replace("(", _SPELT["("]).replace(")", _SPELT[")"])
    return _SPELT.get(word, word)
