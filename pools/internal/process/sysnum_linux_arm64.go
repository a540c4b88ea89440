package process

const sysMemfdCreate = 279
