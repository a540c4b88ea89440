package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/schwimmbad-go/schwimmbad-go/cmd/schwimmbad-go/internal/records"
	"github.com/schwimmbad-go/schwimmbad-go/pools"
)

// mapOptions are the flags of map.
type mapOptions struct {
	python   string
	pool     string
	workers  int
	chunk    int
	retries  int
	timeout  seconds
	ordered  bool
	disorder bool // --unordered
	input    string
	output   string
	errors   string
	from     string
	to       string
	call     string
	command  string // --exec
	numbered bool
	failFast bool
	progress bool
}

var (
	poolNames = []string{"serial", "multi", "mpi", "joblib"}
	callNames = []string{"value", "list", "names"}
)

// seconds is a flag that takes "1.5" as well as "1500ms".
type seconds time.Duration

func (s *seconds) String() string {
	if *s == 0 {
		return "" // no limit: the help names no default then
	}
	return time.Duration(*s).String()
}

func (s *seconds) Type() string { return "seconds" }

func (s *seconds) Set(text string) error {
	d, err := time.ParseDuration(text)
	if number, numberErr := strconv.ParseFloat(text, 64); numberErr == nil {
		d, err = time.Duration(number*float64(time.Second)), nil
	}
	if err == nil && d <= 0 {
		err = errors.New("must be more than 0")
	}
	*s = seconds(d)
	return err
}

func mapCommand() *cobra.Command {
	var o mapOptions
	cmd := &cobra.Command{
		Use:   "map [flags] module:function",
		Short: "Map a Python function or a shell command over records",
		Long:  reflow(mapHelp),
		Example: `  schwimmbad-go map fit:fit_one < sources.jsonl > fits.jsonl
  schwimmbad-go map tools.py:describe --call names --input table.csv --output described.csv --progress
  find . -name '*.fits' | schwimmbad-go map --exec 'fpack {}' -n 4
  mpirun -n 8 schwimmbad-go map fit:fit_one --pool mpi --input sources.jsonl --output fits.jsonl`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 1) == (o.command != "") {
				return usage("map: name a function, module:function or file.py:function, or a command with --exec")
			}
			if cmd.Flags().Changed("ordered") && o.ordered && o.disorder {
				return usage("map: --ordered or --unordered, not both")
			}
			plan, err := o.plan()
			if err != nil {
				return err
			}
			return plan.run(cmd.Context(), args)
		},
		ValidArgsFunction: cobra.FixedCompletions(nil, cobra.ShellCompDirectiveNoFileComp),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&o.command, "exec", "", "shell `COMMAND` to run for each record, which stands for {}")
	flags.StringVar(&o.pool, "pool", "multi", "`NAME` of the pool: "+strings.Join(poolNames, ", "))
	flags.IntVarP(&o.workers, "workers", "n", 0, "`NUMBER` of workers; 0: as many as usable CPUs")
	flags.StringVarP(&o.input, "input", "i", "-", "`FILE` to read records from; -: standard input")
	flags.StringVarP(&o.output, "output", "o", "-", "`FILE` to write results to; -: standard output")
	flags.StringVar(&o.from, "from", "", "input `FORMAT`: jsonl, lines, csv, msgpack (default: by the file's name, else jsonl; with --exec lines)")
	flags.StringVar(&o.to, "to", "", "output `FORMAT` (default: by the file's name, else the input's)")
	flags.StringVar(&o.call, "call", "value", "`WHAT` a record is to the function: value (its only argument), list (its arguments), names (keyword arguments)")
	flags.BoolVar(&o.numbered, "numbered", false, "write each result together with its record's number, from 0")
	flags.BoolVar(&o.ordered, "ordered", true, "write results in the order of the input")
	flags.BoolVar(&o.disorder, "unordered", false, "write results as they come")
	flags.StringVar(&o.errors, "errors", "", "`FILE` for failed tasks, as JSON lines (default: in their places for jsonl and msgpack, else standard error)")
	flags.BoolVar(&o.failFast, "fail-fast", false, "stop at the first task that fails")
	flags.IntVar(&o.retries, "retries", 0, "`NUMBER` of times that a failed task is tried again")
	flags.Var(&o.timeout, "timeout", "`TIME` that a task may take, in seconds or as 1m30s")
	flags.IntVar(&o.chunk, "chunksize", 0, "`NUMBER` of records that a worker gets at once; 0: by the time they take")
	flags.BoolVar(&o.progress, "progress", false, "say on standard error how far it is")
	pythonFlag(cmd, &o.python)
	register(cmd, "pool", cobra.FixedCompletions(poolNames, cobra.ShellCompDirectiveNoFileComp))
	register(cmd, "call", cobra.FixedCompletions(callNames, cobra.ShellCompDirectiveNoFileComp))
	for _, flag := range []string{"from", "to"} {
		register(cmd, flag, cobra.FixedCompletions([]string{"jsonl", "lines", "csv", "msgpack"}, cobra.ShellCompDirectiveNoFileComp))
	}
	return cmd
}

