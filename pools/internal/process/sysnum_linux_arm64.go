package process

const (
	sysMemfdCreate = 279
	sysGetcpu      = 168
)
