"""`schwimmbad-go map`: records in, results out; nothing lost, nothing torn, nothing left running."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import mpirun
from helpers.program import ROOT, Program, Result

FUNCTIONS = """
import os, sys, time, collections
from pathlib import Path

def square(x): return x * x
def echo(x): return x
def noisy(x):
    print("printed", x)
    os.write(1, b"written\\n")
    return x
def odd_fails(x):
    if x % 2: raise ValueError(f"{x} is odd")
    return x
def columns(a, b): return {"sum": int(a) + int(b), "text": a + "," + b, "nothing": None}
def add(a, b): return a + b
def strange(x): return {"array": [x, {1, 1}], "path": Path("a/b"), "nan": float("nan"), "big": 2**70}
def die(x):
    if x == 1: os._exit(3)
    return x
def flaky(path):
    if not os.path.exists(path):
        open(path, "w").close()
        raise RuntimeError("first time")
    return "second time"
def slow(x):
    time.sleep(1000 if x else 0)
    return x
class Namespace:
    @staticmethod
    def inside(x): return -x
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    return tmp_path


def run(program: Program, folder: Path, *args: str, input: str | None = "", **how: object) -> Result:
    python = () if "--exec" in args else ("--python", sys.executable)
    result = program("map", "-n", "2", *python, *args, cwd=folder, input=input, **how)
    assert isinstance(result, Result)
    return result


def lines(values: object) -> str:
    assert isinstance(values, (list, range))
    return "".join(json.dumps(value) + "\n" for value in values)


class TestFormats:
    def test_json_lines(self, program: Program, folder: Path) -> None:
        values = [1, -2.5, 1e300, "text é \n", None, True, [1, [2]], {"a": {"b": 3}}, 2**80, "", []]
        assert run(program, folder, "functions:echo", input=lines(values) + "\n").ok() == "".join(
            json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n" for value in values
        )

    def test_lines(self, program: Program, folder: Path) -> None:
        out = run(program, folder, "builtins:len", "--from", "lines", input="a\n\nb c\né").ok()
        assert out == "1\n0\n3\n1\n"
        assert run(program, folder, "functions:echo", "--from", "lines", "--to", "jsonl", input="1\n").ok() == '"1"\n'

    def test_csv(self, program: Program, folder: Path) -> None:
        text = 'a,b\n1,2\n30,"4"\n'
        out = run(program, folder, "functions:columns", "--from", "csv", "--call", "names", input=text).ok()
        assert list(csv.reader(io.StringIO(out))) == [["sum", "text", "nothing"], ["3", "1,2", ""], ["34", "30,4", ""]]
        out = run(program, folder, "functions:add", "--from", "csv", "--to", "jsonl", "--call", "names", input=text).ok()
        assert out == '"12"\n"304"\n'
        out = run(program, folder, "functions:echo", "--to", "csv", "--numbered", input='[1, "x"]\n[2.5, null]\n').ok()
        assert out == "index,0,1\n0,1,x\n1,2.5,\n"

    def test_msgpack(self, program: Program, folder: Path) -> None:
        """Through files, whose names tell the formats; bytes stay bytes."""
        (folder / "in.msgpack").write_bytes(b"\x01\xa1x\x92\x01\xc4\x01\xff\x81\xa1a\xc0")
        assert run(program, folder, "functions:echo", "-i", "in.msgpack", "-o", "out.msgpack").ok() == ""
        written = (folder / "out.msgpack").read_bytes()
        (folder / "again.msgpack").write_bytes(written)
        code = run(program, folder, "builtins:repr", "-i", "again.msgpack", "-o", "out.txt")
        assert code.ok() == "" and (folder / "out.txt").read_text() == "1\n'x'\n[1, b'\\xff']\n{'a': None}\n"

    def test_what_json_has_no_word_for(self, program: Program, folder: Path) -> None:
        out = run(program, folder, "functions:strange", input="1\n").ok()
        assert out == '{"array":[1,[1]],"path":"a/b","nan":NaN,"big":1180591620717411303424}\n'
        done = run(program, folder, "builtins:object", "--call", "list", input="[]\n")
        assert done.returncode == 1 and "a object cannot be written as JSON" in done.stdout

    def test_ways_to_call(self, program: Program, folder: Path) -> None:
        assert run(program, folder, "functions:add", "--call", "list", input="[1, 2]\n").ok() == "3\n"
        assert run(program, folder, "functions:add", "--call", "names", input='{"a": 1, "b": 2}\n').ok() == "3\n"
        assert run(program, folder, "functions:Namespace.inside", input="1\n").ok() == "-1\n"
        assert run(program, folder, str(folder / "functions.py") + ":square", input="3\n").ok() == "9\n"


