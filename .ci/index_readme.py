"""The README for a package index, which has no other file: pictures and links to the project's files become text."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class IndexReadme(MetadataHookInterface):
    """Set the package's long description as it is built."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in the dynamic field `readme`."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        text = re.sub(r"!?\[([^]]*)\]\((?!https?://|#)[^)]*\)", r"\1", text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
