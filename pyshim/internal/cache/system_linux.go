package cache

import "syscall"

const stNoExec = 0x8 // ST_NOEXEC of statfs(2), which package syscall lacks

func noExec(dir string) bool {
	var stat syscall.Statfs_t
	return syscall.Statfs(dir, &stat) == nil && stat.Flags&stNoExec != 0
}

func free(dir string) int64 {
	var stat syscall.Statfs_t
	if syscall.Statfs(dir, &stat) != nil {
		return -1
	}
	return int64(stat.Bavail) * stat.Bsize
}
