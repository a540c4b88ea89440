"""The documents tell the truth: their snippets run, their links lead somewhere, their numbers are those of the code.

A fenced ``python`` block is a script of its own. Lines that begin with ``#>`` in it are what it must print. A comment
``<!-- test: ... -->`` before a block says more: ``needs`` and packages to skip it without, ``worker``, or ``mpi`` and a number
of ranks, under each MPI.
"""

from __future__ import annotations

import operator
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import schwimmbad_go
from helpers import mpirun, scripts
from schwimmbad_go import _launcher, _layout, _runner

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PROTOCOL = ROOT / "docs" / "PROTOCOL.md"


class Block(NamedTuple):
    document: str
    line: int
    how: str
    code: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    def expected(self) -> str:
        return "".join(line[2:].removeprefix(" ") + "\n" for line in self.code.splitlines() if line.startswith("#>"))


FENCE = re.compile(r"(?:^<!-- test: (?P<how>[^>]*) -->\n)?^```python\n(?P<code>.*?)^```$", re.M | re.S)


def blocks() -> Iterator[Block]:
    for document in DOCUMENTS:
        text = document.read_text()
        for found in FENCE.finditer(text):
            line = text.count("\n", 0, found.start("code")) + 1
            yield Block(document.name, line, found["how"] or "", found["code"])


BLOCKS = list(blocks())


def needed(code: str) -> list[str]:
    optional = ("numpy", "emcee", "cloudpickle", "dill", "joblib", "sklearn", "mpi4py")
    return [name for name in optional if re.search(rf"^\s*(import|from) {name}\b", code, re.M)]


@pytest.mark.parametrize("block", [b for b in BLOCKS if not b.how.startswith(("worker", "mpi", "script.py", "tools.py"))], ids=str)
def test_snippet(block: Block, tmp_path: Path) -> None:
    for name in [*needed(block.code), *block.how.split()[1:]]:
        pytest.importorskip(name)
    flags = ("-W", "error")
    if re.search(r"^import schwimmbad$", block.code, re.M):  # as the README says: unchanged, under the alias
        (tmp_path / "original.py").write_text(block.code)
        done = subprocess.run(
            [sys.executable, *flags, "-m", "schwimmbad_go", "run", "original.py"], cwd=tmp_path, env=scripts.environment("docs"),
            text=True, capture_output=True, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        out = done.stdout
    else:
        out = scripts.succeed(tmp_path, block.code, flags=flags)
    assert out == block.expected()


@pytest.mark.slow
@pytest.mark.parametrize("block", [b for b in BLOCKS if b.how.startswith("mpi")], ids=str)
def test_snippet_over_mpi(block: Block, family: str) -> None:
    for name in needed(block.code):
        pytest.importorskip(name)
    done = mpirun.run(family, int(block.how.split()[1]), block.code, flags=("-W", "error")).ok()
    assert (done.stdout, done.stderr) == (block.expected(), "")


def test_the_documented_worker_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PROTOCOL.md is enough to write a worker: the one in it serves a pool of this package."""
    (block,) = [b for b in BLOCKS if b.how == "worker"]
    program = tmp_path / "worker.py"
    program.write_text(block.code)
    monkeypatch.setattr(_runner, "spawn_command", lambda: [sys.executable, "-W", "error", str(program)])
    with schwimmbad_go.MultiPool(2, start_method="spawn") as pool:
        assert pool.map(operator.neg, range(1000)) == [-i for i in range(1000)]
        assert pool.starmap(divmod, [(7, 3)] * 5, chunksize=2) == [(2, 1)] * 5
        assert pool.apply(int, ("ff",), {"base": 16}) == 255
        big = pool.map(bytearray, [300_000] * 6)
        assert [len(b) for b in big] == [300_000] * 6
        mixed = pool.map(operator.neg, [1, "x", 3], return_exceptions=True)
        assert mixed[::2] == [-1, -3] and "TypeError" in str(mixed[1])
        pids = pool.broadcast(os.getpid)
        assert len(set(pids)) == 2
        pool.map(operator.neg, [1], retries=0)
        with pytest.raises(schwimmbad_go.error.WorkerLost):
            pool.map(os._exit, [3])
        assert pool.map(operator.neg, [1, 2]) == [-1, -2]


# --- links and the tree -------------------------------------------------------------------------------------------------


def anchors(document: Path) -> set[str]:
    """GitHub's names of the headings."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_links(document: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.M | re.S)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert broken == []


def tree() -> list[str]:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    found = re.search(r"^```text\n(.*?)^```$", text, re.M | re.S)
    assert found
    return [line.split()[0] for line in found[1].splitlines() if line.strip()]


def test_every_file_of_the_tree_map_exists() -> None:
    listed = tree()
    assert len(set(listed)) == len(listed)
    assert [name for name in listed if not (ROOT / name).is_file()] == []


def test_every_source_file_is_in_the_tree_map() -> None:
    built = {"_lib", "_bin", "__pycache__", ".mypy_cache"}
    wanted = {
        path.relative_to(ROOT).as_posix()
        for folder in ("cmd", "python", "pools", "pyshim", "tools", "examples", "docs")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".go", ".c", ".h", ".md"} and not built & set(path.parts)
        and not path.name.endswith("_test.go") and path.name != "_build_info.py"
    }  # fmt: skip
    assert sorted(wanted - set(tree())) == []


