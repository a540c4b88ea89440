package pools

// ChooseOption is a choice for [Choose].
type ChooseOption func(*choice)

type choice struct {
	mpi     bool
	workers int
	opts    []PoolOption
}

// Workers asks for so many workers: 1, the default, for a SerialPool; more, or 0 for one per CPU, for a MultiPool.
func Workers(n int) ChooseOption { return func(c *choice) { c.workers = n } }

// With hands options to the pool that is made.
func With(opts ...PoolOption) ChooseOption {
	return func(c *choice) { c.opts = append(c.opts, opts...) }
}

// MPI asks for an [MPIPool], whatever the number of workers.
func MPI(yes bool) ChooseOption { return func(c *choice) { c.mpi = yes } }

// Choose makes the pool that a program's options ask for, as choose_pool does in Python: an MPIPool, a MultiPool of several workers, or a
// SerialPool. Without MPI, or where the pool does not know an option given by [With], it returns that pool's error and no other pool
// in its place. With MPI it returns on rank 0 only, as NewMPIPool does.
func Choose(opts ...ChooseOption) (Pool, error) {
	c := choice{workers: 1}
	for _, set := range opts {
		set(&c)
	}
	switch {
	case c.mpi:
		return chosen(NewMPIPool(c.opts...))
	case c.workers == 1:
		p := NewSerialPool(c.opts...)
		return chosen(p, p.err)
	}
	return chosen(NewMultiPool(c.workers, c.opts...))
}

// chosen keeps a nil pointer from becoming a Pool that is not nil.
func chosen[P Pool](p P, err error) (Pool, error) {
	if err != nil {
		return nil, err
	}
	return p, nil
}
