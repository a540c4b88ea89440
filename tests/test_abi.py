"""One table, four places: schwimmbad.h, the Go engine, _engine.py and _layout.py say the same, and none has a row more."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from capi.parse import ROOT, Header, compile_c, go_constants
from schwimmbad_go import _engine, _engine_fd, _start
from schwimmbad_go import _layout as L

HEADER = Header()
INTS = {name: value for name, value in vars(L).items() if name.isupper() and type(value) is int}
LAYOUT = go_constants("pools/internal/process/layout.go")
PORT = go_constants("pools/port_linux.go")
WIRE = go_constants("pools/internal/wire/header.go")
RECORD = go_constants("pools/internal/wire/record.go")
RANK = go_constants("pools/rank_linux.go")

# Names in Go that are not the Python name in camel case. None: Python has no use for it.
GO_NAMES = {
    "PageSize": None, "ControlMagic": "CTL_MAGIC", "ControlVersion": "ABI",
    "CtlMagic": None, "CtlVersion": None, "CtlWorkers": "CTL_WORKERS",
    "CtlPorts": None, "CtlPortSize": None, "CtlPortCount": None, "controlPageSize": None, "CellSize": None, "CellRunning": None,
    "CellBlock": None, "CellChunks": None, "CellBusy": None, "CellExitWant": "CELL_EXIT", "SlotReply": None, "ReplyElapsed": None,
    "ReplyWorker": None, "ReplyBytes": None, "MinSlot": None, "HeapBlockHead": "HEAP_HEAD", "HeapBlockState": "HEAP_STATE",
    "StatusRunning": None, "StatusComplete": "COMPLETE", "StatusStopped": "STOPPED", "StatusFailed": "FAILED",
    "StatusUnreadable": "UNREADABLE", "StatusNoFunction": "NO_FUNCTION", "PortCount": None, "PortEvents": "W_EVENT", "MaxEvents": None,
    "PortOffers": "W_OFFER", "MaxOffers": None, "PortParams": "W_PARAM", "PortNeeds": "W_NEED", "MaxNeeds": None,
}  # fmt: skip
PORT_NAMES = {
    "TaskPark": "PARK", "wordEvents": "W_EVENTS", "wordOffers": "W_OFFERS", "wordNeeds": "W_NEEDS", "wordCode": "W_CODE",
    "wordErrorOff": "W_ERROR",
}  # fmt: skip
WIRE_NAMES = {
    "Version": "ABI", "HeaderSize": "FRAME_SIZE", "EntrySize": None, "Tasks": "TYPE_TASKS", "Results": "TYPE_RESULTS", "Blob": "TYPE_BLOB",
    "PickleList": "PICKLE", "Range": "RANGE", "ArrayRows": "ROWS", "Slab": "SLAB", "Floats": "FLOATS", "NumpyFloats": "NP_FLOATS",
    "ErrorRecord": "ERROR", "MsgpackList": "MSGPACK", "Raw": None, "Ints": "INTS", "lastKind": None,
}  # fmt: skip
RECORD_NAMES = {
    "RecordSize": None, "PageSize": None, "workerBits": None, "MaxWorker": None, "Hello": "HELLO", "Retired": "RETIRED",
    "InitFailed": "INIT_FAILED", "Left": "LEFT",
}  # fmt: skip
# What only the two Python sides agree on: flags of frames that the engine hands through, sizes derived from others.
PYTHON_ONLY = {
    "PAGE_SHIFT", "UNPACK_STAR", "UNPACK_APPLY", "KEEP_GOING", "SOME_UNSENT", "STATELESS", "TIMED", "HAS_ERRORS", "SLOT_DATA", "EXTERNAL",
    "PLAIN",
}  # fmt: skip
# What a caller in C needs and Python does not, by Go name.
HEADER_ONLY = {"SWG_MAX_EVENTS": "MaxEvents", "SWG_MAX_OFFERS": "MaxOffers"}


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()


def pairs(constants: dict[str, int], names: dict[str, str | None]) -> dict[str, str]:
    """Go name -> Python name, of those that Python has."""
    found = {go: names.get(go, snake(go)) for go in constants}
    return {go: python for go, python in found.items() if python is not None}


def port_constants() -> dict[str, int]:
    """The constants of the port that are part of the interface."""
    groups = ("Flag", "Wait", "Event", "Job")
    return {k: v for k, v in PORT.items() if k in PORT_NAMES or k.startswith(groups)}


def port_names() -> dict[str, str | None]:
    return {**PORT_NAMES, **{k: snake(k).replace("FLAG_", "FOUND_", 1) for k in PORT if k.startswith("Flag")}}


TABLES = [
    (LAYOUT, GO_NAMES), (port_constants(), port_names()), (WIRE, WIRE_NAMES), (RECORD, RECORD_NAMES), (RANK, {}),
]  # fmt: skip


@pytest.mark.parametrize(("constants", "names"), TABLES, ids=["layout", "port", "header", "record", "rank"])
def test_go_constants_are_those_of_python(constants: dict[str, int], names: dict[str, str | None]) -> None:
    assert len(constants) > 5
    assert set(names) - set(constants) == set(), "names that Go no longer has"
    wrong = {go: (constants[go], INTS.get(python)) for go, python in pairs(constants, names).items() if constants[go] != INTS.get(python)}
    assert not wrong


def test_python_constants_are_those_of_go() -> None:
    known = {python for constants, names in TABLES for python in pairs(constants, names).values()}
    known |= {define.removeprefix("SWG_") for define in HEADER.defines}
    assert set(INTS) - known == PYTHON_ONLY


def test_defines_are_those_of_python() -> None:
    shared = {k.removeprefix("SWG_"): v for k, v in HEADER.defines.items() if not k.startswith("SWG_E_") and k not in HEADER_ONLY}
    assert shared.pop("ABI") == L.ABI
    prefixes = ("W_", "EVENT_", "OFFER_", "JOB_", "WAIT_", "FOUND_", "RANK_", "EXTERNAL_", "THREAD")
    assert shared == {k: v for k, v in INTS.items() if k.startswith(prefixes) and k != "EXTERNAL"}
    assert {k: HEADER.defines[k] for k in HEADER_ONLY} == {k: LAYOUT[go] for k, go in HEADER_ONLY.items()}


def test_defines_are_those_of_go() -> None:
    """The word of the drained source has no name in Go: it lies behind the parameters."""
    assert HEADER.defines["SWG_W_LAST"] == LAYOUT["PortParams"] + 15
    assert HEADER.defines["SWG_ABI"] == go_constants("pools/version.go")["ABI"] == LAYOUT["ControlVersion"]


def test_error_codes_are_the_same_everywhere() -> None:
    header = {k.removeprefix("SWG_E_").lower(): v for k, v in HEADER.defines.items() if k.startswith("SWG_E_")}
    text = (ROOT / "pools/errors.go").read_text()
    go = {name.lower(): int(code) for name, code in re.findall(r"^\tCode(\w+)\s+(?:Code\s+)?= (-\d+)", text, flags=re.MULTILINE)}
    spoken = {name.lower(): word for name, word in re.findall(r"Code(\w+): \"(\w+)\"", text)}
    assert header == go == {name: code for code, name in _engine._CODES.items()}
    assert spoken == {name: name for name in header}
    lib = _engine.library()
    assert {name: lib.swg_code_name(code) for name, code in header.items()} == {name: name.encode() for name in header}
    assert lib.swg_code_name(-99) is lib.swg_code_name(1) is None
    assert (_engine.INIT, _engine.START, _engine.TERMINATED) == (header["init"], header["start"], header["terminated"])


C_TYPES = {
    "int32_t": ctypes.c_int32, "uint32_t": ctypes.c_uint32, "int64_t": ctypes.c_int64, "uint64_t": ctypes.c_uint64,
    "const char *": ctypes.c_char_p, "const void *": ctypes.c_void_p, "uint64_t *": ctypes.POINTER(ctypes.c_uint64),
    "const swg_config *": ctypes.POINTER(_engine._Config), "swg_info *": ctypes.POINTER(_engine._Info),
    "swg_stats *": ctypes.POINTER(_engine._Stats), "swg_mpi_info *": ctypes.POINTER(_engine.MPIInfo),
    "void *": ctypes.c_void_p, "swg_peer *": ctypes.POINTER(_engine.Peer), "char": ctypes.c_char,
    "swg_desk *": ctypes.POINTER(_engine.Desk),
}  # fmt: skip
STRUCTS = {
    "swg_config": _engine._Config, "swg_info": _engine._Info, "swg_desk": _engine.Desk, "swg_stats": _engine._Stats,
    "swg_mpi_info": _engine.MPIInfo, "swg_peer": _engine.Peer,
}  # fmt: skip


def test_prototypes_are_the_signatures() -> None:
    declared = {name: (C_TYPES[p.result], *(C_TYPES[kind] for kind, _ in p.arguments)) for name, p in HEADER.prototypes.items()}
    assert declared == _engine.SIGNATURES


def test_prototypes_are_what_the_library_exports() -> None:
    exported = set()
    for path in (ROOT / "pyshim/capi").glob("*.go"):
        exported |= set(re.findall(r"^//export (\w+)", path.read_text(), flags=re.MULTILINE))
    exported |= set(re.findall(r"^(?:const char \*|int32_t )(swg_\w+)\(", (ROOT / "pyshim/capi/error.c").read_text(), flags=re.MULTILINE))
    assert exported == set(HEADER.prototypes)
    assert all(hasattr(_engine.library(), name) for name in exported)


def test_requests_over_a_socket_are_the_signatures() -> None:
    """What Python sends is what the Go table takes; what it does not send needs no engine, or one in this process."""
    text = (ROOT / "pyshim/fdengine/table_linux.go").read_text()
    rows = dict(re.findall(r'^\t"(swg_\w+)":\s+\{"(\w*)", ', text, re.M))
    carried = set(_engine.SIGNATURES) - _engine_fd.HERE - _engine_fd.UNSUPPORTED
    assert len(rows) == text.count('"swg_') == len(carried)
    assert rows == {name: _engine_fd.kinds(name) for name in carried}
    assert not _engine_fd.HERE & _engine_fd.UNSUPPORTED and _engine_fd.DONE_BY_DEATH | set(_engine_fd.WAKE) <= carried
    longest, most = max(map(len, rows)), max(map(len, rows.values()))
    limits = dict(re.findall(r"^\t(max\w+)\s+= (\d+)", (ROOT / "pyshim/fdengine/record.go").read_text(), re.M))
    assert longest <= int(limits["maxName"]) and most <= int(limits["maxArgs"])


def test_structs_are_laid_out_as_in_c(tmp_path: Path) -> None:
    assert set(HEADER.structs) == set(STRUCTS)
    lines = []
    for struct, fields in HEADER.structs.items():
        lines.append(f'printf("{struct} %zu\\n", sizeof({struct}));')
        for field in fields:
            lines.append(f'printf("{struct}.{field} %zu %zu\\n", offsetof({struct}, {field}), sizeof((({struct} *)0)->{field}));')
    source = tmp_path / "probe.c"
    source.write_text('#include "schwimmbad.h"\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {\n' + "\n".join(lines) + "\n}\n")
    said = subprocess.run([compile_c(source, tmp_path / "probe")], capture_output=True, text=True, check=True).stdout.split("\n")
    expected = []
    for name, structure in STRUCTS.items():
        expected.append(f"{name} {ctypes.sizeof(structure)}")
        for field, *_ in structure._fields_:
            place = getattr(structure, field)
            expected.append(f"{name}.{field} {place.offset} {place.size}")
    assert said == [*expected, ""]
    for name, structure in STRUCTS.items():  # sizes alone would not tell signed from unsigned
        types = [C_TYPES[kind] * length if length else C_TYPES[kind] for kind, length in HEADER.structs[name].values()]
        assert [kind for _, kind, *_ in structure._fields_] == types


def test_frame_and_record_formats() -> None:
    """The formats name the fields in the order of the Go header, and nothing lies between them."""
    text = (ROOT / "pools/internal/wire/header.go").read_text()
    put = re.search(r"func \(h \*Header\) Put.*?^}", text, flags=re.DOTALL | re.MULTILINE)
    assert put is not None
    code = {"16": "H", "32": "I", "64": "Q"}
    offsets, formats = [], "<4s"
    for width, at in re.findall(r"le\.PutUint(\d+)\(b\[(\d+):\]", put[0]):
        offsets.append(int(at))
        formats += code[width]
    assert L.FRAME.format == formats and L.FRAME.size == L.FRAME_SIZE == WIRE["HeaderSize"]
    assert offsets == [_size(formats[: 3 + i]) for i in range(len(offsets))]
    assert L.RECORD.size == RECORD["RecordSize"] and 1 << L.PAGE_SHIFT == RECORD["PageSize"] == LAYOUT["PageSize"]
    assert L.TABLE.size == WIRE["EntrySize"] and L.MAGIC == b"SWG" + bytes([WIRE["Version"]])


def _size(fmt: str) -> int:
    import struct

    return struct.calcsize(fmt)


def test_go_names_the_same_variable() -> None:
    text = (ROOT / "pools/internal/process/exec_linux.go").read_text()
    assert f'const WorkerEnv = "{L.WORKER_ENV}"' in text
    assert _start.spawn_command()[0] == sys.executable


def test_library_refuses_a_caller_of_another_version() -> None:
    lib = _engine.library()
    for abi in (0, L.ABI + 1, 2**32 - 1):
        assert lib.swg_open(_engine._Config(abi, 1, 0, 0, None)) == HEADER.defines["SWG_E_ARGUMENT"]
        assert b"another version" in lib.swg_last_error()
    assert lib.swg_open(None) == HEADER.defines["SWG_E_ARGUMENT"]


def test_python_refuses_a_library_of_another_version(tmp_path: Path) -> None:
    source = tmp_path / "old.c"
    stubs = []
    for name, p in HEADER.prototypes.items():
        arguments = ", ".join(f"{kind} {argument}" for kind, argument in p.arguments) or "void"
        unused = "".join(f"(void){argument}; " for _, argument in p.arguments)
        stubs.append(f"{p.result} {name}({arguments}) {{ {unused}return {L.ABI + 98 if name == 'swg_abi' else 0}; }}")
    source.write_text('#include "schwimmbad.h"\n' + "\n".join(stubs) + "\n")
    library = compile_c(source, tmp_path / "libold.so", "-shared", "-fPIC")
    script = (
        "from schwimmbad_go import MultiPool\nfrom schwimmbad_go.error import EngineError\n"
        "try:\n    MultiPool(1)\nexcept EngineError as error:\n    print(error)\n"
    )  # fmt: skip
    package = str(Path(_engine.__file__).parents[1])
    environment = {**os.environ, "SCHWIMMBAD_GO_LIBRARY": str(library), "PYTHONPATH": package}
    said = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stderr
    assert f"protocol {L.ABI + 98}" in said.stdout and "two versions are mixed" in said.stdout
