//go:build !amd64

package nh

func prefetch(*[Block]byte) {}