# --- numbers ------------------------------------------------------------------------------------------------------------

# Python's names where they do not follow from Go's.
PYTHON_NAMES = {
    "ControlMagic": "CTL_MAGIC", "ControlVersion": "ABI", "HeapBlockHead": "HEAP_HEAD", "HeapBlockState": "HEAP_STATE",
    "StatusRunning": "", "StatusComplete": "COMPLETE", "StatusStopped": "STOPPED", "StatusFailed": "FAILED",
    "StatusUnreadable": "UNREADABLE", "StatusNoFunction": "NO_FUNCTION", "HeaderSize": "FRAME_SIZE",
    "Tasks": "TYPE_TASKS", "Results": "TYPE_RESULTS", "Blob": "TYPE_BLOB", "PickleList": "PICKLE", "Range": "RANGE",
    "ArrayRows": "ROWS", "Slab": "SLAB", "Floats": "FLOATS", "Ints": "INTS", "NumpyFloats": "NP_FLOATS", "ErrorRecord": "ERROR",
    "MsgpackList": "MSGPACK",
    "PortEvents": "W_EVENT", "PortOffers": "W_OFFER", "PortParams": "W_PARAM", "PortNeeds": "W_NEED",
    "CellExitWant": "CELL_EXIT", "CtlMagic": "", "Hello": "HELLO",
}  # fmt: skip


def go_constants(*files: str) -> dict[str, int]:
    """Exported constants with a value that is written as a sum, product or shift of numbers and other constants."""
    values: dict[str, int] = {}
    for file in files:
        for name, expression in re.findall(r"^\s+([A-Z]\w*)\s*(?:[A-Z]\w*\s*)?= ([^/\n]+?)\s*(?://.*)?$", (ROOT / file).read_text(), re.M):
            if re.fullmatch(r"[\w\s+*<x]+", expression):
                known = re.sub(r"\b[A-Za-z]\w*\b", lambda m: str(values.get(m[0], m[0])), expression)
                if re.fullmatch(r"[\da-fx\s+*<]+", known):
                    values[name] = eval(known, {"__builtins__": {}})
    return values


LAYOUT = go_constants("pools/internal/process/layout.go")
GO = {**go_constants("pools/internal/wire/header.go", "pools/internal/wire/record.go"), **LAYOUT}
PYTHON = {n: v for n, v in vars(_layout).items() if n.isupper() and isinstance(v, int)}


def python_name(go_name: str) -> str:
    if go_name in PYTHON_NAMES:
        return PYTHON_NAMES[go_name]
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", go_name).upper()


def quoted() -> list[tuple[str, int]]:
    """Rows of the tables that begin with a name in backticks and a number."""
    rows = re.findall(r"^\| `(\w+)` \| (0x[0-9a-f]+|\d+) \|", PROTOCOL.read_text(), re.M)
    return [(name, int(value, 0)) for name, value in rows]


