package main

import (
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshca/meshca/test/bench/measure"
)

// A disk is a file beside the stores, to know how fast a sync is at the time.
type disk struct{ *os.File }

func openDisk(dir string) (*disk, error) {
	f, err := os.Create(filepath.Join(dir, "disk"))
	return &disk{f}, err
}

// sync is the median of some writes of a page over what is there, each made durable.
func (d *disk) sync() (time.Duration, error) {
	took := make([]time.Duration, 25)
	for i := range took {
		began := time.Now()
		if _, err := d.WriteAt(make([]byte, 4096), 0); err != nil {
			return 0, err
		}
		if err := unix.Fdatasync(int(d.Fd())); err != nil {
			return 0, err
		}
		took[i] = time.Since(began)
	}
	return measure.Median(took), nil
}
