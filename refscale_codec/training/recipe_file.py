"""The TOML file of a recipe, and the manifests that it names; needs no torch. Its fields are in `recipe`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refscale_codec.errors import UsageError, reason
from refscale_codec.picture import files
from refscale_codec.picture.manifest import read_manifest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MOST_BYTES = 1 << 20  # a device need not end


def read(path: Path, manifests: Sequence[Path] = ()) -> dict[str, Any]:
    """Return what is in a file, fields and tables, as TOML has them.

    Args:
        path: of the file.
        manifests: in place of those that it names, if there are any: `manifest`, and the others `further`.

    Raises:
        UsageError: it is missing or no TOML.
    """
    try:
        with path.open("rb") as file:
            data = files.contents(file, str(path), lambda head, name: _MOST_BYTES)
        table = tomllib.loads(data.decode())
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"cannot read the training config {path}: {reason(error)}") from None
    if manifests:
        first, *further = (str(manifest.absolute()) for manifest in manifests)
        table |= {"manifest": first, "further": further}
    return table


def require_manifests(path: Path, manifests: Sequence[Path] = ()) -> None:
    """Raise UsageError for a recipe or a manifest of it that cannot be read; arguments as in `read`."""
    table = read(path, manifests)
    further = table.get("further", [])
    hint = "" if manifests else f"; {path} names it, --manifest names another"
    for name in (table.get("manifest"), *(further if isinstance(further, list) else [])):
        if isinstance(name, str):  # what is not is told by `recipe`
            try:
                read_manifest(path.parent / name)
            except UsageError as error:
                raise UsageError(f"{error}{hint}") from None
