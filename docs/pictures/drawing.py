"""The look that the pictures share: colours for a light and a dark page, boxes, wires and words as SVG."""

FONT = "-apple-system, BlinkMacSystemFont, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif"

# A role -> its colour on a light and on a dark page. `*_fill` lies behind words of the role's own colour.
THEMES = {
    "light": {
        "ink": "#1f2328",
        "muted": "#505a64",
        "panel": "#f6f8fa",
        "panel_edge": "#d1d9e0",
        "image": "#0a4f8f",
        "image_fill": "#dcebf9",
        "text": "#8f4300",
        "text_fill": "#fdebd3",
        "bridge": "#00614a",
        "bridge_fill": "#d5f2e6",
    },
    "dark": {
        "ink": "#f0f6fc",
        "muted": "#a9b3be",
        "panel": "#171c23",
        "panel_edge": "#3d444d",
        "image": "#83c5ff",
        "image_fill": "#12304d",
        "text": "#ffb866",
        "text_fill": "#432a0c",
        "bridge": "#5fdcb0",
        "bridge_fill": "#0c3a2d",
    },
}


class Drawing:
    """Collect the SVG elements of one theme."""

    def __init__(self, theme: str, width: int, height: int, title: str, description: str):
        self.colour = THEMES[theme]
        self.width, self.height = width, height
        self.title, self.description = title, description  # for a screen reader
        self.elements: list[str] = []
        self.heads: dict[str, str] = {}  # role -> the head of its arrows

    def words(self, x: float, y: float, words: str, size: int = 17, role: str = "ink", bold: bool = False) -> None:
        """Write one line, centred at x with its baseline at y; `u_v` becomes u with a subscript v."""
        base, _, subscript = words.partition("_") if words[1:2] == "_" else (words, "", "")
        tail = f'<tspan dy="5" font-size="{size - 5}">{subscript}</tspan>' if subscript else ""
        style = f' font-weight="{600 if bold else 400}"' + (' font-style="italic"' if subscript else "")
        self.elements.append(
            f'<text x="{x}" y="{y}" font-size="{size}" fill="{self.colour[role]}"{style}>{base}{tail}</text>'
        )

    def box(
        self, x: float, y: float, width: float, height: float, role: str, fill: str, radius: int = 10, line: float = 2
    ) -> None:
        """Draw a rounded rectangle whose upper left corner is at x, y."""
        self.elements.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="{radius}" '
            f'fill="{self.colour[fill]}" stroke="{self.colour[role]}" stroke-width="{line}"/>'
        )

    def stack(self, x: float, y: float, width: float, height: float, role: str) -> None:
        """Draw a box in front of two others that show their upper edges: several layers of one kind."""
        for back in (2, 1):
            self.box(x + 5 * back, y - 5 * back, width - 10 * back, height, role, f"{role}_fill", line=1.5)
        self.box(x, y, width, height, role, f"{role}_fill")

    def wire(self, path: str, role: str, arrow: bool = True, line: float = 2.5) -> None:
        """Draw a line along an SVG path, with a head at its end."""
        if arrow:
            self.heads[role] = (
                f'<marker id="{role}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="12" markerHeight="12" '
                'markerUnits="userSpaceOnUse" orient="auto">'
                f'<path d="M0 0L10 5L0 10Z" fill="{self.colour[role]}"/></marker>'
            )
        head = f' marker-end="url(#{role})"' if arrow else ""
        self.elements.append(f'<path d="{path}" fill="none" stroke="{self.colour[role]}" stroke-width="{line}"{head}/>')

    def dot(self, x: float, y: float, role: str) -> None:
        """Mark a place where a wire branches."""
        self.elements.append(f'<circle cx="{x}" cy="{y}" r="4" fill="{self.colour[role]}"/>')

    def svg(self) -> str:
        """Return the file's text."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" role="img" aria-labelledby="title desc">\n<title id="title">{self.title}</title>\n'
            f'<desc id="desc">{self.description}</desc>\n<defs>{"".join(self.heads.values())}</defs>\n'
            f'<g font-family="{FONT}" text-anchor="middle">\n' + "\n".join(self.elements) + "\n</g>\n</svg>\n"
        )
