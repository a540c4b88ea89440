package inproc

import (
	"reflect"
	"runtime"
)

// within reports that this goroutine is inside a task of some crew or, with handing, inside a callback or a loop over results. Go has
// no goroutine-local values, so it looks for our frames on the stack: about 1 us for each ten frames, paid only by calls
// that find all workers busy, and by Close.
func within(handing bool) bool {
	var pcs [64]uintptr
	for skip := 2; ; skip += len(pcs) {
		n := runtime.Callers(skip, pcs[:])
		for _, pc := range pcs[:n] {
			f := runtime.FuncForPC(pc - 1)
			if f == nil {
				continue
			}
			switch f.Entry() {
			case taskFrame, timedFrame:
				return true
			case handFrame, deliverFrame, giveUpFrame:
				if handing {
					return true
				}
			}
		}
		if n < len(pcs) {
			return false
		}
	}
}

var (
	taskFrame  = reflect.ValueOf(runTasks).Pointer()
	timedFrame = reflect.ValueOf(callTask).Pointer()
	handFrame  = reflect.ValueOf(handOver).Pointer()

	deliverFrame = reflect.ValueOf(deliver).Pointer()
	giveUpFrame  = reflect.ValueOf(giveUp).Pointer()
)
