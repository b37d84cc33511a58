// Package faultinject is an L2 adapter that makes another one lose loads, for
// tests of what then happens above.
//
// Source: reference storage-manager.md, section 8.13.
package faultinject

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"sync"

	"golang.org/x/crypto/blake2b"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
)

// Config is what the adapter reads of its JSON object. The messages of
// ParseConfig are LMCache's.
type Config struct {
	Inner      json.RawMessage // inner: the adapter that does the work
	InnerType  string          // its type
	Rate       float64         // rate: share of the keys whose loads are lost, the same keys each time
	Seed       string          // seed: a decimal number that chooses them
	Gaps       []int64         // gap_indices: positions in a load task that are lost
	TailRatios []float64       // gap_tail_ratios: the same, as shares from the end: 0 the last, 1 the first
}

// ParseConfig reads the adapter's JSON object.
func ParseConfig(raw []byte) (Config, error) {
	c := Config{Seed: "0"}
	var f map[string]json.RawMessage
	if err := json.Unmarshal(raw, &f); err != nil {
		return c, err
	}
	var inner map[string]json.RawMessage
	if json.Unmarshal(f["inner"], &inner) != nil || inner == nil {
		return c, errors.New("'inner' must be an adapter spec dict with a 'type' field")
	}
	c.Inner = f["inner"]
	if isNull(inner["type"]) || json.Unmarshal(inner["type"], &c.InnerType) != nil {
		return c, errors.New("'inner' adapter spec must include a string 'type'")
	}
	if serde, ok := inner["serde"]; ok && !isNull(serde) {
		return c, errors.New("'serde' of an inner adapter is not supported in this build")
	}
	if v, ok := f["rate"]; ok {
		if isNull(v) || json.Unmarshal(v, &c.Rate) != nil || !(c.Rate >= 0 && c.Rate <= 1) {
			return c, errors.New("rate must be a number in [0, 1]")
		}
	}
	if v, ok := f["seed"]; ok {
		seed, ok := new(big.Int).SetString(string(bytes.TrimSpace(v)), 10) // Python's integers have no end
		if !ok {
			return c, errors.New("seed must be an integer")
		}
		c.Seed = seed.String()
	}
	if v, ok := f["gap_indices"]; ok {
		if isNull(v) || json.Unmarshal(v, &c.Gaps) != nil || outside(c.Gaps, 0, math.MaxInt64) {
			return c, errors.New("gap_indices must be a list of non-negative integers")
		}
	}
	if v, ok := f["gap_tail_ratios"]; ok {
		if isNull(v) || json.Unmarshal(v, &c.TailRatios) != nil || outside(c.TailRatios, 0, 1) {
			return c, errors.New("gap_tail_ratios must be a list of floats in [0, 1]")
		}
	}
	return c, nil
}

func isNull(v json.RawMessage) bool { return bytes.Equal(bytes.TrimSpace(v), []byte("null")) }

func outside[T int64 | float64](list []T, least, most T) bool {
	for _, x := range list {
		if x < least || x > most {
			return true
		}
	}
	return false
}

// Kind is the registry's entry. It builds the inner adapter from kinds, which
// may be the registry that it becomes a part of.
func Kind(kinds l2.Registry) l2.Kind {
	parse := func(raw []byte) (Config, l2.Kind, error) {
		c, err := ParseConfig(raw)
		if err != nil {
			return c, l2.Kind{}, err
		}
		kind, ok := kinds[c.InnerType]
		if !ok {
			return c, kind, fmt.Errorf("'inner' adapter type '%s' is not in this build", c.InnerType)
		}
		return c, kind, kind.Check(c.Inner)
	}
	return l2.Kind{
		Check: func(config []byte) error { _, _, err := parse(config); return err },
		New: func(config []byte, env l2.Env) (l2.Adapter, error) {
			c, kind, err := parse(config)
			if err != nil {
				return nil, err
			}
			inner, err := kind.New(c.Inner, env)
			if err != nil {
				return nil, err
			}
			return &Injector{Adapter: inner, c: c, lost: map[l2.TaskID][]int{}}, nil
		},
	}
}

// Injector is the adapter. Loads run as they would; of their results it clears
// bits. All else is the inner adapter's.
type Injector struct {
	l2.Adapter
	c Config

	mu   sync.Mutex
	lost map[l2.TaskID][]int // positions, of loads that were not asked for yet
}

// Name returns "fault_inject".
func (j *Injector) Name() string { return "fault_inject" }

// SubmitLoad notes which positions will be lost.
func (j *Injector) SubmitLoad(objects []l2.Object) l2.TaskID {
	var lost []int
	for _, i := range j.c.Gaps {
		if i < int64(len(objects)) {
			lost = append(lost, int(i))
		}
	}
	for _, r := range j.c.TailRatios {
		if n := len(objects); n > 0 {
			lost = append(lost, int(math.RoundToEven((1-r)*float64(n-1))))
		}
	}
	below := uint64(j.c.Rate * buckets)
	for i := range objects {
		if below > 0 && bucket(j.c.Seed, &objects[i].Key) < below {
			lost = append(lost, i)
		}
	}
	j.mu.Lock() // held over the call: the result cannot be asked for before it is noted
	defer j.mu.Unlock()
	id := j.Adapter.SubmitLoad(objects)
	if len(lost) > 0 {
		j.lost[id] = lost
	}
	return id
}

// QueryLoad returns the inner result without what is lost.
func (j *Injector) QueryLoad(id l2.TaskID) (kv.Bitmap, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	loaded, ok := j.Adapter.QueryLoad(id)
	if ok {
		for _, i := range j.lost[id] {
			loaded.Clear(i)
		}
		delete(j.lost, id)
	}
	return loaded, ok
}

// Report is the inner adapter's.
func (j *Injector) Report() l2.Report {
	if r, ok := j.Adapter.(l2.Reporter); ok {
		return r.Report()
	}
	return l2.Report{Objects: -1, Locked: -1}
}

// List is the inner adapter's.
func (j *Injector) List(model, token string, limit int) (l2.Page, error) {
	if l, ok := j.Adapter.(l2.Lister); ok {
		return l.List(model, token, limit)
	}
	return l2.Page{}, l2.ErrNoListing
}

// buckets is how many the keys fall into.
const buckets = 1_000_000

// bucket returns the key's.
func bucket(seed string, k *kv.ObjectKey) uint64 {
	h, err := blake2b.New(8, nil)
	if err != nil {
		panic(err) // 8 is a size
	}
	fmt.Fprintf(h, "%s:%x:%s:%d:%d:%s", seed, k.ChunkHash(), k.Scope.Model(), k.Rank, k.Group, k.Scope.Salt())
	return binary.BigEndian.Uint64(h.Sum(nil)) % buckets
}
