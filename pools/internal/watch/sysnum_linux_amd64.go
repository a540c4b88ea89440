package watch

const (
	sysUserfaultfd     = 323
	sysProcessVMWritev = 311 // for a test
)
