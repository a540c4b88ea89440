package pools

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/codec"
)

// Python makes a Python function mappable: "module:function", as in "numpy.linalg:norm", or with [Source] the name of a function in a text.
// Every pool can run it, in worker processes of the interpreter that [Interpreter] chooses, which are started by the pool's first map
// of such a function and kept until it is closed. The program must import package pyshim; see [RegisterPython].
//
// Tasks and results travel as pickles that can hold nothing but data, and as raw memory: numbers, strings, []byte, slices, maps and
// structs (dicts, by the names of their fields or of `msgpack:"name"` tags) in any nesting. Slices of numbers are NumPy arrays there where NumPy is installed, [][]float64
// and the like with rows of one length 2-D arrays, [Array] any array. A result becomes whatever R asks for; into `any` go int64,
// float64, []any, map[string]any and so on. What does not fit is the error of its task.
//
// An exception is a [*TaskError] with a [*PythonError]. Costs: start of the workers as long as Python takes, some 50 ms and the imports
// of the module; per task about what MultiPool costs in Python.
func Python[T, R any](name string, opts ...PythonOption) Func[T, R] {
	p := newPythonFunc(name, opts)
	return Func[T, R]{desc: &function{kind: python, name: p.spec.String(), python: p}}
}

// Array is an n-dimensional array in C order: NumPy's ndarray on the Python side.
type Array[E codec.Number] = codec.Array[E]

// PythonOption is an option of Python.
type PythonOption func(*pythonFunc)

// pythonFunc is a Python function as the options describe it.
type pythonFunc struct {
	spec   remoteSpec
	choice string // interpreter, see Interpreter
	err    error  // what is wrong with the description: every call says so
}

// Source gives the text of a module; the function is looked up there, and the name of Python has no module part. Each worker runs the text
// once.
func Source(text string) PythonOption { return func(p *pythonFunc) { p.spec.Source = text } }

// Interpreter chooses the Python: the path of an interpreter, the directory of a virtual environment, a name on PATH such as "python3.12",
// a version such as "3.12", or "embedded" in a program that imports pyshim/embedded. Without it the order is $SCHWIMMBAD_GO_PYTHON,
// the active virtual or conda environment, python3 on PATH, the embedded one.
func Interpreter(choice string) PythonOption { return func(p *pythonFunc) { p.choice = choice } }

// PythonPath names directories to look for modules in, before all others.
func PythonPath(dirs ...string) PythonOption {
	return func(p *pythonFunc) { p.spec.Path = append(p.spec.Path, dirs...) }
}

// Spread calls the function with the elements of a task, a slice or an array, as its arguments: f(*task).
func Spread() PythonOption { return func(p *pythonFunc) { p.spec.Call = "list" } }

// Keywords calls the function with the fields of a task, a struct or a map with string keys, as its keyword arguments: f(**task).
func Keywords() PythonOption { return func(p *pythonFunc) { p.spec.Call = "names" } }

var (
	dotted     = regexp.MustCompile(`^[\pL_][\pL\pN_]*(\.[\pL_][\pL\pN_]*)*$`)
	moduleFunc = regexp.MustCompile(`^([^:]+):([^:]+)$`)
)

func newPythonFunc(name string, opts []PythonOption) *pythonFunc {
	p := &pythonFunc{}
	for _, o := range opts {
		o(p)
	}
	p.spec.Name = name
	if p.spec.Source == "" {
		parts := moduleFunc.FindStringSubmatch(name)
		if parts == nil {
			p.err = fmt.Errorf(`%w: python function %q: want "module:function", such as "numpy.linalg:norm", or Source with the text of a module`, ErrArgument, name)
			return p
		}
		p.spec.Module, p.spec.Name = parts[1], parts[2]
		if !dotted.MatchString(p.spec.Module) {
			p.err = fmt.Errorf("%w: python function %q: %q is not the name of a module", ErrArgument, name, p.spec.Module)
		}
	}
	if p.err == nil && !dotted.MatchString(p.spec.Name) {
		p.err = fmt.Errorf("%w: python function %q: %q is not the name of a function", ErrArgument, name, p.spec.Name)
	}
	return p
}

// PythonFinder finds an interpreter for a choice (see Interpreter; "" is the usual order) and says how to start it so that it runs a
// statement: arguments, of which the last is to be followed by nothing, and environment.
type PythonFinder func(ctx context.Context, choice, statement string) (argv, environ []string, err error)

var pythonFinder struct {
	sync.Mutex
	find PythonFinder
}

// RegisterPython makes Python functions available in this program. Package pyshim calls it: programs import that,
//
//	import _ "github.com/schwimmbad-go/schwimmbad-go/pyshim"
//
// and so carry the Python sources of the worker (0.4 MB). Who only maps Go functions does without.
func RegisterPython(find PythonFinder) {
	pythonFinder.Lock()
	defer pythonFinder.Unlock()
	pythonFinder.find = find
}

// pythonWorker is the command that starts a worker.
func pythonWorker(ctx context.Context, choice string) (argv, environ []string, err error) {
	pythonFinder.Lock()
	find := pythonFinder.find
	pythonFinder.Unlock()
	if find == nil {
		return nil, nil, fmt.Errorf("%w: this program has no Python sources for workers; add to its imports: "+
			`_ "github.com/schwimmbad-go/schwimmbad-go/pyshim"`, ErrUnavailable)
	}
	argv, environ, err = find(ctx, choice, "from schwimmbad_go._worker import main; main()")
	if err != nil && !errors.Is(err, ctx.Err()) {
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return argv, environ, err
}
