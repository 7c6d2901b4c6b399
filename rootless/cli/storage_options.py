"""`--storage-opt` of the commands that start an engine: settings by other means."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rootless.model.errors import InvalidParameter


def apply(options: Sequence[str]) -> None:
    """Put them into the environment of the engine that this process starts or becomes. Raises InvalidParameter."""
    stores = []
    for option in options:
        name, _, value = option.partition("=")
        if name != "additional" or not value:
            raise InvalidParameter(
                f"invalid storage option {option!r}: there is additional=DIR, the data root of others"
            )
        stores.append(os.path.abspath(value))
    if stores:
        os.environ["ROOTLESS_ADDITIONAL_STORES"] = ",".join(stores)
