"""Tables of figures in the documents: each between two lines of its own program's mark, replaced as a whole."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def replace_table(document: str, program: str, lines: list[str]) -> None:
    """Put a table into a document, such as docs/TRAINING.md, where `<!-- by PROGRAM -->` stands above and below."""
    path, mark = ROOT / document, f"<!-- by {program} -->"
    before, _, after = path.read_text(encoding="utf-8").split(mark)
    path.write_text(f"{before}{mark}\n{chr(10).join(lines)}\n{mark}{after}", encoding="utf-8")