HEADER = {
    name: (int(at), kind)
    for kind, at, name in re.findall(
        r"le\.PutUint(16|32|64)\(b\[(\d+):\], (?:uint\d+\()?h\.(\w+)", (ROOT / "pools/internal/wire/header.go").read_text()
    )
}


def test_the_parsers_find_the_numbers() -> None:
    assert len(LAYOUT) > 50 and len(HEADER) == 15 and len(quoted()) > 110
    assert LAYOUT["PortParams"] == 1344 and GO["ErrorRecord"] == 6


@pytest.mark.parametrize("name,value", [(n, v) for n, v in quoted() if n not in HEADER])
def test_numbers_of_the_protocol(name: str, value: int) -> None:
    if name.isupper():
        assert PYTHON[name] == value
        return
    assert GO[name] == value
    partner = python_name(name)
    if partner in PYTHON:
        assert PYTHON[partner] == value


def test_no_number_is_left_out() -> None:
    names = {name for name, _ in quoted()}
    assert set(LAYOUT) - names == set()
    partners = {python_name(name) for name in names} | names
    # Local to Python, or the same under another name.
    own = {"PAGE_SHIFT", "SLOT_DATA", "EXTERNAL", "THREAD"}
    assert set(PYTHON) - partners - own == set()
    assert 1 << _layout.PAGE_SHIFT == LAYOUT["PageSize"]


def test_the_frame_header() -> None:
    table = {n: v for n, v in quoted() if n in HEADER}
    assert table == {name: at for name, (at, _) in HEADER.items()}
    codes = re.findall(r"4s|[HIQ]", _layout.FRAME.format)
    offsets, at = [], 0
    for code in codes:
        offsets.append(at)
        at += struct.calcsize(f"<{code}")
    assert offsets == [0, *table.values()]
    assert at == _layout.FRAME.size == GO["HeaderSize"]


def test_the_c_header_has_the_same_numbers() -> None:
    text = (ROOT / "pyshim" / "capi" / "schwimmbad.h").read_text()
    defined = {n: int(v) for n, v in re.findall(r"^#define SWG_(\w+) \(?(-?\d+)\)?", text, re.M)}
    both = set(defined) & set(PYTHON)
    assert {n: defined[n] for n in both} == {n: PYTHON[n] for n in both}
    ports = {n for n in PYTHON if n.partition("_")[0] in {"W", "EVENT", "JOB", "WAIT", "FOUND"}}
    assert ports - set(defined) == set()


# --- what else the documents promise ------------------------------------------------------------------------------------


def test_every_environment_variable_is_documented() -> None:
    folders = [ROOT / name for name in ("python", "pools", "pyshim", "tools")]
    sources = [p for folder in folders for p in folder.rglob("*") if p.suffix in {".py", ".go", ".c"}]
    used = {name for p in sources for name in re.findall(r"\bSCHWIMMBAD_GO_[A-Z_]+\b", p.read_text())}
    readme = (ROOT / "README.md").read_text()
    assert {name for name in used if f"| `{name}` |" not in readme} == set()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.name)
def test_example(example: Path, tmp_path: Path) -> None:
    for name in needed(example.read_text()):
        pytest.importorskip(name)
    arguments = {"canonical.py": ["--ncores", "2"], "stdlib_complexity.py": ["--limit", "20", "--workers", "2"]}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example), *arguments.get(example.name, [])],
        cwd=tmp_path, env=scripts.environment("docs"), text=True, capture_output=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    if example.name == "stdlib_complexity.py":
        rows = re.findall(r"^MPIPool, (.+?) +2 .* 20 +\d+$", done.stdout, re.M)
        assert rows == [_launcher.TITLES[family] for family in mpirun.available()]


@pytest.mark.slow
def test_example_over_mpi(family: str) -> None:
    done = mpirun.run(family, 4, ROOT / "examples" / "canonical.py", "--mpi", flags=("-W", "error")).ok()
    serial = subprocess.run([sys.executable, str(ROOT / "examples" / "canonical.py")], text=True, capture_output=True, check=True)
    assert done.stdout == serial.stdout.replace("SerialPool", "MPIPool") and done.stderr == ""
