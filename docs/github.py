"""Read the pages as GitHub shows them: a picture for each theme, and a link to a page outside this folder.

<picture> with a source for dark pages   two images, of which the theme of the site shows one
../launch/README.md                      launch.md, the page of the site that includes it
"""

import re

from sphinx.application import Sphinx

PICTURE = re.compile(
    r'<picture>\s*<source [^>]*srcset="([^"]+)">\s*<img src="([^"]+)" alt="([^"]+)"[^>]*>\s*</picture>'
)


def adapt(app: Sphinx, name: str, text: list[str]) -> None:
    """Write the page for the site, in place."""
    text[0] = PICTURE.sub(two_images, text[0].replace("../launch/README.md", "launch.md"))


def two_images(match: re.Match[str]) -> str:
    dark, light, words = match.groups()
    return "\n".join(
        f"```{{image}} {path}\n:class: only-{theme}\n:alt: {words}\n:width: 880\n```"
        for theme, path in (("light", light), ("dark", dark))
    )


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", adapt)
    return {"parallel_read_safe": True}
