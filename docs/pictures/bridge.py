"""Draw the front page's picture: two towers, the bridge between them, and the two passes.

    python docs/pictures/bridge.py

writes bridge-light.svg and bridge-dark.svg beside this file. It needs nothing but Python. Data flows upwards; blue is
the image, orange the text and green the bridge, and words that name a side have its colour.
"""

from pathlib import Path

from drawing import THEMES, Drawing

WIDTH, HEIGHT = 880, 574
TITLE = "BRIDGE: the same weights, run in two passes"
DESCRIPTION = (
    "A photo enters the lower blocks of an image tower (ViT), a caption those of a text tower (BERT). This lower pass "
    "runs once and feeds two passes that share their weights. The unimodal pass runs the upper blocks of each tower "
    "alone and gives the embeddings u_v and u_t, whose cosine searches a gallery of millions. The fused pass takes the "
    "best k candidates and runs the same upper blocks with Q interaction layers between the towers: in a shared width, "
    "text queries attend to image keys and image queries to text keys, and each result returns to its tower through a "
    "gate, g_t and g_v. It gives p_v and p_t, whose match logit reranks the k candidates."
)

BLOCK = 112  # width of a tower's upper blocks
ALONE = {"image": 80, "text": 240}  # centre of each tower's upper blocks in the unimodal pass
FUSED = {"image": 464, "text": 800}
TOWER = {"image": "ViT", "text": "BERT"}
LETTER = {"image": "v", "text": "t"}


def draw(theme: str) -> str:
    """Return the picture for a "light" or a "dark" page."""
    drawing = Drawing(theme, WIDTH, HEIGHT, TITLE, DESCRIPTION)
    drawing.box(8, 8, 304, 386, "panel_edge", "panel", 16, 1.5)
    drawing.box(392, 8, 480, 386, "panel_edge", "panel", 16, 1.5)
    drawing.box(8, 440, 864, 84, "panel_edge", "panel", 16, 1.5)
    _pass(drawing, ALONE, "u", "1 · Unimodal pass", "each alone: search millions", "cosine")
    _pass(drawing, FUSED, "p", "2 · Fused pass", "both together: rerank the best k", "match logit")
    _between(drawing)
    _bridge(drawing)
    _lower(drawing)
    return drawing.svg()


def _pass(drawing: Drawing, centres: dict[str, int], letter: str, name: str, purpose: str, score: str) -> None:
    """Draw one pass upwards: the upper blocks, the embeddings, the score of the two, the name and the purpose."""
    middle, width = sum(centres.values()) // 2, 12 * len(score) + 34
    drawing.words(middle, 42, name, 24, bold=True)
    drawing.words(middle, 68, purpose, 19, "muted")
    drawing.box(middle - width // 2, 90, width, 38, "ink", "panel", 19)
    drawing.words(middle, 116, score, 20, bold=True)
    for side, x in centres.items():
        drawing.stack(x - BLOCK // 2, 226, BLOCK, 150, side)
        drawing.words(x, 296, TOWER[side], 22, side, bold=True)
        drawing.words(x, 320, "upper blocks", 17, side)
        drawing.wire(f"M{x} 214V192", side)
        drawing.box(x - 30, 152, 60, 38, side, f"{side}_fill", 19)
        drawing.words(x, 176, f"{letter}_{LETTER[side]}", 22, side, bold=True)
        edge = middle + (width // 2 + 2) * (1 if x > middle else -1)
        drawing.wire(f"M{x} 152V109H{edge}", side)


def _between(drawing: Drawing) -> None:
    """Say what joins the passes: the candidates go from one to the other, the weights are the same."""
    drawing.words(352, 96, "best k", 18, bold=True)
    drawing.wire("M316 109H388", "ink")
    drawing.words(352, 284, "=", 28, bold=True)
    drawing.words(352, 308, "same", 17)
    drawing.words(352, 328, "weights", 17)


def _bridge(drawing: Drawing) -> None:
    """Draw the Q interaction layers: each side asks the other, the answer returns to it through a gate."""
    middle = sum(FUSED.values()) // 2
    drawing.stack(middle - 74, 178, 148, 206, "bridge")
    drawing.words(middle, 208, "bridge × Q", 22, "bridge", bold=True)
    drawing.words(middle, 231, "shared width", 17, "bridge")
    for y, asking, other, turn in ((278, "text", "image", 1), (342, "image", "text", -1)):
        drawing.words(middle, y - 5, f"{asking} queries", 17, asking, bold=True)
        drawing.words(middle, y + 17, f"over {other} keys", 17, other)
        drawing.wire(f"M{middle - 112 * turn} {y}H{middle - 76 * turn}", other)
        drawing.wire(f"M{middle + 75 * turn} {y}H{middle + 110 * turn}", "bridge")
        drawing.words(middle + 92 * turn, y - 16, f"g_{LETTER[asking]}", 20, "bridge", bold=True)
        drawing.words(middle + 92 * turn, y + 20, "gate", 14, "bridge")


def _lower(drawing: Drawing) -> None:
    """Draw what both passes share: the inputs, the lower blocks, and the wires that feed either pass."""
    drawing.wire(f"M{ALONE['image']} 444V378", "image")
    hop = ALONE["text"]
    bus = f"M{ALONE['image']} 408H{hop - 8}A8 8 0 0 1 {hop + 8} 408H{FUSED['image']}V378"
    drawing.wire(bus, "image")
    drawing.wire(f"M{FUSED['text']} 444V378", "text")
    drawing.wire(f"M{FUSED['text']} 424H{hop}V378", "text")
    drawing.dot(ALONE["image"], 408, "image")
    drawing.dot(FUSED["text"], 424, "text")
    for side, x in (("image", 24), ("text", 582)):
        drawing.stack(x, 456, 274, 54, side)
        drawing.words(x + 137, 491, f"{TOWER[side]} lower blocks", 21, side, bold=True)
        drawing.wire(f"M{x + 137} 540V513", side)
    drawing.words(440, 478, "Lower pass", 24, bold=True)
    drawing.words(440, 502, "once, for both", 19, "muted")
    drawing.words(161, 562, "photo", 21, "image", bold=True)
    drawing.words(719, 562, "caption", 21, "text", bold=True)


if __name__ == "__main__":
    for name in THEMES:
        Path(__file__).with_name(f"bridge-{name}.svg").write_text(draw(name), encoding="utf-8", newline="\n")
