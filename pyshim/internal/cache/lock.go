package cache

import (
	"context"
	"os"
	"time"
)

const (
	// Filling an entry takes seconds. A holder that takes longer may be stopped, or on a machine that has crashed under a lock
	// which its file server still keeps; the rename decides then.
	lockPatience = 2 * time.Minute
	lockPause    = 20 * time.Millisecond
)

// lock waits until no other process fills the entry. It only saves work: where locks do not exist (Lustre and NFS without flock), or the
// lock file is another user's, everybody fills a directory of their own and the first rename counts.
func lock(ctx context.Context, name string) (unlock func(), err error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return func() {}, ctx.Err()
	}
	release := func() { _ = file.Close() } // which drops the lock
	deadline := time.NewTimer(lockPatience)
	defer deadline.Stop()
	pause := time.NewTicker(lockPause)
	defer pause.Stop()
	for {
		if done := tryLock(file); done {
			return release, nil
		}
		select {
		case <-pause.C:
		case <-deadline.C:
			return release, nil
		case <-ctx.Done():
			release()
			return func() {}, ctx.Err()
		}
	}
}
