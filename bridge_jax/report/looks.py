"""Draw where words look: a map of each word over its photo, and whether the maps point at what matters."""

import math

import numpy as np
from markupsafe import Markup

from bridge_jax.analysis.deletion import Fall
from bridge_jax.report.attention import DRAWS, SHARE, Looks
from bridge_jax.report.drawing import NONE, table
from bridge_jax.report.gallery import Gallery

LEVELS = "0123456789abcdefghijklmnopqrstuvwxyz"  # of a patch, relative to the map's largest
SAID = {"text_over_image": "words look at patches", "image_over_text": "patches look at words"}


def section(looks: Looks, gallery: Gallery) -> Markup:
    """Return the falls, the choice of layer and way, and the photos with their words."""
    figures = [figure(looks, gallery, index) for index in range(len(looks.rows))]
    return Markup("{}{}<div class='looks'>{}</div>").format(falls(looks), _choice(looks), NONE.join(figures))


def falls(looks: Looks) -> Markup:
    """Return the table of the deletion test, and one sentence that says which maps passed it."""
    cells = [
        (*named(key), verdict(fall), f"{fall.attended:.3f}", f"{fall.random:.3f}", f"{fall.difference:+.3f} "
         f"[{fall.low:+.3f}, {fall.high:+.3f}]")
        for key, fall in looks.falls.items()
    ]  # fmt: skip
    return Markup(
        '<p class="about">A map is worth looking at if the patches that it points at matter. So the {:.0f} % of a '
        "photo's patches that the words of a caption attend to most are removed, and beside them as many at random, {} "
        "times: the state of a removed patch becomes the mean of the photo's other patches, where the bridge first "
        "meets it. The match logit then falls by so much, averaged over {} photos with {} captions; the difference has "
        "its 95 % bootstrap interval over photos.</p>{}"
    ).format(
        100 * SHARE,
        DRAWS,
        len(looks.rows),
        looks.pairs,
        table(
            ("layer", "direction", "so", "most attended", "random", "difference [95 %]"),
            cells,
            3,
            "Fall of the match logit",
        ),
    )


def verdict(fall: Fall) -> str:
    """Return what the interval of a fall says of the maps."""
    if fall.matters:
        return "its maps point at what matters"
    return "its maps point at what matters less than chance" if fall.high < 0 else "not told from chance"


def named(key: tuple[int, str]) -> tuple[str, str]:
    """Return layer, counted from 1, and direction as words."""
    return str(key[0] + 1), SAID[key[1]]


def _choice(looks: Looks) -> Markup:
    """Return the buttons that choose the layer and the direction of all maps."""
    falls = list(looks.falls.values())
    first = max(range(len(falls)), key=lambda index: falls[index].difference)
    items = [
        Markup('<label><input type="radio" name="map" value="{}"{}> layer {}: {}</label>').format(
            index, Markup(" checked") if index == first else NONE, *named(key)
        )
        for index, key in enumerate(looks.falls)
    ]
    return Markup(
        '<p class="about">Point at a word, or focus it and press the arrow keys: the brighter a patch, the more the '
        "word looks at it, or it at the word, relative to the brightest. Heads are averaged. The page opens with the "
        "maps whose patches matter most, and each photo with the word that has the sharpest of them.</p>"
        '<fieldset class="maps"><legend>Maps of</legend>{}</fieldset>'
    ).format(NONE.join(items))


def figure(looks: Looks, gallery: Gallery, index: int) -> Markup:
    """Return a photo, its caption as words that show their maps, and the table of where they look most."""
    maps, words = looks.maps[index], looks.words[index]
    side = math.isqrt(maps.shape[-1])
    buttons = [
        Markup('<button type="button" tabindex="{}" data-maps="{}">{}</button>').format(
            0 if place == 0 else -1, encode(maps[:, :, place]), word
        )
        for place, word in enumerate(words)
    ]
    name = " ".join(words)
    return Markup(
        '<figure class="look"><div class="frame">{}<svg viewBox="0 0 {} {}" aria-hidden="true"></svg></div>'
        '<figcaption>Match logit {:.1f}</figcaption><div class="words" role="toolbar" aria-label="{}">{}</div>'
        "<output></output><details><summary>Most attended patches<span class='unseen'> of: {}</span></summary>{}"
        "</details></figure>"
    ).format(
        gallery.photo(looks.rows[index]), side, side, looks.logits[index], f"Words of: {name}", NONE.join(buttons),
        name, _peaks(looks, maps, words, side)
    )  # fmt: skip


def encode(maps: np.ndarray) -> str:
    """Return the maps [Q,2,patches] of a word as text: of each the largest value in percent, and a level a patch."""
    texts = []
    for each in maps.reshape(-1, maps.shape[-1]):
        levels = np.round(each / max(float(each.max()), 1e-12) * (len(LEVELS) - 1)).astype(int)
        texts.append(f"{100 * each.max():.1f}:{''.join(LEVELS[level] for level in levels)}")
    return " ".join(texts)


def _peaks(looks: Looks, maps: np.ndarray, words: list[str], side: int) -> Markup:
    head = ["word", *(f"layer {layer}: {way}" for layer, way in map(named, looks.falls))]
    rows = []
    for place, word in enumerate(words):
        each = maps[:, :, place].reshape(len(looks.falls), -1)
        tops = [divmod(int(top), side) for top in each.argmax(axis=1)]
        rows.append([word, *(f"row {row + 1}, column {column + 1}: {100 * value:.1f} %"
                             for (row, column), value in zip(tops, each.max(axis=1), strict=True))])  # fmt: skip
    cells = NONE.join(
        Markup("<tr><th>{}</th>{}</tr>").format(row[0], NONE.join(Markup("<td>{}</td>").format(c) for c in row[1:]))
        for row in rows
    )
    titles = NONE.join(Markup("<th>{}</th>").format(title) for title in head)
    return Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(titles, cells)
