package process

const sysMemfdCreate = 319
