package process

const (
	sysMemfdCreate = 319
	sysGetcpu      = 309
)
