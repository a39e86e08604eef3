"""Makes docs/images/timeline.png of README from what `crossmamba predict` draws: its first line, smaller.

    crossmamba predict data/kitchen/videos/P09/P09_101.mp4 --model RUN --annotations data/kitchen/truth/EPIC_100_test.csv --out out
    python docs/images/make_timeline_picture.py out/timeline.png

The picture in the repository is of a kitchen made with `--videos 30,10,20` and of the run that `crossmamba study action`
trains first (12 passes, seed 0).
"""  # noqa: E501

import sys
from pathlib import Path

from PIL import Image

WIDTH = 1200
FIRST_LINE = 0.335
"""Share of the height that the first 20 of 60 seconds take."""


def main() -> None:
    """Crops, shrinks and writes."""
    picture = Image.open(sys.argv[1]).convert("RGB")
    picture = picture.crop((0, 0, picture.width, int(picture.height * FIRST_LINE)))
    picture = picture.resize((WIDTH, round(WIDTH * picture.height / picture.width)), Image.Resampling.LANCZOS)
    picture.quantize(128).save(Path(__file__).with_name("timeline.png"), optimize=True)


if __name__ == "__main__":
    main()
