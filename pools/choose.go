package pools

// ChooseOption is a choice for [Choose].
type ChooseOption func(*choice)

type choice struct {
	workers int
	opts    []PoolOption
}

// Workers asks for so many workers: 1, the default, for a SerialPool; more, or 0 for one per CPU, for a MultiPool.
func Workers(n int) ChooseOption { return func(c *choice) { c.workers = n } }

// With hands options to the pool that is made.
func With(opts ...PoolOption) ChooseOption {
	return func(c *choice) { c.opts = append(c.opts, opts...) }
}

// Choose makes the pool that a program's options ask for, as choose_pool does in Python: a MultiPool of several workers, or a
// SerialPool.
func Choose(opts ...ChooseOption) (Pool, error) {
	c := choice{workers: 1}
	for _, set := range opts {
		set(&c)
	}
	if c.workers == 1 {
		p := NewSerialPool(c.opts...)
		return p, p.err
	}
	return NewMultiPool(c.workers, c.opts...)
}
