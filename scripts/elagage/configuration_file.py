"""The configuration as it is written: YAML in which what people do not mean is a mistake."""

import os
import pathlib
import re
from collections.abc import Mapping

import yaml

from elagage.errors import UserError


class _Loader(yaml.SafeLoader):
    """YAML in which a key that is stated twice is a mistake: the parser would silently drop the first."""

    def construct_object(self, node, deep=False):
        """Name the line of a value that Python refuses, such as a date of month 13."""
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise yaml.constructor.ConstructorError(problem=str(error), problem_mark=node.start_mark) from error

    def construct_mapping(self, node, deep=False):
        """Refuse keys that are stated twice, except the merge key `<<`."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"key {key.value!r} stands twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_plain_int(self, node):
        """Refuse numbers that YAML 1.1 reads otherwise than people do: 010 as 8, 1:30 as 90."""
        value = self.construct_yaml_int(node)
        if ":" in node.value or re.match(r"[-+]?0[0-9_]", node.value):
            raise yaml.constructor.ConstructorError(
                problem=f"{node.value} means {value} in YAML; write {value}, or the number that is meant",
                problem_mark=node.start_mark,
            )
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_plain_int)


def read_file(path: str | os.PathLike) -> dict:
    """Return the content of a configuration file (YAML, or JSON, which is YAML too).

    Raises UserError with file and line if it is missing, is no YAML, states a key twice or is no table.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        content = yaml.load(text, _Loader)
    except FileNotFoundError as error:
        raise UserError(f"there is no {path} in {os.getcwd()}; name one with --configfile") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; name a configuration file with --configfile") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}: line {line}: not encoded in UTF-8; save the file as UTF-8") from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise UserError(f"{path}: line {line}: a character of code {error.character:#x}; remove it") from error
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UserError(f"{path}: {place}{error.problem}") from error
    except RecursionError as error:
        raise UserError(f"{path}: nests lists or tables too deep; write it flat") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds {content!r}, not a table of keys and values such as seeds: [0]")
    return content


def read_command_line(value):
    """Return what `--config` gave, with numbers inside lists and tables as numbers: Snakemake passes them as text."""
    if isinstance(value, Mapping):
        return {key: read_command_line(part) for key, part in value.items()}
    if isinstance(value, list):
        return [read_command_line(part) for part in value]
    try:
        return yaml.safe_load(value) if isinstance(value, str) else value
    except (yaml.YAMLError, ValueError, RecursionError):
        return value
