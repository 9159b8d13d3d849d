"""A hook of MkDocs: adds the pages of the top folder to those of docs/, and adapts links to the repository's files.

It makes the page of the command line from the output of each command with `--help`.

Pages link to files by their paths in the repository, so that the links work there. A link to a page becomes a link
within the site. A link to any other file leads to the repository at `repo_url`. Without `repo_url` only the link's text
stays, and shows the file's path when the pointer rests on it.
"""

from __future__ import annotations

import io
import os
import re
from contextlib import redirect_stdout, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mkdocs.structure.files import File, Files

from broker.cli.catalogue import CATALOGUE
from broker.cli.main import build_parser

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

_ROOT = Path(__file__).resolve().parent.parent
#: Pages of the top folder, and their names in the site.
_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of the top folder and the page of the command line."""
    files.append(File.generated(config, "reference/commands.md", content=_commands()))
    for name, page in _PAGES.items():
        files.append(File.generated(config, page, content=(_ROOT / name).read_text(encoding="utf-8")))
    return files


def _commands() -> str:
    os.environ["COLUMNS"] = "90"  # how wide argparse writes
    page = ["# The command line"]
    for arguments in [], *([entry.name] for entry in CATALOGUE):
        with redirect_stdout(io.StringIO()) as told, suppress(SystemExit):
            build_parser(arguments).parse_args([*arguments, "--help"])
        page.append(f"## {' '.join(['broker', *arguments])}\n\n```text\n{told.getvalue().strip()}\n```")
    return "\n\n".join(page) + "\n"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Adapts the links of a page to the site."""
    of_page = page.file.src_uri
    source = next((name for name, at in _PAGES.items() if at == of_page), f"docs/{of_page}")

    def moved(link: re.Match[str]) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        path = os.path.normpath(PurePosixPath(source).parent / target)
        in_site = _PAGES.get(path, path.removeprefix("docs/"))
        if files.get_file_from_path(in_site) is not None:
            return f"[{text}]({os.path.relpath(in_site, PurePosixPath(of_page).parent)}{anchor})"
        if not (_ROOT / path).exists():
            return link[0]  # MkDocs reports it
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path})"
        return f'<span title="{path}">{text}</span>'

    return _LINK.sub(moved, markdown)
