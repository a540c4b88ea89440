package pools

import (
	"context"
	"fmt"
	"sync"
)

// registry has the functions that workers of other processes can run, by name.
var registry struct {
	sync.RWMutex
	byName map[string]servant
}

// Register makes a Go function mappable by every pool, those whose workers are other processes of the same program included:
// they look it up by its name. So it must be called in every process before the pool is made, best in a package-level variable:
//
//	var square = pools.Register("square", func(ctx context.Context, x int) (int, error) { return x * x, nil })
//
// T and R must be types that msgpack can carry; goroutines pass them as they are. It panics if the name is empty or taken, or fn is
// nil: that is a fault of the program.
func Register[T, R any](name string, fn func(context.Context, T) (R, error)) Func[T, R] {
	switch {
	case name == "":
		panic("pools: a function must be registered under a name")
	case fn == nil:
		panic(fmt.Sprintf("pools: the function registered as %q is nil", name))
	}
	registry.Lock()
	defer registry.Unlock()
	if _, taken := registry.byName[name]; taken {
		panic(fmt.Sprintf("pools: two functions are registered as %q", name))
	}
	if registry.byName == nil {
		registry.byName = make(map[string]servant)
	}
	registry.byName[name] = goServant[T, R]{fn}
	return Func[T, R]{fn: fn, key: keyOf(fn), desc: &function{kind: registered, name: name}}
}

// lookup finds a registered function by its name, in a worker of another process.
func lookup(name string) (servant, error) {
	registry.RLock()
	defer registry.RUnlock()
	s, ok := registry.byName[name]
	if !ok {
		return nil, fmt.Errorf("%w: %q; register it in a package-level variable, so that each process of the program does", ErrNotRegistered, name)
	}
	return s, nil
}
