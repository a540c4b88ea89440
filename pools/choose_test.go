package pools_test

import (
	"errors"
	"testing"

	"github.com/schwimmbad-go/schwimmbad-go/pools"
)

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		opts []pools.ChooseOption
		size int
	}{{nil, 0}, {[]pools.ChooseOption{pools.Workers(1)}, 0}, {[]pools.ChooseOption{pools.Workers(3), pools.MPI(false)}, 3}} {
		p, err := pools.Choose(c.opts...)
		if err != nil || p.Size() != c.size {
			t.Errorf("%v, %v", p, err)
			continue
		}
		stillWorks(t, p)
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, opts := range [][]pools.ChooseOption{
		{pools.Workers(-1)}, {pools.Workers(1 << 30)}, {pools.With(pools.PreDispatch(1))}, {pools.Workers(2), pools.With(pools.PreDispatch(1))},
	} {
		if p, err := pools.Choose(opts...); p != nil || !errors.Is(err, pools.ErrArgument) {
			t.Errorf("%v, %v", p, err)
		}
	}
	if p, err := pools.Choose(pools.MPI(true)); p != nil || !errors.Is(err, pools.ErrUnavailable) { // nobody has started this test with a launcher
		t.Errorf("%v, %v", p, err)
	}
}

func TestNumbersOfWorkers(t *testing.T) {
	for _, n := range []int{0, 1 << 30} {
		if p, err := pools.NewJoblibPool(n); p != nil || !errors.Is(err, pools.ErrArgument) {
			t.Errorf("%d: %v, %v", n, p, err)
		}
	}
	all, fewer := must(pools.NewJoblibPool(-1)), must(pools.NewJoblibPool(-1000))
	if cpus := must(pools.NewMultiPool(0)).Size(); all.Size() != cpus || fewer.Size() != 1 {
		t.Errorf("%v, %v", all, fewer)
	}
	if _, err := pools.NewJoblibPool(2, pools.PreDispatch(0)); !errors.Is(err, pools.ErrArgument) {
		t.Error(err)
	}
	if err := pools.ForEach(bg, pools.NewSerialPool(pools.PreDispatch(3)), nil, numbers(1)); !errors.Is(err, pools.ErrArgument) {
		t.Error(err)
	}
}

func TestRegisterRefuses(t *testing.T) {
	for name, register := range map[string]func(){
		"taken": func() { pools.Register("test.square", nap) },
		"empty": func() { pools.Register("", nap) },
		"nil":   func() { pools.Register[int, int]("test.nil", nil) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			register()
		})
	}
}
