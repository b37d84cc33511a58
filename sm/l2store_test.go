package sm_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lmcache/lmcache-go/kv"
	"github.com/lmcache/lmcache-go/l2"
	"github.com/lmcache/lmcache-go/sm"
)

// A store that is added gets what is written from then on, one that is removed
// gets nothing more, and ids are not given twice.
func TestAddAndRemoveAdapters(t *testing.T) {
	r := newRig(t, 16, nil)
	r.write(keys(0))
	r.sleep(time.Millisecond)
	for want := range 2 {
		if id, err := r.AddAdapter(mockStore); id != want || err != nil {
			t.Fatalf("AddAdapter = %d, %v; want %d", id, err, want)
		}
	}
	r.write(keys(1))
	r.sleep(time.Millisecond)
	held := func() (s string) {
		for _, u := range r.L2Usage() {
			s += sprint(u.UsedBytes/objectBytes) + " "
		}
		return s
	}
	r.expect("two stores", held(), "1 1 ")
	if err := r.RemoveAdapter(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	r.write(keys(2))
	r.sleep(time.Millisecond)
	r.expect("the second is left", held(), "2 ")
	r.Clear(true)
	r.expect("its objects are found", r.fetch(spec(span(0, 3), 1), true), "...")
	full := spec(span(0, 3), 1)
	full.Policy = kv.FetchFull
	r.expect("and loaded", r.fetch(full, false), ".22")
	var none *sm.NoAdapterError
	if err := r.RemoveAdapter(t.Context(), 0); !errors.As(err, &none) || err.Error() != "No L2 adapter with id 0" {
		t.Errorf("removed twice: %v", err)
	}
	if id, err := r.AddAdapter(mockStore); id != 2 || err != nil {
		t.Errorf("AddAdapter = %d, %v; want 2", id, err)
	}
	for _, bad := range []struct{ config, want string }{
		{`{"type": "mock"}`, "L2 adapter ('mock'): max_size_gb must be a positive number"},
		{`{`, "Invalid JSON for L2 adapter: "},
		{`{"type": "x"}`, "L2 adapter: unknown adapter type 'x'. Known: "},
	} {
		if _, err := r.AddAdapter(bad.config); err == nil || !strings.HasPrefix(err.Error(), bad.want) {
			t.Errorf("AddAdapter(%s): %v; want %s", bad.config, err, bad.want)
		}
	}
}

// A store that has work is removed when that has ended, and not before.
func TestRemoveAdapterWaitsForTasks(t *testing.T) {
	closed := false
	f := &stubStore{found: keys(5), hold: true, onClose: func() { closed = true }}
	r := newStubRig(t, f, "", nil)
	r.write(keys(0, 1))
	h, err := r.SubmitPrefetchTask(spec(keys(5), 1), "", false)
	if err != nil {
		t.Fatal(err)
	}
	r.sleep(time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	r.clk.AfterFunc(time.Minute, cancel)
	if err := r.RemoveAdapter(ctx, 0); !errors.Is(err, context.Canceled) || closed {
		t.Fatalf("removed under a store and a load that run: %v, closed %v", err, closed)
	}
	if s := r.Status(); !s.Adapters[0].Draining || s.Tiers[0].Stores != 0 || s.Tiers[0].StoreTasks != 1 || s.Prefetch.InLoad != 1 {
		t.Errorf("status of one that is being removed: %+v", s)
	}
	r.write(keys(2))
	r.expect("nothing new is looked up", r.fetch(spec(keys(5), 1), false), ".")
	r.clk.AfterFunc(time.Minute, func() { f.hold = false; f.env.Notify() })
	if err := r.RemoveAdapter(t.Context(), 0); err != nil || !closed {
		t.Fatalf("RemoveAdapter: %v, closed %v", err, closed)
	}
	r.expect("what was on its way came", r.result(h), "2")
	r.expect("stored", f.keys(), "0 1 5")
	if len(r.L2Usage()) != 0 {
		t.Error("the store is still there")
	}
}

// Close keeps what a store's task reads until the adapter has ended it.
func TestCloseKeepsWhatStoresRead(t *testing.T) {
	f := &stubStore{hold: true}
	r := newStubRig(t, f, "", nil)
	r.write(keys(0))
	r.sleep(time.Millisecond)
	deleted, skipped := 1, 0
	f.onClose = func() { deleted, skipped = r.DeleteL1(keys(0), false) }
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if deleted != 0 || skipped != 1 {
		t.Errorf("while the adapter closes: %d deleted, %d skipped; want it pinned", deleted, skipped)
	}
}

// What is cleared by force is gone at once, but its memory is nobody else's
// before the store and the load that use it have ended.
func TestForcedClearUnderTasks(t *testing.T) {
	f := &stubStore{found: keys(5), hold: true}
	r := newStubRig(t, f, "", nil)
	r.write(keys(0, 1))
	h, err := r.SubmitPrefetchTask(spec(keys(5), 1), "", false)
	if err != nil {
		t.Fatal(err)
	}
	r.sleep(time.Millisecond)
	used := func(what string, objects int64) {
		t.Helper()
		if s := r.Stats(); s.UsedBytes != objects*objectBytes {
			t.Errorf("%s: %d objects' memory is used; want %d", what, s.UsedBytes/objectBytes, objects)
		}
		if err := r.Check(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	used("before", 3)
	r.Clear(true)
	if s := r.Stats(); s.Resident != 0 || s.Staged != 0 {
		t.Errorf("after: %d resident, %d staged", s.Resident, s.Staged)
	}
	used("after", 3)
	r.write(keys(0)) // once more, and pinned once more
	r.sleep(time.Millisecond)
	used("written again", 4)
	f.hold = false
	f.env.Notify()
	r.sleep(time.Millisecond)
	used("when the tasks have ended", 1)
	r.expect("a load that lost its memory is no hit", r.result(h), ".")
	if deleted, _ := r.DeleteL1(keys(0), false); deleted != 1 {
		t.Error("a pin is left")
	}
	used("at the end", 0)
}

// A store that fails task after task has a line every ten seconds, which tells of
// those without one.
func TestFailuresDoNotFloodTheLog(t *testing.T) {
	r := newStubRig(t, &stubStore{fails: true}, "", nil)
	for n := range 12 {
		r.write(keys(n))
		r.sleep(time.Second)
	}
	lines := strings.Count(r.log.String(), "L2 store task failed")
	if lines != 2 || !strings.Contains(r.log.String(), "tasks_before=9 keys_before=9") {
		t.Errorf("%d lines; want 2:\n%s", lines, r.log)
	}
}

// WaitPrefetchStatus returns when the result is there, and gives it once.
func TestWaitPrefetchStatus(t *testing.T) {
	f := &stubStore{found: keys(0), hold: true}
	r := newStubRig(t, f, "", nil)
	submit := func() sm.PrefetchHandle {
		h, err := r.SubmitPrefetchTask(spec(keys(0), 1), "", false)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	h := submit()
	r.clk.AfterFunc(time.Minute, func() { f.hold = false; f.env.Notify() })
	if res, ok := r.WaitPrefetchStatus(t.Context(), h); !ok || res.L2Hits != 1 || r.clk.Now() != int64(time.Minute) {
		t.Errorf("got %+v, %v after %v; want the hit after a minute", res, ok, time.Duration(r.clk.Now()))
	}
	if _, ok := r.WaitPrefetchStatus(t.Context(), h); ok {
		t.Error("a result was given twice")
	}
	if _, ok := r.WaitPrefetchStatus(t.Context(), sm.PrefetchHandle{ID: 99}); ok {
		t.Error("a result of a request that was never made")
	}
	r.Clear(true)
	f.hold = true
	h = submit()
	ctx, cancel := context.WithCancel(t.Context())
	r.clk.AfterFunc(time.Second, cancel)
	if _, ok := r.WaitPrefetchStatus(ctx, h); ok {
		t.Error("a result of a load that hangs")
	}
	f.hold = false
	f.env.Notify()
	if res, ok := r.WaitPrefetchStatus(t.Context(), h); !ok || res.L2Hits != 1 {
		t.Errorf("after the wait was given up: %+v, %v", res, ok)
	}
}

func TestStatus(t *testing.T) {
	r := newRig(t, 16, func(c *sm.Config) { c.L2Adapters = []string{evictingStore("LRU")} })
	r.write(keys(0, 1, 2))
	r.sleep(time.Millisecond)
	r.Clear(true)
	r.write(keys(3))
	r.sleep(time.Millisecond)
	r.expect("two come from the store", r.fetch(spec(keys(3, 0, 1), 1), false), "122")
	if _, err := r.SubmitPrefetchTask(spec(keys(3), 1), "", true); err != nil { // whose result nobody asks for
		t.Fatal(err)
	}
	if _, err := r.ReserveWrite(keys(9), layout, kv.ModeNew); err != nil {
		t.Fatal(err)
	}
	s := r.Status()
	if len(s.Tiers) != 1 || len(s.Adapters) != 1 || !s.Healthy {
		t.Fatalf("got %+v", s)
	}
	tier := s.Tiers[0]
	if tier.Resident != 3 || tier.Staged != 1 || tier.StagingBytes != objectBytes || tier.UsedBytes != 4*objectBytes || tier.CapacityBytes != 16*objectBytes ||
		tier.WriteLocked != 1 || tier.ReadLocked != 3 || tier.Temporary != 2 || tier.WriteTTL != 600*time.Second || tier.ReadTTL != 300*time.Second ||
		tier.Eviction.Policy != "LRU" || !tier.Eviction.Running || tier.Stores != 1 || !tier.Healthy {
		t.Errorf("got %+v", tier)
	}
	if p := s.Prefetch; p.Results != 1 || p.InFlight != 0 || p.MaxInFlight != 8 {
		t.Errorf("got %+v", p)
	}
	a := s.Adapters[0]
	if a.Type != "mock" || !a.Healthy || a.Objects != 4 || a.Locked != 0 || a.UsedBytes != 4*objectBytes || a.CapacityBytes != 10*objectBytes ||
		a.Eviction == nil || a.Eviction.Policy != "LRU" || a.Salts != 1 {
		t.Errorf("got %+v", a)
	}
	if err := r.Close(); err != nil || r.Status().Healthy {
		t.Errorf("after Close (%v) it says that it is healthy", err)
	}
}

// A store is listed page by page: every object once, of one model if asked.
func TestListL2(t *testing.T) {
	r := newRig(t, 16, func(c *sm.Config) { c.L2Adapters = []string{mockStore} })
	r.write(span(0, 5))
	r.sleep(time.Millisecond)
	seen := map[kv.ObjectKey]int64{}
	pages, token := 0, ""
	for pages == 0 || token != "" {
		page, err := r.ListL2(0, "", token, 2)
		if err != nil || len(page.Objects) > 2 {
			t.Fatalf("%d objects, %v", len(page.Objects), err)
		}
		for _, o := range page.Objects {
			seen[o.Key] += o.SizeBytes
		}
		pages++
		token = page.Next
	}
	if len(seen) != 5 || pages != 3 {
		t.Errorf("%d pages of %d objects; want 3 of 5", pages, len(seen))
	}
	for k, size := range seen {
		if size != objectBytes {
			t.Errorf("%v has %d bytes", k, size)
		}
	}
	if page, err := r.ListL2(0, "another", "", 10); err != nil || len(page.Objects) != 0 || page.Next != "" {
		t.Errorf("of another model: %+v, %v", page, err)
	}
	if _, err := r.ListL2(0, "", "", 0); err == nil || err.Error() != "page_size must be positive (got 0)" {
		t.Errorf("a page of nothing: %v", err)
	}
	if _, err := r.ListL2(1, "", "", 1); err == nil {
		t.Error("a store that is not there was listed")
	}
	s := newStubRig(t, &stubStore{}, "", nil)
	if _, err := s.ListL2(0, "", "", 1); !errors.Is(err, l2.ErrNoListing) {
		t.Errorf("a store that does not list: %v", err)
	}
	if u := s.Status().Adapters[0]; u.Objects != -1 || u.Usage != (l2.Usage{}) {
		t.Errorf("a store that reports nothing: %+v", u)
	}
}
