package main

import (
	"fmt"

	"github.com/schwimmbad-go/schwimmbad-go/pools"
)

// newPool makes the pool of --pool. On ranks of an MPI run other than 0 it does not return, so nothing may have been opened before.
func (p *mapPlan) newPool() (pools.Pool, error) {
	switch p.pool {
	case "serial":
		return pools.NewSerialPool(), nil
	case "joblib":
		workers := p.workers
		if workers == 0 {
			workers = -1 // joblib's word for all CPUs
		}
		return pools.NewJoblibPool(workers)
	case "mpi":
		var options []pools.PoolOption
		if p.command == "" {
			options = append(options, pools.PythonWorkers(p.python))
		}
		if p.workers > 0 {
			options = append(options, pools.WorkersPerRank(p.workers))
		}
		return pools.NewMPIPool(options...)
	}
	return pools.NewMultiPool(p.workers)
}

// pythonFunction is the function of the command line in the workers. Records stay bytes on the way: workers make values of them.
func (p *mapPlan) pythonFunction(target string) pools.Func[[]byte, []byte] {
	source := fmt.Sprintf("from schwimmbad_go._records import caller\ncall = caller(%s, %q, %q, %q)\n",
		pythonString(target), p.from.TaskEncoding(), p.to.ResultEncoding(), p.call)
	return pools.Python[[]byte, []byte]("call", pools.Source(source), pools.Interpreter(p.python))
}

// pythonString is a literal that Python reads as this text, whatever bytes a file name is made of.
func pythonString(text string) string {
	literal := []byte(`b"`)
	for _, b := range []byte(text) {
		literal = fmt.Appendf(literal, `\x%02x`, b)
	}
	return string(literal) + `".decode(errors="surrogateescape")`
}
