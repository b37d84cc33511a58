package rawblock

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/lmcache/lmcache-go/l2"
)

// Config is what the adapter reads of its JSON object. All sizes and offsets
// are multiples of BlockAlign.
type Config struct {
	DevicePath    string // device_path: a block device, or a file, which is made
	SlotBytes     int64  // slot_bytes: header and object
	CapacityBytes int64  // capacity_bytes: 0, all of the device
	BlockAlign    int64  // block_align: a power of two, 4096
	HeaderBytes   int64  // header_bytes: 4096
	MetaBytes     int64  // meta_total_bytes: both checkpoints, 256 MiB
	Magic         string // meta_magic: 8 bytes, LMCIDX01

	CheckpointEvery time.Duration // meta_checkpoint_interval_sec: 60 s
	QuietFor        time.Duration // meta_idle_quiet_ms: 100 ms without a change before one
	Periodic        bool          // meta_enable_periodic: not only at Close
	Load            bool          // load_checkpoint_on_init: keep what the device has
	Verify          bool          // meta_verify_on_load: hold the index against the slots after a crash
	Direct          bool          // use_odirect: past the page cache, where the device can
	ZeroCopy        bool          // enable_zero_copy: read and write objects in place

	StoreWorkers, LookupWorkers, LoadWorkers int // num_store_workers 2, num_lookup_workers 1, num_load_workers 4
}

const (
	minHeader  = 512
	maxWorkers = 1024
)

// ParseConfig reads the adapter's JSON object. Unknown fields are ignored, as
// LMCache does, and the messages are its.
func ParseConfig(raw []byte) (Config, error) {
	p := parser{}
	if err := json.Unmarshal(raw, &p.fields); err != nil {
		return Config{}, err
	}
	var c Config
	if json.Unmarshal(p.fields["device_path"], &c.DevicePath) != nil || c.DevicePath == "" {
		return c, errors.New("device_path must be a non-empty string")
	}
	if json.Unmarshal(p.fields["slot_bytes"], &c.SlotBytes) != nil || c.SlotBytes <= 0 {
		return c, errors.New("slot_bytes must be a positive integer")
	}
	c.CapacityBytes = p.integer("capacity_bytes", 0)
	c.BlockAlign = p.integer("block_align", 4096)
	c.HeaderBytes = p.integer("header_bytes", 4096)
	c.MetaBytes = p.integer("meta_total_bytes", 256<<20)
	c.Magic = p.text("meta_magic", "LMCIDX01")
	version := p.integer("meta_version", 1)
	c.CheckpointEvery = time.Duration(p.number("meta_checkpoint_interval_sec", 60) * float64(time.Second))
	c.QuietFor = time.Duration(p.number("meta_idle_quiet_ms", 100) * float64(time.Millisecond))
	c.Periodic = p.boolean("meta_enable_periodic", true)
	c.Load = p.boolean("load_checkpoint_on_init", true)
	c.Verify = p.boolean("meta_verify_on_load", true)
	c.Direct = p.boolean("use_odirect", true)
	c.ZeroCopy = p.boolean("enable_zero_copy", true)
	engine := p.text("io_engine", "posix")
	depth := p.integer("iouring_queue_depth", 256)
	command := p.boolean("use_uring_cmd", false)
	placement := p.boolean("fdp_enabled", false)
	persist := p.boolean("persist_enabled", true)
	for _, w := range []struct {
		name    string
		workers *int
		def     int64
	}{{"num_store_workers", &c.StoreWorkers, 2}, {"num_lookup_workers", &c.LookupWorkers, 1}, {"num_load_workers", &c.LoadWorkers, 4}} {
		n := p.integer(w.name, w.def)
		if p.err == nil && n <= 0 {
			return c, fmt.Errorf("%s must be > 0", w.name)
		}
		*w.workers = int(min(n, maxWorkers))
	}
	if p.err != nil {
		return c, p.err
	}
	a := c.BlockAlign
	switch {
	case !persist:
		return c, errors.New("raw_block requires persist_enabled=true")
	case engine != "posix" && engine != "io_uring":
		return c, errors.New("io_engine must be one of: io_uring, posix")
	case depth <= 0:
		return c, errors.New("iouring_queue_depth must be > 0")
	case command && engine != "io_uring":
		return c, errors.New("use_uring_cmd requires io_uring io_engine")
	case engine == "io_uring":
		return c, errors.New("io_engine io_uring is not supported in this build; posix is")
	case placement:
		return c, errors.New("fdp_enabled is not supported in this build")
	case version != 1:
		return c, fmt.Errorf("meta_version %d is not supported in this build; 1 is", version)
	case a <= 0 || a&(a-1) != 0:
		return c, fmt.Errorf("block_align must be a power of 2, got %d", a)
	case c.HeaderBytes%a != 0:
		return c, errors.New("header_bytes must be a multiple of block_align")
	case c.HeaderBytes < minHeader || c.HeaderBytes > 1<<20:
		return c, fmt.Errorf("header_bytes must be %d to %d in this build", minHeader, 1<<20)
	case c.SlotBytes <= c.HeaderBytes:
		return c, errors.New("slot_bytes must be >= header_bytes + 1")
	case c.SlotBytes%a != 0:
		return c, errors.New("slot_bytes must be a multiple of block_align")
	case c.SlotBytes > 1<<32:
		return c, errors.New("slot_bytes must be at most 4 GiB in this build")
	case c.MetaBytes%a != 0:
		return c, errors.New("meta_total_bytes must be a multiple of block_align")
	case c.copyBytes()-a < minPayload:
		return c, fmt.Errorf("meta_total_bytes must leave each of two copies at least %d bytes", a+minPayload)
	case len(c.Magic) != 8:
		return c, errors.New("meta_magic must have 8 bytes")
	case c.CapacityBytes < 0:
		return c, errors.New("capacity_bytes must not be negative")
	case c.CapacityBytes > 0 && c.CapacityBytes-c.MetaBytes < c.SlotBytes:
		return c, errors.New("capacity_bytes must leave space for at least one slot")
	}
	return c, nil
}

// copyBytes is the room for one checkpoint.
func (c *Config) copyBytes() int64 { return c.MetaBytes / 2 / c.BlockAlign * c.BlockAlign }

// Kind is the registry's entry.
var Kind = l2.Kind{
	Check: func(config []byte) error { _, err := ParseConfig(config); return err },
	New: func(config []byte, env l2.Env) (l2.Adapter, error) {
		c, err := ParseConfig(config)
		if err != nil {
			return nil, err
		}
		return New(c, env)
	},
}

// parser reads fields, and keeps the first error.
type parser struct {
	fields map[string]json.RawMessage
	err    error
}

func (p *parser) read(name, kind string, to any) bool {
	v, ok := p.fields[name]
	if !ok {
		return false
	}
	if bytes.Equal(bytes.TrimSpace(v), []byte("null")) || json.Unmarshal(v, to) != nil {
		if p.err == nil {
			p.err = fmt.Errorf("%s must be %s", name, kind)
		}
		return false
	}
	return true
}

func (p *parser) integer(name string, def int64) int64 {
	var n int64
	if p.read(name, "an integer", &n) {
		return n
	}
	return def
}

func (p *parser) number(name string, def float64) float64 {
	var n float64
	if p.read(name, "a number", &n) {
		return min(max(n, 0), math.MaxInt32)
	}
	return def
}

func (p *parser) boolean(name string, def bool) bool {
	var b bool
	if p.read(name, "a boolean", &b) {
		return b
	}
	return def
}

func (p *parser) text(name, def string) string {
	var s string
	if p.read(name, "a string", &s) {
		return s
	}
	return def
}