// mapPlan is a checked mapOptions.
type mapPlan struct {
	mapOptions
	from, to records.Format
	in, out  *os.File // from open on
	failures *os.File // nil: among the results
}

func (o mapOptions) plan() (*mapPlan, error) {
	p := &mapPlan{mapOptions: o}
	switch {
	case !slices.Contains(poolNames, o.pool):
		return nil, usage("--pool is one of %s, not %q", strings.Join(poolNames, ", "), o.pool)
	case !slices.Contains(callNames, o.call):
		return nil, usage("--call is one of %s, not %q", strings.Join(callNames, ", "), o.call)
	case o.workers < 0:
		return nil, usage("-n %d: a pool has at least one worker; 0 stands for as many as usable CPUs", o.workers)
	case o.chunk < 0:
		return nil, usage("--chunksize %d: a chunk has at least one record", o.chunk)
	case o.retries < 0:
		return nil, usage("--retries %d: must not be negative", o.retries)
	}
	var err error
	if p.from, err = formatOf(o.from, o.input); err != nil {
		return nil, err
	}
	if p.from == "" {
		p.from = records.JSONLines
		if o.command != "" {
			p.from = records.Lines
		}
	}
	if p.to, err = formatOf(o.to, o.output); err != nil {
		return nil, err
	}
	if p.to == "" {
		p.to = p.from
	}
	return p, nil
}

func formatOf(name, path string) (records.Format, error) {
	if name == "" {
		return records.OfFile(path), nil
	}
	format, err := records.Parse(name)
	if err != nil {
		return "", usage("%w", err)
	}
	return format, nil
}

// open opens the input first: a mistake there must not empty the output of an earlier run.
func (p *mapPlan) open() (err error) {
	p.in, p.out = os.Stdin, os.Stdout
	if p.input != "-" {
		if p.in, err = os.Open(p.input); err != nil {
			return fmt.Errorf("--input: %w", err)
		}
	}
	if p.output != "-" {
		if p.input != "-" && sameFile(p.in, p.output) {
			return usage("--output %s is the input", p.output)
		}
		if p.out, err = os.Create(p.output); err != nil {
			return fmt.Errorf("--output: %w", err)
		}
	}
	switch {
	case p.errors != "":
		if p.failures, err = os.Create(p.errors); err != nil {
			return fmt.Errorf("--errors: %w", err)
		}
	case !p.to.HasPlaceForFailures():
		p.failures = os.Stderr
	}
	return nil
}

func sameFile(open *os.File, path string) bool {
	a, errA := open.Stat()
	b, errB := os.Stat(path)
	return errA == nil && errB == nil && os.SameFile(a, b) && a.Mode().IsRegular()
}

// run maps, until the input ends or Ctrl-C. A second Ctrl-C ends the process at once.
func (p *mapPlan) run(ctx context.Context, args []string) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	if p.command != "" {
		return drive(ctx, p, shellFunction, func(number int64, record []byte) shellTask {
			return shellTask{p.command, p.from, p.to, number, record}
		})
	}
	return drive(ctx, p, p.pythonFunction(args[0]), func(_ int64, record []byte) []byte { return record })
}

// callOptions are those of the call that maps.
func (p *mapPlan) callOptions() []pools.Option {
	var options []pools.Option
	if p.disorder || !p.ordered {
		options = append(options, pools.Unordered())
	}
	if p.chunk > 0 {
		options = append(options, pools.ChunkSize(p.chunk))
	}
	if p.retries > 0 {
		options = append(options, pools.Retries(p.retries))
	}
	if p.timeout > 0 {
		options = append(options, pools.TaskTimeout(time.Duration(p.timeout)))
	}
	if !p.failFast {
		options = append(options, pools.ContinueOnError())
	}
	return options
}
