"""Training data in one file under 50 MB, to train on another machine.

    python benchmarks/pack_data.py ../shared/data/manifest.csv build/train.zip
    python -m zipfile -e train.zip data                       # there; then manifest = "data/manifest.csv" in the recipe

The splits that recipes train on, as JPEGs of quality 94 (4:4:4), with their manifest. JPEG's loss enters the targets
so; the weights that ship were trained on the pictures themselves.
"""

import argparse
import csv
import io
import zipfile
from pathlib import Path, PurePosixPath

from refscale_codec.picture.io import pictures
from refscale_codec.study.coders import jpeg

SPLITS = ("train", "single")
QUALITY = 94
LIMIT = 50_000_000


def main() -> None:
    """Write the file; refuse one that has become too large."""
    parser = argparse.ArgumentParser(description="Pack the training splits of a manifest into one file.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    with args.manifest.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] in SPLITS]
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    written: set[str] = set()
    with zipfile.ZipFile(args.output, "w") as archive:
        for row in rows:
            for column in ("target", "reference"):
                if not row[column]:
                    continue
                source, row[column] = row[column], str(PurePosixPath(row[column]).with_suffix(".jpg"))
                if row[column] not in written:
                    written.add(row[column])
                    pixels = pictures.read(args.manifest.parent / source).pixels
                    archive.writestr(row[column], jpeg.encode(pixels, QUALITY))
            writer.writerow(row)
        archive.writestr("manifest.csv", table.getvalue())
    size = args.output.stat().st_size
    print(f"{args.output}: {len(written)} pictures, {size:,} bytes")
    if size >= LIMIT:
        raise SystemExit(f"that is more than {LIMIT:,} bytes: lower QUALITY")


if __name__ == "__main__":
    main()
