"""Reads the C header and the constants of Go files, so that tests can compare them with the Python side."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from os import environ
from pathlib import Path
from typing import NamedTuple

import pytest
from schwimmbad_go import _engine

ROOT = Path(__file__).resolve().parents[2]
HEADER = ROOT / "pyshim/capi/schwimmbad.h"
FLAGS = ("-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror")


class Prototype(NamedTuple):
    result: str
    arguments: tuple[tuple[str, str], ...]  # type, name


def _squeeze(text: str) -> str:
    return re.sub(r"\s*\*", " *", " ".join(text.split()))


class Header:
    """The header without its comments: defines, structs (name -> {field: (type, length)}) and prototypes."""

    def __init__(self, path: Path = HEADER) -> None:
        text = re.sub(r"/\*.*?\*/", " ", path.read_text(), flags=re.DOTALL)
        self.defines: dict[str, int] = {}
        for name, value in re.findall(r"^#define (\w+) +(\S.*?) *$", text, flags=re.MULTILINE):
            self.defines[name] = int(value.strip("()"))
        self.structs: dict[str, dict[str, tuple[str, int]]] = {}
        for body, name in re.findall(r"typedef struct \w+ \{(.*?)\} (\w+);", text, flags=re.DOTALL):
            fields: dict[str, tuple[str, int]] = {}
            for declaration in filter(str.strip, body.split(";")):
                kind, names = re.fullmatch(r"\s*((?:const )?\w+ \*?)(.*?)\s*", declaration, flags=re.DOTALL).groups()  # type: ignore[union-attr]
                for field in names.split(","):
                    field_name, length = re.fullmatch(r"\s*(\w+)(?:\[(\d+)\])?\s*", field).groups()  # type: ignore[union-attr]
                    fields[field_name] = _squeeze(kind), int(length or 0)
            self.structs[name] = fields
        self.prototypes: dict[str, Prototype] = {}
        code = re.sub(r"^#.*$", "", text[text.index("#ifndef SWG_NO_PROTOTYPES") :], flags=re.MULTILINE)
        for result, name, arguments in re.findall(r"([\w ]+[ *])(\w+)\(([^)]*)\);", code):
            listed = []
            for argument in filter(lambda a: a.strip() not in ("", "void"), arguments.split(",")):
                kind, argument_name = re.fullmatch(r"\s*(.*?[ *])(\w+)\s*", argument, flags=re.DOTALL).groups()  # type: ignore[union-attr]
                listed.append((_squeeze(kind), argument_name))
            self.prototypes[name] = Prototype(_squeeze(result), tuple(listed))


def go_constants(path: str) -> dict[str, int]:
    """The integer constants of a Go file in this repository: const blocks and lines, with iota and implicit repetition."""
    text = re.sub(r"//.*$", "", (ROOT / path).read_text(), flags=re.MULTILINE)
    known: dict[str, int] = {}
    blocks = re.findall(r"^const \((.*?)^\)", text, flags=re.DOTALL | re.MULTILINE)
    blocks += re.findall(r"^const (\w.*)$", text, flags=re.MULTILINE)
    for block in blocks:
        last = ""
        for iota, line in enumerate(filter(None, map(str.strip, block.splitlines()))):
            name, _, expression = (part.strip() for part in line.partition("="))
            last = expression or last
            value = _value(last, {**known, "iota": iota})
            if value is not None:
                known[name.split()[0]] = value
    return known


def _value(expression: str, names: dict[str, int]) -> int | None:
    """An integer expression of Go's; None for strings, floats and what refers to other packages."""
    if not re.fullmatch(r"[\w\s+*|<()-]+", expression):
        return None
    # Shifts bind like products in Go, and weaker than sums in Python.
    expression = re.sub(r"(\w+)\s*<<\s*(\w+)", r"(\1<<\2)", expression)
    try:
        value = eval(expression, {"__builtins__": {}}, names)
    except (NameError, SyntaxError):
        return None
    return value if type(value) is int else None


def compiler() -> list[str]:
    """The C compiler as a command; skips the test where there is none."""
    command = shlex.split(environ.get("CC", "cc"))
    if shutil.which(command[0]) is None:
        pytest.skip(f"no C compiler ({command[0]})")
    return command


def compile_c(source: Path, out: Path, *flags: str) -> Path:
    """Compile against the header and library of this tree."""
    library = _engine.library_path()
    link = ["-L", str(library.parent), "-lschwimmbad", f"-Wl,-rpath,{library.parent}"] if "-shared" not in flags else []
    done = subprocess.run(
        [*compiler(), *FLAGS, *flags, "-I", str(HEADER.parent), str(source), "-o", str(out), *link], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return out
