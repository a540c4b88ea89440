//go:build linux && (amd64 || arm64)

package pools

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/codec"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/dispatch"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/inproc"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

// remoteJob is one call under way.
type remoteJob struct {
	p       *remotePool
	spec    *remoteSpec
	call    *call
	port    int
	words   []int64
	id      int64
	feeder  *feeder // of a call of unknown length
	encoder codec.Encoder
	frame   wire.Frame
	bad     []badTask // of the event at hand
	over    bool      // nothing more is wanted
	fatal   error     // no task of this job can run
}

func (j *remoteJob) begin() error {
	ref, err := j.p.function(j.spec)
	if err != nil {
		return err
	}
	spec := &j.call.spec
	flags, jobFlags := int64(taskStateless|taskPlain), int64(0)
	if j.call.keep && spec.Retries == 0 {
		flags |= taskKeepGoing
	}
	if spec.Limit > 0 {
		flags |= taskTimed
	}
	if !spec.Unordered && !spec.Quiet {
		jobFlags |= JobOrdered
	}
	if spec.Tasks == dispatch.Unknown {
		jobFlags |= JobLazy
	}
	copy(j.words[process.PortParams:], []int64{
		spec.Tasks, int64(ref.serial), int64(spec.Chunk), int64(spec.Retries), jobFlags, int64(spec.Limit), flags,
		int64(ref.serial), int64(ref.off), // the serial is the key of the task's time as well
	})
	j.id, err = j.p.e.Begin(j.port)
	return err
}

// turn encodes what is offered, waits, and takes in what came.
func (j *remoteJob) turn() (int, error) {
	offers, sent, big, starved := int(j.words[wordOffers]), 0, false, false
	for sent < offers && !big && !starved {
		var err error
		if starved, big, err = j.encode(sent); err != nil || j.over {
			return 0, err
		}
		if !starved {
			sent++
		}
	}
	wait := WaitAny
	switch {
	case starved:
		wait = WaitHold
	case sent < offers:
		wait = WaitNone
	case j.call.spec.Quiet:
		wait = WaitBatch
	}
	found, err := j.p.e.Step(j.port, sent, wait)
	if err != nil {
		return 0, err
	}
	if found&FlagEvents != 0 {
		for k := range int(j.words[wordEvents]) {
			if err := j.event(j.words[process.PortEvents+k*process.EventWords:][:process.EventWords]); err != nil {
				return 0, err
			}
			if j.over || j.fatal != nil {
				break
			}
		}
	}
	return found, nil
}

// encode writes the tasks of offer k into its slot, and says whether there are none yet, and whether the chunk is big.
func (j *remoteJob) encode(k int) (starved, big bool, err error) {
	w := j.words[process.PortOffers+k*process.OfferWords:][:process.OfferWords]
	slot, room, first, count := uint64(w[2]), uint64(w[3]), w[4], int(w[5])
	n := count
	if j.feeder != nil {
		var last bool
		if n, last = j.feeder.take(first, count); last {
			j.words[process.PortParams+15] = 1
		} else if n == 0 {
			return true, false, nil
		}
	}
	var p codec.Payload
	if n > 0 {
		j.encoder.Python = j.p.python
		p, err = j.call.coder.encode(&j.encoder, first, n)
	}
	if err != nil {
		index := first
		var item *codec.ItemError
		if errors.As(err, &item) {
			index += int64(item.Index)
		}
		j.call.spec.Work.Fail(index, inproc.Failure{Err: j.taskError(index, fmt.Errorf("it cannot be encoded for another process: %w", err))})
		j.over = true
		return false, false, nil
	}
	need := uint64(process.SlotFrame + headerSize + wire.EntrySize*len(p.Large) + len(p.Inband) + 128)
	for _, b := range p.Large {
		need += uint64(len(b)) + 64
	}
	if need > room {
		if slot, err = j.p.e.Grow(j.port, k, need); err != nil {
			return false, false, err
		}
	}
	mem, le := j.p.e.tr.Mem(), binary.LittleEndian
	frame := slot + process.SlotFrame
	if n < count {
		le.PutUint32(mem[frame+40:], uint32(n))
	}
	if n == 0 {
		return false, false, nil
	}
	le.PutUint16(mem[frame+6:], uint16(p.Kind))
	le.PutUint64(mem[frame+48:], uint64(len(p.Inband)))
	at := frame + headerSize
	if len(p.Large) > 0 {
		le.PutUint32(mem[frame+offNBuf:], uint32(len(p.Large)))
		table := at
		at += uint64(wire.EntrySize * len(p.Large))
		free := (at + uint64(len(p.Inband)) + 63) &^ 63
		for _, b := range p.Large {
			le.PutUint64(mem[table:], free)
			le.PutUint64(mem[table+8:], uint64(len(b)))
			copy(mem[free:], b)
			table += wire.EntrySize
			free = (free + uint64(len(b)) + 63) &^ 63
		}
		le.PutUint64(mem[frame+offNext:], free)
	}
	copy(mem[at:], p.Inband)
	return false, need > bigChunk, nil
}

