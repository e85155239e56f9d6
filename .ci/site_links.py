"""A hook of MkDocs: links to files outside `docs/` become text, since the site does not have these files."""

import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"\[([^]]*)\]\((?!https?://|#)([^)#]+)[^)]*\)")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """The Markdown of a page without such links."""
    docs = Path(config["docs_dir"]).resolve()
    folder = Path(page.file.abs_src_path).parent

    def shown(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        is_on_site = target.is_relative_to(docs) and target.suffix not in (".py", ".ipynb")
        return link[0] if is_on_site else link[1]

    return _LINK.sub(shown, markdown)
