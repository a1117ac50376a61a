package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshca/meshca/store"
	"github.com/meshca/meshca/test/bench/measure"
)

// million measures a start with so many records in the store, none of which is in memory, beside one with few.
func million(dir, binary string, records, passes int) error {
	home := filepath.Join(dir, "million")
	p, _, err := firstStart(home, binary)
	if err != nil {
		return err
	}
	serial, err := askFor(filepath.Join(home, "data", "meshca.sock"))
	if err := errors.Join(err, stop(p)); err != nil {
		return err
	}
	few, err := restarts(home, binary, passes)
	if err != nil {
		return err
	}
	path := filepath.Join(home, "data", "meshca.db")
	if err := multiply(path, serial, records); err != nil {
		return err
	}
	many, err := restarts(home, binary, passes)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	row(fmt.Sprintf("start with %d records, %.1f GiB, none in memory", records, float64(info.Size())/(1<<30)), many, "start with ten", few)
	return nil
}

func stop(p *exec.Cmd) error { return errors.Join(p.Process.Signal(syscall.SIGTERM), p.Wait()) }

// restarts starts the program again and again, and measures each time until it serves.
func restarts(home, binary string, times int) (took []time.Duration, err error) {
	for range times {
		if err := forget(filepath.Join(home, "data", "meshca.db")); err != nil {
			return nil, err
		}
		log := filepath.Join(home, "log")
		f, err := os.Create(log)
		if err != nil {
			return nil, err
		}
		p := exec.Command(binary, "serve", "--config", filepath.Join(home, "meshca.yaml"), "--log", "json")
		p.Stderr = f
		began := time.Now()
		if err := errors.Join(p.Start(), f.Close()); err != nil {
			return nil, err
		}
		err = await(func() bool {
			text, err := os.ReadFile(log)
			return err == nil && bytes.Contains(text, []byte(`"msg":"serving"`))
		})
		took = append(took, time.Since(began))
		if err := errors.Join(err, stop(p)); err != nil {
			return nil, err
		}
	}
	return took, nil
}

// forget has the system drop what it holds of a file in memory.
func forget(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
}

// askFor asks over the socket for a certificate, as a caller does, and gives its serial number.
func askFor(socket string) (serial string, err error) {
	csr, err := measure.NewCSR("bookapi")
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(map[string]string{"service": "bookapi", "csr": string(csr)})
	if err != nil {
		return "", err
	}
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	defer client.CloseIdleConnections()
	var issued struct{ Serial string }
	ask := func() error {
		answer, err := client.Post("http://meshca/v1/certificates", "application/json", bytes.NewReader(body))
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != http.StatusCreated {
			return fmt.Errorf("status %d: %s (%v)", answer.StatusCode, text, err)
		}
		return json.Unmarshal(text, &issued)
	}
	err = await(func() bool { return ask() == nil }) // it is refused until the first look at all places has ended
	return issued.Serial, err
}

// multiply writes what the store keeps of one certificate once for each of so many others, under numbers, serials and
// keys of their own.
func multiply(path, serial string, records int) error {
	st, err := store.OpenBolt(path, patience)
	if err != nil {
		return err
	}
	err = copies(st, serial, records)
	return errors.Join(err, st.Close())
}

func copies(st store.Store, serial string, records int) error {
	entries, of, err := entriesOf(st, serial)
	if err != nil {
		return err
	}
	const together = 10_000
	for _, key := range entries.keys { // in the order of the keys: pages are written once
		for from := 1; from <= records; from += together {
			err := st.Update(func(w store.Writer) error {
				for i := from; i < min(from+together, records+1); i++ {
					to := of.next(i)
					w.Put(to.replace(of, key), []byte(to.replace(of, entries.values[key])))
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// An id is by what a certificate is known in the store.
type id struct {
	seq    uint64
	serial string
	key    string
}

// next is the id of the i-th copy. Ids of copies are in order.
func (d id) next(i int) id {
	return id{d.seq + uint64(i), fmt.Sprintf("%08x%024d", 0x10000000+i, i), fmt.Sprintf("%08x%056d", i, i)}
}

// replace puts one id for another into a key or a value.
func (d id) replace(of id, text string) string {
	return strings.NewReplacer(fmt.Sprintf("%016x", of.seq), fmt.Sprintf("%016x", d.seq), fmt.Sprintf(`"seq":%d,`, of.seq), fmt.Sprintf(`"seq":%d,`, d.seq),
		of.serial, d.serial, of.key, d.key).Replace(text)
}

// entries are what a store holds of one certificate.
type entries struct {
	keys   []string // sorted
	values map[string]string
}

// entriesOf finds them by the numbers that stand in them.
func entriesOf(st store.Store, serial string) (found entries, of id, err error) {
	found.values = make(map[string]string)
	err = st.View(func(r store.Reader) error {
		number, ok := r.Get("serial/" + serial)
		if !ok {
			return fmt.Errorf("the store has no %s", serial)
		}
		value, _ := r.Get("cert/" + string(number))
		var record struct {
			Seq uint64
			Key string
		}
		if err := json.Unmarshal(value, &record); err != nil {
			return err
		}
		of = id{record.Seq, serial, record.Key}
		for key, value := range r.Scan(store.Prefix("")) {
			if strings.Contains(key, string(number)) || string(value) == string(number) {
				found.keys = append(found.keys, key)
				found.values[key] = string(value)
			}
		}
		return nil
	})
	slices.Sort(found.keys)
	return found, of, err
}
