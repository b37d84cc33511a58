package fs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lmcache/lmcache-go/l2"
)

// Config is what the adapters read of their JSON object.
type Config struct {
	Native          bool    // fs_native: direct I/O pads files to whole blocks
	BasePath        string  // base_path: the folder; made with its parents
	TempDir         string  // relative_tmp_dir: where files are written, below BasePath
	ReadAhead       int     // read_ahead_size: bytes that the kernel is asked to fetch when a file is opened
	Direct          bool    // use_odirect: past the page cache, where the file system can
	Workers         int     // num_workers: files read, and files written, at once
	CapacityBytes   int64   // max_capacity_gb: what Usage calls full; 0: unknown, and no files are counted at the start
	SkipRecovery    bool    // recover_on_start false: with a capacity, do not count what the folder has
	DiskWatermark   float64 // disk_high_watermark: share of the file system at which the store is full; 0: none
	DiskMinFreeByte int64   // disk_min_free_gb: what the store leaves free of the file system; 0: none
}

// Kinds of the registry.
var (
	Kind       = kind("fs", false)
	NativeKind = kind("fs_native", true)
)

func kind(name string, native bool) l2.Kind {
	return l2.Kind{
		Check: func(config []byte) error { _, err := ParseConfig(config, native); return err },
		New: func(config []byte, env l2.Env) (l2.Adapter, error) {
			c, err := ParseConfig(config, native)
			if err != nil {
				return nil, err
			}
			return New(name, c, env)
		},
	}
}

// ParseConfig reads the adapter's JSON object. Fields that neither LMCache nor
// this build knows are ignored, as there. The messages are LMCache's.
func ParseConfig(raw []byte, native bool) (Config, error) {
	var f map[string]json.RawMessage
	if err := json.Unmarshal(raw, &f); err != nil {
		return Config{}, err
	}
	c := Config{Native: native, Workers: l2.DefaultWorkers()}
	if native {
		c.Workers = 4
	}
	if json.Unmarshal(f["base_path"], &c.BasePath) != nil || c.BasePath == "" {
		return c, errors.New("base_path must be a non-empty string")
	}
	if v, ok := f["relative_tmp_dir"]; ok && (native || !isNull(v)) {
		if isNull(v) || json.Unmarshal(v, &c.TempDir) != nil {
			return c, errors.New("relative_tmp_dir must be a string")
		}
	}
	if filepath.IsAbs(c.TempDir) || slices.Contains(strings.Split(c.TempDir, "/"), "..") {
		//lint:ignore ST1005 LMCache's text
		return c, fmt.Errorf("Invalid relative_tmp_dir: %s", c.TempDir)
	}
	if v, ok := f["read_ahead_size"]; ok && !isNull(v) {
		if json.Unmarshal(v, &c.ReadAhead) != nil || c.ReadAhead <= 0 {
			return c, errors.New("read_ahead_size must be a positive integer")
		}
	}
	if err := boolean(f, "use_odirect", &c.Direct); err != nil {
		return c, err
	}
	if v, ok := f["num_workers"]; ok && native {
		if isNull(v) || json.Unmarshal(v, &c.Workers) != nil || c.Workers <= 0 {
			return c, errors.New("num_workers must be a positive integer")
		}
		c.Workers = min(c.Workers, 1024)
	}
	if v, ok := f["checksum"]; ok && !native {
		if s := ""; json.Unmarshal(v, &s) != nil || s != "none" && !isNull(v) {
			return c, fmt.Errorf("checksum %s is not supported in this build", v)
		}
	}
	return c, c.parseCapacity(f)
}

func (c *Config) parseCapacity(f map[string]json.RawMessage) error {
	capacityGB, err := number(f, "max_capacity_gb", math.Inf(1))
	if err != nil {
		return err
	}
	c.CapacityBytes = gib(capacityGB)
	recovers := true
	if err := boolean(f, "recover_on_start", &recovers); err != nil {
		return err
	}
	c.SkipRecovery = !recovers
	if !c.Native {
		return nil
	}
	if c.DiskWatermark, err = number(f, "disk_high_watermark", 1); err != nil {
		return err
	}
	minFreeGB, err := number(f, "disk_min_free_gb", math.Inf(1))
	if err != nil {
		return err
	}
	c.DiskMinFreeByte = gib(minFreeGB)
	eviction, ok := f["eviction"]
	if evicts := ok && !isNull(eviction); (c.DiskWatermark > 0 || c.DiskMinFreeByte > 0) && (c.CapacityBytes == 0 || !evicts) {
		return errors.New("disk_high_watermark and disk_min_free_gb require max_capacity_gb and eviction")
	}
	return nil
}

func isNull(v json.RawMessage) bool { return bytes.Equal(bytes.TrimSpace(v), []byte("null")) }

func boolean(f map[string]json.RawMessage, name string, p *bool) error {
	if v, ok := f[name]; ok && (isNull(v) || json.Unmarshal(v, p) != nil) {
		return fmt.Errorf("%s must be a boolean", name)
	}
	return nil
}

// number reads a number from 0 to most; 0 if absent.
func number(f map[string]json.RawMessage, name string, most float64) (n float64, err error) {
	v, ok := f[name]
	if !ok {
		return 0, nil
	}
	if isNull(v) || json.Unmarshal(v, &n) != nil || !(n >= 0 && n <= most) {
		if most <= 1 {
			return 0, fmt.Errorf("%s must be a number from 0 to 1", name)
		}
		return 0, fmt.Errorf("%s must be a non-negative number", name)
	}
	return n, nil
}

func gib(n float64) int64 { return int64(min(n*(1<<30), math.MaxInt64/2)) }
