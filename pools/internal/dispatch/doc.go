// Package dispatch decides which tasks go into the next chunk, remembers where every chunk is, and hands results back
// in the order asked for.
//
// It is a pure state machine. Events come in as method calls (a chunk was encoded, answered, lost with its worker) and
// decisions go out as return values. There is no goroutine, no lock, no clock and no I/O: durations are measured by the
// worker and arrive in an [Outcome], and the caller serialises the calls. That is what lets the tests drive it event by
// event, and what makes it usable from every transport.
//
// The life of a chunk, and the call that makes each step:
//
//	          Offer            Submit          Done, Lost          Deliver            Release
//	(tasks) --------> reserved -------> flying ----------> answered -------> delivered --------> (free)
//	   ^                 |                 |                  |
//	   +---- Return -----+---- Requeue ----+                  | what was not run goes back, too
//	   +------------------------------------------------------+
//
// A job is driven by repeating: Offer, encode, Submit while Offer says yes; Deliver, read, Release while Deliver says
// yes; then wait for an answer, until Finished.
//
// Each call costs O(1) whatever the number of workers, tasks or chunks, except that returning tasks to the queue and
// taking them from it costs O(log r) for r returned ranges. In the steady state nothing is allocated: chunks and jobs
// come from free lists.
package dispatch
