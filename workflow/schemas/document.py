"""Write the table of config/README.md from the schema: python workflow/schemas/document.py, as `make format` does."""

import pathlib
import re
from collections.abc import Iterator

import yaml

REPOSITORY = pathlib.Path(__file__).parent.parent.parent
SCHEMA = REPOSITORY / "workflow/schemas/config.schema.yaml"
MANUAL = REPOSITORY / "config/README.md"
HEADER = "| key | default | meaning |\n|---|---|---|\n"


def settings(schema: dict, prefix: str = "") -> Iterator[tuple[str, dict]]:
    """Yield the path of every key that holds a value, such as `training.epochs`, with its part of the schema."""
    for key, part in schema.get("properties", {}).items():
        if "properties" in part:
            yield from settings(part, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", part
            yield from settings(part.get("additionalProperties", {}), f"{prefix}{key}.<name>.")


def values(part: dict) -> list:
    """Return the values among which a key, or each entry of its list, chooses; none for others."""
    choices = [part, part.get("items", {}), *part.get("anyOf", [])]
    return [value for choice in choices for value in choice.get("enum", [])]


def marked(description: str, names: set[str]) -> str:
    """Return a description with `names`, tables, and words that hold a digit, '_', '.' or ':' as Markdown code."""

    def mark(match: re.Match) -> str:
        word = match[0]
        return f"`{word}`" if word in names or re.search(r"[\d_.:]", word) else word

    return re.sub(r"(?<!\w)(\{\w.*\}|\.?[a-z]\w*([.:]\w+)*)", mark, description)


def row(key: str, part: dict, names: set[str]) -> str:
    """Return the line of a key: its path, its default if it has one, and what it means."""
    default = ""
    if "default" in part:
        default = f"`{yaml.safe_dump(part['default'], default_flow_style=True, width=10_000).splitlines()[0]}`"
    explanation = f". {part['x-explanation']}" if "x-explanation" in part else ""
    return f"| `{key}` | {default} | {marked(part['description'], names)}{explanation} |\n"


def documented(manual: str, schema: dict) -> str:
    """Return the manual with the rows of its table replaced by those of the schema."""
    parts = dict(settings(schema))
    names = {"null", "true", "false"}.union(*map(values, parts.values()))
    before, header, after = manual.partition(HEADER)
    return before + header + "".join(row(*part, names) for part in parts.items()) + re.sub(r"\A(\|.*\n)*", "", after)


if __name__ == "__main__":
    MANUAL.write_text(
        documented(MANUAL.read_text(encoding="utf-8"), yaml.safe_load(SCHEMA.read_text(encoding="utf-8")))
    )
