//go:build !linux

package store

// holder names nobody: only Linux tells who holds a lock.
func holder(string) string { return "" }