class TestTheMap:
    @pytest.mark.parametrize("pool", ["serial", "multi", "joblib"])
    def test_many_records_in_order(self, program: Program, folder: Path, pool: str) -> None:
        done = run(program, folder, "functions:square", "--pool", pool, input=lines(range(20_000)))
        assert done.ok() == lines([x * x for x in range(20_000)])

    def test_unordered(self, program: Program, folder: Path) -> None:
        out = run(program, folder, "functions:square", "--unordered", "--numbered", input=lines(range(5000))).ok()
        found = {record["index"]: record["result"] for record in map(json.loads, out.splitlines())}
        assert found == {x: x * x for x in range(5000)}

    def test_prints_go_to_stderr(self, program: Program, folder: Path) -> None:
        done = run(program, folder, "functions:noisy", "-n", "1", input="1\n2\n")
        assert (done.returncode, done.stdout) == (0, "1\n2\n")
        assert sorted(done.stderr.splitlines()) == ["printed 1", "printed 2", "written", "written"]

    def test_retries(self, program: Program, folder: Path) -> None:
        record = json.dumps(str(folder / "mark")) + "\n"
        assert run(program, folder, "functions:flaky", "--retries", "1", input=record).ok() == '"second time"\n'

    def test_no_records(self, program: Program, folder: Path) -> None:
        assert run(program, folder, "functions:square", input="").ok() == ""

    def test_progress(self, program: Program, folder: Path) -> None:
        done = run(program, folder, "functions:odd_fails", "--progress", input="0\n1\n")
        assert done.returncode == 1 and "2 done, 1 failed, " in done.stderr

    def test_results_do_not_wait_for_input(self, program: Program, folder: Path) -> None:
        """A slow producer gets each result before it has written the next record."""
        with program.start(
            "map", "--python", sys.executable, "functions:square", cwd=folder, stdin=subprocess.PIPE
        ) as process:  # fmt: skip
            assert process.stdin is not None and process.stdout is not None
            for x in range(5):
                process.stdin.write(f"{x}\n")
                process.stdin.flush()
                assert process.stdout.readline() == f"{x * x}\n"
            process.stdin.close()
            assert process.wait(30) == 0

    def test_back_pressure(self, program: Program, folder: Path) -> None:
        """A reader that takes nothing stops the map, and with it the intake: endless input does not fill the memory."""
        with program.start(
            "map", "--python", sys.executable, "functions:echo", cwd=folder, stdin=subprocess.PIPE
        ) as process:  # fmt: skip
            assert process.stdin is not None and process.stdout is not None
            fd = process.stdin.fileno()
            os.set_blocking(fd, False)
            record, taken, idle = b'"' + b"x" * 9_998 + b'"\n', 0, 0
            while idle < 20:  # two seconds in which nothing more goes in
                try:
                    taken += os.write(fd, record[taken % len(record) :])
                    idle = 0
                except BlockingIOError:
                    idle += 1
                    signal.sigtimedwait([], 0.1)
            assert taken < 200 << 20
            peak = [line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
            assert int(peak[0].split()[1]) < 600 << 10  # [KiB]
            # From here on the reader reads: everything arrives.
            os.set_blocking(fd, True)
            rest = record[taken % len(record) :] if taken % len(record) else b""
            with ThreadPoolExecutor(1) as executor:
                read = executor.submit(process.stdout.read)
                while rest:
                    rest = rest[os.write(fd, rest) :]
                process.stdin.close()
                assert len(read.result()) == -(-taken // len(record)) * len(record)
            assert process.wait(30) == 0


class TestFailures:
    def test_in_their_places(self, program: Program, folder: Path) -> None:
        done = run(program, folder, "functions:odd_fails", input=lines(range(4)))
        assert done.returncode == 1 and done.stderr == "schwimmbad-go: 2 of 4 tasks failed\n"
        zero, one, two, three = map(json.loads, done.stdout.splitlines())
        assert (zero, two) == (0, 2) and (one["index"], three["index"]) == (1, 3)
        error = one["error"]
        assert (error["type"], error["message"]) == ("ValueError", "1 is odd")
        assert error["traceback"].startswith("Traceback") and "in odd_fails" in error["traceback"]

    def test_lines_and_tables_have_no_place(self, program: Program, folder: Path) -> None:
        done = run(program, folder, "functions:odd_fails", "--to", "csv", input=lines(range(3)))
        assert (done.returncode, done.stdout) == (1, "result\n0\n2\n")
        record = json.loads(done.stderr.splitlines()[0])
        assert record["index"] == 1 and record["error"]["message"] == "1 is odd"

    def test_in_a_file(self, program: Program, folder: Path) -> None:
        done = run(program, folder, "functions:odd_fails", "--errors", "errors.jsonl", input=lines(range(4)))
        assert (done.returncode, done.stdout) == (1, "0\n2\n")
        records = [json.loads(line) for line in (folder / "errors.jsonl").read_text().splitlines()]
        assert [record["index"] for record in records] == [1, 3]

    def test_fail_fast(self, program: Program, folder: Path) -> None:
        done = run(program, folder, "functions:odd_fails", "--fail-fast", "--pool", "serial", input=lines([0, 1, *range(0, 20_000, 2)]))
        assert done.returncode == 1 and len(done.stdout.splitlines()) <= 2
        assert json.loads(done.stdout.splitlines()[-1])["error"]["message"] == "1 is odd"

    def test_a_worker_that_dies(self, program: Program, folder: Path) -> None:
        done = run(program, folder, "functions:die", input=lines(range(4)))
        assert done.returncode == 1
        records = [json.loads(line) for line in done.stdout.splitlines()]
        assert [r for r in records if isinstance(r, int)] == [0, 2, 3] and "exit code 3" in records[1]["error"]["message"]

    def test_time_limit(self, program: Program, folder: Path) -> None:
        done = run(program, folder, "functions:slow", "--timeout", "0.5", input="0\n1\n0\n")
        assert done.returncode == 1
        zero, one, two = map(json.loads, done.stdout.splitlines())
        assert (zero, two) == (0, 0) and "500ms" in one["error"]["message"]

    def test_a_bad_record(self, program: Program, folder: Path) -> None:
        done = run(program, folder, "functions:echo", input="1\n{\n3\n")
        one, bad, three = map(json.loads, done.stdout.splitlines())
        assert (done.returncode, one, three) == (1, 1, 3) and bad["error"]["type"] == "json.decoder.JSONDecodeError"

    @pytest.mark.parametrize(
        "target,said",
        [("nowhere:f", "No module named 'nowhere'"), ("functions:nope", "has no attribute 'nope'"),
         ("functions:sys", "no function, but a module"), ("functions", "write module:function")],
    )  # fmt: skip
    def test_a_function_that_is_not_there(self, program: Program, folder: Path, target: str, said: str) -> None:
        done = run(program, folder, target, input="1\n2\n")
        assert (done.returncode, done.stdout) == (1, "") and said in done.stderr

    def test_input_that_breaks_off(self, program: Program, folder: Path) -> None:
        done = run(program, folder, "functions:echo", "--from", "csv", "--to", "jsonl", input="a,b\n1,2\n3\n")
        assert (done.returncode, done.stdout) == (1, '{"a":"1","b":"2"}\n') and "wrong number of fields" in done.stderr

    def test_a_full_disk(self, program: Program, folder: Path) -> None:
        done = run(program, folder, "functions:echo", "-o", "/dev/full", input=lines(range(100)))
        assert done.returncode == 1 and "no space left on device" in done.stderr


class TestExec:
    def test_output_is_the_result(self, program: Program, folder: Path) -> None:
        out = run(program, folder, "--exec", "echo {#} {}; printf x", input="a b\n'c'\n").ok()
        assert out == "1 a b\nx\n2 'c'\nx\n"
        out = run(program, folder, "--exec", "expr {a} + {b}", "--from", "csv", "--to", "jsonl", input="a,b\n1,2\n").ok()
        assert out == '"3"\n'

    def test_many(self, program: Program, folder: Path) -> None:
        assert run(program, folder, "--exec", "echo", input="".join(f"{i}\n" for i in range(300))).ok().split() == [
            str(i) for i in range(300)
        ]

    def test_failures(self, program: Program, folder: Path) -> None:
        done = run(program, folder, "--exec", "echo why >&2; exit {}", "--to", "jsonl", input="0\n7\n")
        zero, seven = map(json.loads, done.stdout.splitlines())
        assert (done.returncode, zero) == (1, "")
        assert (seven["error"]["type"], seven["error"]["message"], seven["error"]["traceback"]) == ("ExitError", "exit status 7", "why\n")

    def test_time_limit_reaches_children(self, program: Program, folder: Path) -> None:
        done = run(program, folder, "--exec", "sh -c 'sleep 1000' & wait; : {}", "--timeout", "0.3", "--to", "jsonl", input="1\n")
        assert done.returncode == 1 and "TimeoutError" in json.loads(done.stdout)["error"]["type"]


class TestTheEnd:
    @pytest.mark.parametrize("how", ["function", "exec"])
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_ctrl_c_leaves_whole_lines(self, program: Program, folder: Path, how: str, number: signal.Signals) -> None:
        """In the middle of endless input, the whole process group, as from a terminal."""
        what = ["functions:square", "--python", sys.executable] if how == "function" else ["--exec", "echo 123; : {}", "--to", "jsonl"]
        with program.start("map", *what, "-o", "out.jsonl", cwd=folder, stdin=subprocess.PIPE) as process:
            assert process.stdin is not None and process.stderr is not None
            out = folder / "out.jsonl"
            while not out.exists() or out.stat().st_size < 100:
                process.stdin.write(" " * 10_000 + "123\n")  # long, so that few fit into the pipe
                process.stdin.flush()
            os.killpg(process.pid, number)
            assert process.wait(30) == 130
            assert "interrupted after" in process.stderr.read()
            assert out.read_bytes().endswith(b"\n")
            assert set(out.read_text().split()) <= {"15129", '"123"'}

    def test_a_reader_that_leaves(self, program: Program, folder: Path) -> None:
        """`... | head -1`: the map ends, and its workers do."""
        with program.start("map", "functions:square", "--python", sys.executable, cwd=folder, stdin=subprocess.PIPE) as process:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("2\n")
            process.stdin.flush()
            assert process.stdout.readline() == "4\n"
            process.stdout.close()
            try:
                while True:
                    process.stdin.write("2\n" * 1000)
                    process.stdin.flush()
            except BrokenPipeError:
                pass
            assert process.wait(30) == -signal.SIGPIPE


@pytest.mark.slow
class TestMPI:
    def test_over_ranks(self, program: Program, folder: Path, family: str) -> None:
        """A build with MPI as `mpi-env` says it, a Python function and a command over ranks."""
        # A directory that stays the same is in the flags: Go's build cache knows the packages from the run before. And as few packages
        # with C as can be, since those are compiled for each MPI.
        stays = {"SCHWIMMBAD_GO_CACHE": str(mpirun.CACHE / "program")}
        (folder / "mpi-env").write_text(program("mpi-env", family, cwd=folder, variables=stays).ok())
        built = folder / "with-mpi"
        build = subprocess.run(
            ["sh", "-c", '. "$0"; exec "$1" build -tags mpi,nopython,netgo,osusergo -o "$2" ./cmd/schwimmbad-go', folder / "mpi-env",
             os.environ.get("GO", "go"), built],
            cwd=ROOT, text=True, capture_output=True, env={**os.environ, "GOFLAGS": "-buildvcs=false"},
        )  # fmt: skip
        assert build.returncode == 0, build.stderr
        launcher = mpirun.launcher(family)
        assert launcher is not None
        mpi = Program(built, program.cache)
        before, variables = (launcher, "-n", "3"), mpirun.environment(family)
        (folder / "in.jsonl").write_text(lines(range(500)))
        done = mpi("map", "functions:square", "--pool", "mpi", "--python", sys.executable, "-i", "in.jsonl", cwd=folder,
                   before=before, variables=variables)  # fmt: skip
        assert done.ok() == lines([x * x for x in range(500)])
        done = mpi("map", "--exec", "echo {}", "--pool", "mpi", "-i", "in.jsonl", cwd=folder, before=before, variables=variables)
        assert done.ok().split() == [json.dumps(str(x)) for x in range(500)]

    def test_without(self, program: Program, folder: Path) -> None:
        done = run(program, folder, "functions:square", "--pool", "mpi", input="1\n")
        assert done.returncode == 1 and "mpi" in done.stderr.lower()
