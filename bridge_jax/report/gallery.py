"""Show the photos and captions of a split inside a page."""

import base64
import dataclasses

from markupsafe import Markup

from bridge_jax import config
from bridge_jax.config import ConfigError
from bridge_jax.data import encode, image, records

PX = 160  # side of a photo on the page


@dataclasses.dataclass(frozen=True)
class Gallery:
    """The records of a split, by row. A photo is shown as the square that the image tower sees."""

    records: records.Split
    squash: bool

    def image_id(self, row: int) -> int:
        return self.records[row]["image_id"]

    def captions(self, row: int) -> list[str]:
        return self.records[row]["captions"]

    def photo(self, row: int) -> Markup:
        """Return the photo of a record as an image that the page carries; its text is the first caption.

        Raises BrokenError.
        """
        record = self.records[row]
        encoded = encode.webp(image.eval_view(record["image"], PX, self.squash))
        said = (record["captions"] or ["a photo without captions"])[0]
        source = base64.b64encode(encoded).decode()
        return Markup('<img src="data:image/webp;base64,{}" width="{}" height="{}" alt="{}">').format(
            source, PX, PX, said
        )


def open_gallery(data: config.Data, split: str, fingerprint: str = "") -> Gallery:
    """Return the photos of a split. Raises ConfigError where it is not there, or has another fingerprint than given."""
    if fingerprint and records.fingerprint(data, split) != fingerprint:
        raise ConfigError(
            f"the prepared data {data.dataset}/{split} in {data.data_dir!r} has changed since it was ranked; score it "
            f"again: python -m tools.evaluate --workdir=WORKDIR --split={split} --rerank"
        )
    return Gallery(records.open_split(data, split), data.squash)
