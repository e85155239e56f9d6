"""The README as a package index shows it: a picture or a link to a file of the project, which is not there, is its text."""

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
