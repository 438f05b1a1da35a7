"""What the site needs beside its pages: generated pages, formulas, links to files that are not part of it."""

import argparse
import importlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
ROOMS = re.findall(r"^ROOMS := (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[0].split()
NOT_CODE = shutil.ignore_patterns("__pycache__", "*.csv")
OUTSIDE = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])+)\]\(((?:\.\./)+[^)\s]*)\)")


def on_startup(command: str, dirty: bool) -> None:
    """Lay out the sources as in the installed package, where mkdocstrings reads them."""
    source = ROOT / ".cache" / "site" / "source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / "labelfusion", source / "labelfusion", ignore=NOT_CODE)
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / "labelfusion" / room, ignore=NOT_CODE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages without a place to "More"."""
    named = set(_pages(config.nav))
    docs = Path(config.docs_dir)
    found = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    more = sorted(found - named)
    if more and config.nav is not None:
        config.nav.append({"More": list(more)})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are generated from the code."""
    files.append(File.generated(config, "command-line.md", content=command_line()))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository that the site does not hold into plain text."""
    folder = Path(config.docs_dir) / Path(page.file.src_uri).parent

    def plain(found: re.Match[str]) -> str:
        target = Path(os.path.normpath(folder / found[2].partition("#")[0]))
        return found[0] if target.is_relative_to(config.docs_dir) else found[1]

    return OUTSIDE.sub(plain, markdown)


def on_page_content(html: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Turn names in brackets, as docstrings write them, into links to their entries on the page."""
    entries = {name.rpartition(".")[2]: name for name in re.findall(r'<h2 id="(labelfusion\.[\w.]+)"', html)}

    def link(found: re.Match[str]) -> str:
        code = f"<code>{found[1]}</code>"
        return f'<a href="#{entries[found[1]]}">{code}</a>' if found[1] in entries else code

    return re.sub(r"\[<code>(\w+)</code>\]", link, html)


def formula(source: str, language: str, css_class: str, options: Any, md: Any, **more: Any) -> str:
    """A block of LaTeX as MathML, which browsers draw by themselves."""
    from latex2mathml.converter import convert

    inner = convert(source, display="block")
    return f'<div class="{css_class}" tabindex="0" role="group" aria-label="Formula">{inner}</div>'


def command_line() -> str:
    """The page of the command's options, from its parsers."""
    from labelfusion.hub_scripts import cli

    parser, verbs = cli._main_parser()
    lines = ["# Command line", "", parser.description or "", "", "Made from `labelfusion COMMAND --help`.", ""]
    lines += [
        "`--config FILE.yaml` sets the defaults of a command's options. A file may have a section for each command.",
        "",
    ]
    for verb, part in verbs.items():
        importlib.import_module(f"labelfusion.hub_scripts.commands.{verb}").add_arguments(part)
        lines += [f"## labelfusion {verb} {{ #{verb} }}", "", part.description or "", ""]
        lines += _usage(part) + _options(part, f"labelfusion {verb}")
    return "\n".join(lines)


def _usage(parser: argparse.ArgumentParser) -> list[str]:
    shown = [a for a in parser._actions if not a.option_strings and a.help is not argparse.SUPPRESS]
    words = [a.metavar if isinstance(a.metavar, str) else a.dest.upper() for a in shown]
    return ["```bash", " ".join([parser.prog, *words, "[options]"]), "```", ""]


def _options(parser: argparse.ArgumentParser, prog: str) -> list[str]:
    lines: list[str] = []
    nested = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for action in parser._actions:
        if action in nested or action.help is argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
            continue
        lines += [f"`{_name(action)}`", f":   {_help(action, parser)}", ""]
    for action in nested:
        for name, part in action.choices.items():
            lines += [f"### {prog} {name}", "", part.description or "", "", *_options(part, f"{prog} {name}")]
    return lines


def _name(action: argparse.Action) -> str:
    value = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices is not None else action.dest.upper()
    )
    value = " ".join(value) if isinstance(value, tuple) else value
    if not action.option_strings:
        return value
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {value}"


def _help(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    text = (action.help or "") % (vars(action) | {"prog": parser.prog})
    text = text.replace("<", "&lt;")
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav or []
    return [page for part in parts for page in _pages(part)]
