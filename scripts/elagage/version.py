"""The version of Elagage, read from the file VERSION beside this one."""

import pathlib

# A data file: a number in the code would change its checksum, and each release would run every finished study again.
VERSION = pathlib.Path(__file__).with_name("VERSION").read_text(encoding="ascii").strip()