// event takes in one event of the engine's.
func (j *remoteJob) event(w []int64) error {
	chunk, first, count, slot, flags := w[1], w[2], w[3], uint64(w[4]), w[5]
	if flags&(EventTasks|EventFunc) != 0 {
		return j.question(chunk, first, count, slot, flags)
	}
	j.bad = j.bad[:0]
	record, err := j.read(slot, first, count)
	if err != nil {
		return err
	}
	end := first + count
	switch {
	case flags&EventLost != 0:
		j.bad = append(j.bad, badTask{end, j.lost(end, flags, w[6], w[7])})
		end++
	case flags&EventFailed != 0:
		j.bad = append(j.bad, badTask{end, j.rebuild(end, record)})
		end++
	}
	for _, b := range j.bad { // in order of their tasks
		j.deliver(first, b.task)
		if j.over {
			return nil
		}
		j.over = !j.call.spec.Work.Fail(b.task, inproc.Failure{Err: b.err})
		first = b.task + 1
		j.settled(1)
	}
	j.deliver(first, end)
	return nil
}

// deliver hands over the results of tasks from first on, before end.
func (j *remoteJob) deliver(first, end int64) {
	if first < end && !j.over {
		j.over = !j.call.spec.Work.Deliver(first, int(end-first))
		j.settled(end - first)
	}
}

// settled lets the source go on.
func (j *remoteJob) settled(n int64) {
	if j.feeder != nil {
		j.feeder.settled(n)
	}
}

// question answers a chunk that a worker could not read. A function that one of them does not know none knows; tasks are tried one by one,
// then it is the task's error.
func (j *remoteJob) question(chunk, first, count int64, slot uint64, flags int64) error {
	switch {
	case flags&EventFunc != 0:
		record, err := j.read(slot, first, 0)
		if err != nil {
			return err
		}
		j.fatal = j.noFunction(record)
		return nil
	case count > 1:
		return j.p.e.Requeue(j.port, chunk, true, 0, 0)
	}
	return j.p.e.Reject(j.port, chunk)
}

// read takes in the results of an answered chunk and returns the error record behind them, if there is one.
func (j *remoteJob) read(slot uint64, first, count int64) (record []byte, err error) {
	if slot == 0 {
		return nil, nil
	}
	tr := j.p.e.tr
	mem := tr.Mem()
	limits := wire.Limits{Arena: tr.Len(), External: j.p.e.inPlace()}
	left := count
	for seg := tr.Load(slot + process.ReplySegments); seg != 0 && (left > 0 || record == nil); seg = j.frame.Next {
		if seg > tr.Len()-headerSize {
			return nil, fail(CodeInternal, "results at %d, beyond the arena", seg)
		}
		if err := j.frame.Decode(mem[seg:], limits); err != nil {
			return nil, &Error{CodeInternal, err}
		}
		if j.frame.Kind == wire.ErrorRecord {
			record = slices.Clone(j.frame.Inband)
			continue
		}
		n := min(int64(j.frame.Count), left)
		if n < int64(j.frame.Count) {
			return nil, fail(CodeInternal, "%d results where %d are left", j.frame.Count, left)
		}
		p := codec.Payload{Kind: j.frame.Kind, Inband: j.frame.Inband}
		for _, b := range j.frame.Buffers {
			p.Large = append(p.Large, bufferAt(mem, b))
		}
		err := j.call.coder.decode(p, first+count-left, int(n), func(index int64, record []byte, err error) {
			if record != nil {
				err = j.rebuild(index, record)
			} else {
				err = j.taskError(index, fmt.Errorf("its result: %w", err))
			}
			j.bad = append(j.bad, badTask{index, err})
		})
		if err != nil {
			return nil, fmt.Errorf("%s: results of task %d and following: %w", j.spec, first+count-left, err)
		}
		left -= n
	}
	if left > 0 {
		return nil, fail(CodeInternal, "%d of %d results are missing", left, count)
	}
	return record, nil
}

// bufferAt is the memory of a buffer: in the arena, or on the master of MPI ranks C memory beside it.
func bufferAt(mem []byte, b wire.Buffer) []byte {
	if b.Offset&wire.External != 0 {
		at := b.Offset &^ wire.External
		return unsafe.Slice(*(**byte)(unsafe.Pointer(&at)), b.Length)
	}
	return mem[b.Offset : b.Offset+b.Length]
}
