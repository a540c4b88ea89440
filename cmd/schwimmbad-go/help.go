package main

import "strings"

// helpWidth is what a terminal shows without breaking lines.
const helpWidth = 79

// reflow fills the paragraphs of a help text. Lines that begin with a space stay as they are.
func reflow(text string) string {
	var paragraphs []string
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		if strings.HasPrefix(paragraph, " ") || strings.Contains(paragraph, "\n ") {
			paragraphs = append(paragraphs, paragraph)
			continue
		}
		var filled strings.Builder
		width := 0
		for word := range strings.FieldsSeq(paragraph) {
			switch {
			case width == 0:
			case width+1+len(word) > helpWidth:
				filled.WriteByte('\n')
				width = 0
			default:
				filled.WriteByte(' ')
				width++
			}
			filled.WriteString(word)
			width += len(word)
		}
		paragraphs = append(paragraphs, filled.String())
	}
	return strings.Join(paragraphs, "\n\n")
}

const rootHelp = `schwimmbad-go brings schwimmbad's worker pools on an engine written in Go.

An unchanged script that says 'import schwimmbad' runs on them with

  schwimmbad-go run script.py

on any Python from 3.10 on, installed or embedded in this program; nothing has to be installed for it. A function or a command is mapped
over the lines of a file, or of standard input, with

  schwimmbad-go map module:function < tasks.jsonl > results.jsonl
  schwimmbad-go map --exec 'convert {} {}.png' < names.txt

Python is looked for in this order: --python, $SCHWIMMBAD_GO_PYTHON, the active virtual environment ($VIRTUAL_ENV), the active conda
environment ($CONDA_PREFIX), python3 on PATH, the embedded one. An environment that is active is never passed over.

Environment:
  SCHWIMMBAD_GO_PYTHON  the Python to use: a path, the directory of a virtual
                        environment, a name on PATH, a version, 'embedded'
  SCHWIMMBAD_GO_CACHE   where the embedded Python and our Python sources are
                        unpacked; default: schwimmbad-go in $XDG_CACHE_HOME
                        or ~/.cache, else in the temp directory

Exit codes: 0 if all went well, 1 if something failed, 2 for wrong arguments, 130 after Ctrl-C; 'run' and 'python' exit as their script
does.`

const runHelp = `Run a script as 'python script.py arguments' would, except that 'import schwimmbad', 'from schwimmbad.mpi import MPIPool' and all other
ways to import schwimmbad give the pools of schwimmbad-go. Nothing has to be installed, and nothing is changed on disk but the cache.

This process becomes the script's Python, so process id, exit code, signals, standard streams and the place in an MPI job are those of
'python script.py'. The engine is, by --engine:

  auto     the library, if that Python has schwimmbad_go installed, in this
           version and with a library that loads; else this program
  library  the installed library, or an error that says what is wrong with it
  program  a process of this program beside the script, over an inherited
           socket. It needs nothing installed and works where the library
           cannot be loaded (musl), but has no MPI

Under mpirun write the launcher in front: 'mpirun -n 4 schwimmbad-go run script.py --mpi'. MPIPool needs the installed package, which
comes with a library for each MPI.`

const mapHelp = `Map a function or a command over the records of a file, or of standard input, and write the results.

The function is Python's, named as module:function, or file.py:function. Modules are looked for in the working directory first. It gets
one record at a time, in worker processes; what it prints goes to standard error. With --exec a shell command is run for each record
instead.

Formats, for input (--from) and output (--to):

  jsonl    one JSON value per line; blank lines are left out. Arrays, sets,
           dates and dataclasses are written as JSON's nearest form
  lines    one text per line, without its end; results as by str()
  csv      a header, then rows. A row is a dict of strings; a result that is
           a dict is a row whose columns are those of the first result, a
           list is a row with numbered columns, anything else the only column
  msgpack  one msgpack value behind the other

Results come in the order of the input, or with --unordered as they come; --numbered adds each record's number, counted from 0. Tasks that
fail do not stop the others, unless --fail-fast is given. A failed task is written in the place of its result, as {"index": 3, "error":
{"type": ..., "message": ..., "traceback": ...}}, for lines and csv to standard error, or to the file of --errors. The exit code is 1 if
any has failed.

With --exec the record is put in the place of {} as one quoted word of the shell (so write no quotes around it), its number, from 1, in
that of {#}, and a member of a JSON object or CSV row in that of its name in braces. Without any the record comes last. The result is what
the command writes to standard output, without the last line end. A command that exits with another code than 0 has failed.

The input may be endless: records are read as workers need them, results are written within 0.1 s, and memory is bounded. Ctrl-C ends the
map, with whole records in the output; a second one ends it at once.

Pools: multi (worker processes), serial (one of them, for a look at errors), joblib (as joblib.Parallel takes them in), mpi (under mpirun,
in a build with MPI).`

const venvHelp = `Make a virtual environment with pip in DIR and install packages into it, named as for pip: requirements such as 'numpy>=2', or, behind --,
options such as -r requirements.txt. An environment that is there already is kept, and gets the packages.

Without --python it is made from the embedded Python. It then needs what was unpacked into the cache: clearing the cache breaks it, until
the next 'schwimmbad-go python -V' unpacks the same again.

Scripts use it by 'schwimmbad-go run --python DIR script.py', or after 'source DIR/bin/activate'.`

const pythonHelp = `Run the Python inside this program, as 'python3' with the same arguments would. It has the standard library and nothing else; see
'schwimmbad-go venv' for packages. The first use unpacks it into the cache.

The process becomes that Python: same process id, exit code, signals and streams.`

const doctorHelp = `Look at this program, the cache, the Pythons on PATH, and, in the Python that 'run' would take, at the engine, MPI families and launchers,
CPU and cgroup limits and optional packages. Every line begins with

  ok      works
  note    works, but look at it
  absent  is not there, and need not be
  broken  is there and does not work, or must be there

The exit code is 1 if anything is broken.`

const mpiEnvHelp = `Print assignments for a shell with which 'go build -tags mpi' compiles and links against an MPI of that family, and with which programs
and tests that were so built find its library. They are taken from the compiler wrapper on PATH: mpicc.openmpi or mpicc.mpich where there
are such, else mpicc.`

const versionHelp = `Print the version of this program, of its protocol, of the Python sources and of the Python inside it, and how it was built.`
