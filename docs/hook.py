"""Adds the pages of the methods to the site while mkdocs builds it."""

import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
import methods  # noqa: E402


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lists the pages of the methods in the navigation."""
    pages = [{name: f"methods/{name}.md"} for name in methods.names()]
    for entry in config.nav or []:
        if "Methods" in entry:
            entry["Methods"] = ["methods/index.md", *pages]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each method, and one with all of them."""
    pages = {name: methods.page(name) for name in methods.names()}
    for name, text in {**pages, "index": methods.index()}.items():
        files.append(File.generated(config, f"methods/{name}.md", content=text))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Takes out the theme's only script from the network, which a served site can do without."""
    return re.sub(r'<script src="https://unpkg[^>]*></script>', "", output)


def on_post_template(output: str, template_name: str, config: MkDocsConfig) -> str:
    """Does the same for the page of what does not exist."""
    return re.sub(r'<script src="https://unpkg[^>]*></script>', "", output)
