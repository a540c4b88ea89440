package watch

const (
	sysUserfaultfd     = 282
	sysProcessVMWritev = 271 // for a test
)
