"""What the documents say is so: links lead somewhere, commands and options exist, nothing tells of one machine."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import click
import pytest

from hark.cli import cli
from hark.recipes.recipe import parse_recipe

ROOT = Path(__file__).resolve().parents[1]
LARGEST_BYTES = 1_000_000
IGNORED = [".git", *(line.strip("/") for line in (ROOT / ".gitignore").read_text().split())]

LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.M | re.S)
RECIPE = re.compile(r"^```toml\n(.*?)^```$", re.M | re.S)
INLINE = re.compile(r"`(hark [a-z][^`\n]*)`")
COMMAND = re.compile(r"^ *(?:\$ )?(hark [a-z].*)$", re.M)
MACHINE_PATH = re.compile(r"(?<![\w.~])/(?:home|root|Users|work|mnt)/\w+")


def project_files(folder: Path = ROOT) -> Iterator[Path]:
    """All files that belong to the project: those that .gitignore does not name."""
    for path in sorted(folder.iterdir()):
        if any(fnmatch(path.name, pattern) for pattern in IGNORED):
            continue
        if path.is_dir():
            yield from project_files(path)
        else:
            yield path


FILES = list(project_files())
DOCUMENTS = [path for path in FILES if path.suffix == ".md"]


def commands(group: click.Group, path: str = "hark") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with the words that call it."""
    with click.Context(group) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None, f"{path} {name}: listed, but not there"
            if isinstance(command, click.Group):
                yield from commands(command, f"{path} {name}")
            else:
                yield f"{path} {name}", command


COMMANDS = dict(commands(cli))


def command_lines(text: str) -> list[str]:
    """The calls of hark in a text: whole lines, broken ones joined."""
    return COMMAND.findall(re.sub(r" *\\\n *", " ", text))


def unwrapped(line: str) -> str:
    """The call of hark that a call such as `hark detach train` wraps, if it does; else itself."""
    words = shlex.split(line, comments=True)
    called = command_of(words)
    if called is None or not called.context_settings.get("ignore_unknown_options"):
        return line
    inner = [place for place, word in enumerate(words) if place > 1 and f"hark {word}" in COMMANDS]
    return unwrapped(shlex.join(["hark", *words[inner[0] :]])) if inner else line


def fault_of(line: str) -> str | None:
    """What is wrong with the names in a call of hark, or None; what it must have is not asked."""
    words = shlex.split(unwrapped(line.partition(" | ")[0]), comments=True)
    called = command_of(words)
    if called is None:
        is_group = any(path.startswith(" ".join(words) + " ") for path in COMMANDS)
        return None if is_group else f"{line}: no such command; there are {', '.join(COMMANDS)}"
    known = {name for option in called.params for name in (*option.opts, *option.secondary_opts)}
    unknown = sorted({word.partition("=")[0] for word in words if word.startswith("--")} - known - {"--help"})
    return f"{line}: no option {unknown}" if unknown else None


def fault_of_whole(line: str) -> str | None:
    """What is wrong with a call that a reader may copy, or None: it must also have what is required."""
    if (fault := fault_of(line)) or "--help" in line:
        return fault
    called = command_of(words := shlex.split(unwrapped(line), comments=True))
    needed = [option for option in called.params if option.required] if called else []
    lacking = [option.opts[0] for option in needed if option.opts[0][0] == "-" and not set(option.opts) & {*words}]
    return f"{line}: lacks {lacking}" if lacking else None


def command_of(words: list[str]) -> click.Command | None:
    """The command that some words call."""
    return next(
        (command for path, command in COMMANDS.items() if words[: path.count(" ") + 1] == path.split()), None
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    targets = (link.partition("#")[0] for link in LINK.findall(document.read_text()))
    relative = {target for target in targets if target and "://" not in target}
    dead = sorted(target for target in relative if not (document.parent / target).exists())
    assert not dead, f"{document.name} links to {dead}, which are not there"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_in_a_document_exists_with_its_options(document: Path) -> None:
    text = document.read_text()
    calls = [line for fence in FENCE.findall(text) for line in command_lines(fence)]
    faults = [fault for line in calls if (fault := fault_of_whole(line))]
    faults += [fault for line in INLINE.findall(text) if (fault := fault_of(line))]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_recipe_in_a_document_is_valid(document: Path) -> None:
    for recipe in RECIPE.findall(document.read_text()):
        parse_recipe(tomllib.loads(recipe), name=document.name)


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_a_worked_example_in_its_help(path: str) -> None:
    examples = command_lines(COMMANDS[path].help or "")
    assert any(line.split()[: path.count(" ") + 1] == path.split() for line in examples), (
        f"{path}: its --help shows no call of it; add an example that begins with: $ {path}"
    )
    faults = [fault for line in examples if (fault := fault_of_whole(line))]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("hark data check DIR", None),
        ("hark data", None),
        ("hark bark --loud", "no such command"),
        ("hark data check DIR --loud", "no option ['--loud']"),
        ("hark synthesize word", "lacks ['--to']"),
        ("hark synthesize --help", None),
        ("hark detach train RECIPE --data DIR --keyword WORD", None),
        ("hark detach train RECIPE --data DIR --loud", "no option ['--loud']"),
        ("hark detach train RECIPE --data DIR", "lacks ['--keyword']"),
    ],
)
def test_a_wrong_call_is_told_from_a_right_one(line: str, fault: str | None) -> None:
    found = fault_of_whole(line)
    assert found is None if fault is None else fault in str(found)


def test_the_tree_in_the_readme_is_the_tree_on_disk() -> None:
    tree = re.search(r"^## What lies where$.*?^```\w*\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    assert tree, 'README.md has no fenced tree below "## What lies where"'
    named = [name for line in tree[1].splitlines() for name in line.split("  ")[0].split()]
    gone = [name for name in named if not (ROOT / name).exists()]
    assert not gone, f"README.md's tree names {gone}, which are not there"


def test_no_file_tells_of_the_machine_it_was_made_on() -> None:
    told = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in FILES
        for match in MACHINE_PATH.finditer(path.read_bytes().decode("utf-8", errors="ignore"))
    ]
    assert not told, "write paths relative to the project: " + "; ".join(told)


def test_every_file_is_small_enough_to_read() -> None:
    large = [f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes" for path in FILES]
    large = [line for line, path in zip(large, FILES, strict=True) if path.stat().st_size > LARGEST_BYTES]
    assert not large, f"expected at most {LARGEST_BYTES:,}: {'; '.join(large)}"
