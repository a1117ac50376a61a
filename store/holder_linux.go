package store

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// holder names the process that holds the lock on path, as " (pid N, COMMAND)", from /proc/locks. It is
// empty where the system does not tell: the holder may live in a pid namespace that we do not see.
func holder(path string) string {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return ""
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return ""
	}
	inode := fmt.Sprintf(":%d", st.Ino)
	for line := range strings.Lines(string(locks)) {
		// "1: FLOCK  ADVISORY  WRITE 1234 fd:01:5678 0 EOF"
		f := strings.Fields(line)
		if len(f) < 6 || f[1] != "FLOCK" || !strings.HasSuffix(f[5], inode) || f[4] == "0" || f[4] == "-1" {
			continue
		}
		command, err := os.ReadFile("/proc/" + f[4] + "/comm")
		if err != nil {
			return fmt.Sprintf(" (pid %s)", f[4])
		}
		return fmt.Sprintf(" (pid %s, %s)", f[4], strings.TrimSpace(string(command)))
	}
	return ""
}
