package main

import (
	"fmt"
	"math"
	"strings"
)

// A row is one goal. Got and floor name a benchmark and a unit of it; the floor
// may be empty.
type row struct {
	what       string
	got, floor key
	goals      []goal // all must hold; none: shown for orientation
}

// A goal is a bound on what was measured, or on its relation to the floor.
type goal struct {
	kind  goalKind
	bound float64
}

type goalKind uint8

const (
	atMost        goalKind = iota // measured ≤ bound
	atLeast                       // measured ≥ bound
	timesFloor                    // measured ≤ bound × floor
	aboveFloor                    // measured ≤ floor + bound
	speedOfFloor                  // floor ≥ bound × measured, of times: that fast as the floor at least
	belowFloorFor                 // floor ≥ bound × measured, where the floor is what we want to be below of
)

func traced(keys, producers int, mode string) key {
	return key{fmt.Sprintf("TracedCall/recording=on/keys=%d/producers=%d/mode=%s", keys, producers, mode), "ns/op"}
}

func callRow(keys, producers int, times float64) row {
	what := fmt.Sprintf("traced call, %s", count(keys, "key"))
	if producers > 1 {
		what += fmt.Sprintf(", %d producers (a call of either)", producers)
	}
	r := row{what: what, got: traced(keys, producers, "call"), floor: traced(keys, producers, "floor")}
	if times > 0 {
		r.goals = []goal{{timesFloor, times}}
	}
	return r
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func drain(keys int, mode string) key {
	return key{fmt.Sprintf("Drain/keys=%d/%s", keys, mode), "ns/op"}
}

func request(op string, inFlight int) key {
	return key{fmt.Sprintf("Requests/op=%s/inflight=%d", op, inFlight), "ns/op"}
}

const (
	write1M  = "Write/objects=1000000"
	write10M = "Write/objects=10000000"

	eviction100k = "Eviction/objects=100000"
	eviction1M   = "Eviction/objects=1000000"
)

// rows are the goals, in the order of the table. Bounds are on the reference
// machine where they are no ratios: two cores.
var rows = []row{
	{"recording off", key{"TracedCall/recording=off/mode=hook", "ns/op"}, key{"TracedCall/recording=off/mode=floor", "ns/op"}, []goal{{aboveFloor, 1}}},
	callRow(1, 1, 2), callRow(16, 1, 2.5), callRow(32, 1, 2.5), callRow(256, 1, 0),
	callRow(1, 2, 0), callRow(16, 2, 0), callRow(32, 2, 0), callRow(256, 2, 0),
	{"traced call, 1 key: allocations", key{traced(1, 1, "call").name, "allocs/op"}, key{}, []goal{{atMost, 0}}},
	{"two writers in a burst against one, 1 key", traced(1, 2, "call"), traced(1, 1, "call"), []goal{{speedOfFloor, 1.6}}},
	{"two writers in a burst against one, 32 keys", traced(32, 2, "call"), traced(32, 1, "call"), []goal{{speedOfFloor, 1.6}}},
	{"the same, 1 key, a recorder for each writer", key{"TracedCall/recording=on/keys=1/producers=2/mode=apart", "ns/op"}, traced(1, 1, "call"), nil},
	{"publish an event, no keys; the floor reads the clock", key{"Publish/keys=0", "ns/op"}, key{"Publish/floor=clock", "ns/op"}, []goal{{atMost, 60}}},
	{"publish an event, 16 keys", key{"Publish/keys=16", "ns/op"}, key{"Publish/floor=clock", "ns/op"}, nil},
	{"publish an event that nobody wants", key{"Publish/wanted=no", "ns/op"}, key{}, nil},
	{"publish an event, 16 keys: allocations", key{"Publish/keys=16", "allocs/op"}, key{}, []goal{{atMost, 0}}},
	{"tail at 5 µs spacing, p99.9", key{"Tail", "p99.9-call-ns"}, key{"Tail", "p99.9-floor-ns"}, []goal{{aboveFloor, 300}}},
	{"tail at 5 µs spacing, p99.99", key{"Tail", "p99.99-call-ns"}, key{"Tail", "p99.99-floor-ns"}, []goal{{aboveFloor, 1000}}},
	{"drain alone, 1 key, known list", drain(1, "lists=repeated/mode=drain"), drain(1, "mode=floor"), []goal{{speedOfFloor, 0.8}}},
	{"drain alone, 32 keys, known list", drain(32, "lists=repeated/mode=drain"), drain(32, "mode=floor"), []goal{{speedOfFloor, 0.8}, {atMost, 250}}},
	{"drain alone, 1 key, new to the block", drain(1, "lists=fresh/mode=drain"), drain(1, "mode=floor"), nil},
	{"drain alone, 32 keys, new to the block", drain(32, "lists=fresh/mode=drain"), drain(32, "mode=floor"), nil},
	{"sustained, 2 producers, 1 key, tmpfs", key{"Sustained/keys=1/out=shm", "Mcalls/s"}, key{}, []goal{{atLeast, 8}}},
	{"sustained, 2 producers, 1 key, disk", key{"Sustained/keys=1/out=tmp", "Mcalls/s"}, key{}, []goal{{atLeast, 8}}},
	{"sustained, 2 producers, 32 keys, tmpfs", key{"Sustained/keys=32/out=shm", "Mcalls/s"}, key{}, []goal{{atLeast, 1}}},
	{"sustained, 2 producers, 32 keys, disk", key{"Sustained/keys=32/out=tmp", "Mcalls/s"}, key{}, []goal{{atLeast, 1}}},
	{"sustained (disk) against the drain alone, 1 key", key{"Sustained/keys=1/out=tmp", "ns/op"}, drain(1, "lists=repeated/mode=drain"), []goal{{speedOfFloor, 0.6}}},
	{"sustained (disk) against the drain alone, 32 keys", key{"Sustained/keys=32/out=tmp", "ns/op"}, drain(32, "lists=repeated/mode=drain"), []goal{{speedOfFloor, 0.6}}},
	{"repeated list of 32 keys beside the frame header", key{"Size/lists=repeated/keys=32", "payload-B/record"}, key{}, []goal{{atMost, 16}}},
	{"bytes on disk, conversation workload", key{"Size/workload=conversation", "B/record"}, key{"Size/workload=conversation", "floor-B/record"}, []goal{{timesFloor, 1.15}}},
	{"bytes on disk, agentic workload", key{"Size/workload=agentic", "B/record"}, key{"Size/workload=agentic", "floor-B/record"}, []goal{{timesFloor, 1.15}}},
	{"bytes of an outcome with its bitmap, conversation", key{"Size/workload=conversation", "outcome-B/record"}, key{}, nil},
	{"bytes of an outcome with its bitmap, agentic", key{"Size/workload=agentic", "outcome-B/record"}, key{}, nil},
	{"pre-scan of an unsealed file", key{"PreScan/loop=scan", "ns/record"}, key{"PreScan/loop=touch", "ns/record"}, []goal{{speedOfFloor, 0.5}}},
	{"trace info, sealed, 200 MB, against process start", key{"Info", "large-ms"}, key{"Info", "start-ms"}, []goal{{atMost, 20}}},
	{"trace info, sealed, 200 MB against 60 kB", key{"Info", "large-ms"}, key{"Info", "small-ms"}, []goal{{timesFloor, 1.25}}},
	{"full decode with checksum, native, 1 key", key{"NativeReader/keys=1/mode=decode", "ns/record"}, key{"NativeReader/keys=1/mode=floor", "ns/record"}, []goal{{atMost, 50}}},
	{"full decode with checksum, native, 32 keys", key{"NativeReader/keys=32/mode=decode", "ns/record"}, key{"NativeReader/keys=32/mode=floor", "ns/record"}, nil},
	{"full decode, lct of 0.4.6, 32 keys", key{"Reader/era=E1", "MB/s"}, key{}, []goal{{atLeast, 500}}},
	{"full decode, lct of 0.5.6, 32 keys", key{"Reader/era=E6", "MB/s"}, key{}, []goal{{atLeast, 500}}},
	{"replay, cost a record, 1 key", key{"Record/keys=1", "ns/record"}, key{}, []goal{{atMost, 1000}}},
	{"replay, cost a record, 16 keys", key{"Record/keys=16", "ns/record"}, key{}, []goal{{atMost, 1000}}},
	{"replay, allocations a cycle of 6 records", key{"Record/keys=16", "allocs/op"}, key{}, []goal{{atMost, 0}}},
	{"pacing at 1 ms, lateness p50", key{"Pacing", "p50-late-ns"}, key{}, []goal{{atMost, 5000}}},
	{"pacing at 1 ms, lateness p99, against time.Sleep", key{"Pacing", "SleepUntil-p99-late-ns"}, key{"Pacing", "time.Sleep-p99-late-ns"}, []goal{{belowFloorFor, 5}}},
	{"replay into an L1 of 1 TiB, peak memory", key{"ReplayMemory", "peak-MiB"}, key{}, []goal{{atMost, 256}}},
	{"reserve + finish of 16 keys, 1 M objects", key{write1M, "ns/write"}, key{}, []goal{{atMost, 10_000}}},
	{"the same with 16 evictions, 1 M objects", key{write1M, "ns/both"}, key{}, []goal{{atMost, 20_000}}},
	{"reserve + finish of 16 keys, 10 M objects against 1 M", key{write10M, "ns/write"}, key{write1M, "ns/write"}, []goal{{atMost, 10_000}, {timesFloor, 1.3}}},
	{"the same with 16 evictions, 10 M objects", key{write10M, "ns/both"}, key{}, []goal{{atMost, 20_000}}},
	{"bookkeeping of a resident object, 1 M objects", key{write1M, "B/object"}, key{}, []goal{{atMost, 128}}},
	{"bookkeeping of a resident object, 10 M objects", key{write10M, "B/object"}, key{}, []goal{{atMost, 128}}},
	{"a forced collection at 10 M objects: processor time of marking", key{write10M, "GC-mark-ns"}, key{}, []goal{{atMost, 5e6}}},
	{"two callers against one, prefetch of 16 hits and release", key{"Callers/op=hits/callers=2", "ns/op"}, key{"Callers/op=hits/callers=1", "ns/op"}, []goal{{speedOfFloor, 1.4}}},
	{"two callers against one, 16 keys written and 16 evicted", key{"Callers/op=write/callers=2", "ns/op"}, key{"Callers/op=write/callers=1", "ns/op"}, nil},
	{"two callers against one, four of the first and one of the second", key{"Callers/op=both/callers=2", "ns/op"}, key{"Callers/op=both/callers=1", "ns/op"}, nil},
	{"calls during eviction of 20 % of 1 M, p99.99", key{eviction1M, "p99.99-evicting-ns"}, key{eviction1M, "p99.99-quiet-ns"}, []goal{{aboveFloor, 1e6}}},
	{"longest hold of L1's lock meanwhile", key{"Hold", "max-evict-ns"}, key{}, []goal{{atMost, 200_000}}},
	{"longest hold where all but 1,000 of 800,000 objects are locked", key{"Hold", "max-locked-ns"}, key{}, []goal{{atMost, 200_000}}},
	// LMCache's own server of 0.5.6 on two cores does 5,570 noops a second one after the other and 26,300 with 64 in
	// flight, 5,100 and 12,500 pings.
	{"noop over the request socket, one at a time", request("noop", 1), key{}, []goal{{atMost, 1e9 / 5_570}}},
	{"noop over the request socket, 64 in flight", request("noop", 64), key{}, []goal{{atMost, 1e9 / 26_300}}},
	{"ping over the request socket, one at a time", request("ping", 1), key{}, []goal{{atMost, 1e9 / 5_100}}},
	{"ping over the request socket, 64 in flight", request("ping", 64), key{}, []goal{{atMost, 1e9 / 12_500}}},
	{"ping over the request socket: allocations", key{request("ping", 64).name, "allocs/op"}, key{}, []goal{{atMost, 0}}},
	{"lookup of 512 tokens, 64 in flight, server recording against not", key{"ServerRecording/load=lookup", "ns/on"}, key{"ServerRecording/load=lookup", "ns/off"}, []goal{{timesFloor, 1.05}}},
	{"sequence of four engines, server recording against not", key{"ServerRecording/load=sequence", "ns/on"}, key{"ServerRecording/load=sequence", "ns/off"}, []goal{{timesFloor, 1.05}}},
	{"lookup of 8192 tokens, taken off its frames", key{"DecodeLookup/tokens=8192", "ns/op"}, key{}, nil},
	{"lookup of 8192 tokens over the request socket to a service that does nothing, 64 in flight", request("lookup8192", 64), key{}, nil},
}

// cells returns the row of the table.
func (r *row) cells(m *measurements) []string {
	cells := []string{r.what, r.goalText(), "not measured", "", "", ""}
	got, spread, ok := m.median(r.got)
	if !ok {
		return cells
	}
	cells[2] = text(got, r.got.unit)
	if n := len(m.values[r.got]); n > 1 {
		cells[2] += fmt.Sprintf(" ± %.0f %%", spread*50)
	}
	var floor float64
	if r.floor.name != "" {
		if floor, _, ok = m.median(r.floor); !ok {
			cells[3] = "not measured"
			return cells
		}
		cells[3] = text(floor, r.floor.unit)
		cells[4] = r.ratio(got, floor)
	}
	if len(r.goals) == 0 {
		return cells
	}
	cells[5] = "yes"
	for _, g := range r.goals {
		if !g.holds(got, floor) {
			cells[5] = "NO"
		}
	}
	return cells
}

func (g goal) holds(got, floor float64) bool {
	switch g.kind {
	case atMost:
		return got <= g.bound
	case atLeast:
		return got >= g.bound
	case timesFloor:
		return got <= g.bound*floor
	case aboveFloor:
		return got <= floor+g.bound
	default:
		return floor >= g.bound*got
	}
}

// ratio says how measured and floor relate, in the sense of the row's goal.
func (r *row) ratio(got, floor float64) string {
	for _, g := range r.goals {
		switch g.kind {
		case aboveFloor:
			return fmt.Sprintf("%+s", text(got-floor, r.got.unit))
		case speedOfFloor, belowFloorFor:
			return quotient(floor, got)
		}
	}
	return quotient(got, floor)
}

func quotient(a, b float64) string {
	if b == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", a/b)
}

func (r *row) goalText() string {
	var list []string
	for _, g := range r.goals {
		switch g.kind {
		case atMost:
			list = append(list, "≤ "+text(g.bound, r.got.unit))
		case atLeast:
			list = append(list, "≥ "+text(g.bound, r.got.unit))
		case timesFloor:
			list = append(list, fmt.Sprintf("≤ %g × floor", g.bound))
		case aboveFloor:
			list = append(list, "≤ floor + "+text(g.bound, r.got.unit))
		case speedOfFloor:
			list = append(list, fmt.Sprintf("≥ %g × floor's rate", g.bound))
		case belowFloorFor:
			list = append(list, fmt.Sprintf("%g × below", g.bound))
		}
	}
	return strings.Join(list, ", ")
}

// text prints a value with the unit that its benchmark's unit stands for.
func text(v float64, unit string) string {
	switch {
	case strings.HasPrefix(unit, "ns/") || strings.HasSuffix(unit, "-ns"):
		for _, u := range []struct {
			ns   float64
			name string
		}{{1e9, "s"}, {1e6, "ms"}, {1e3, "µs"}} {
			if math.Abs(v) >= u.ns {
				return short(v/u.ns) + " " + u.name
			}
		}
		return short(v) + " ns"
	case strings.HasSuffix(unit, "-ms"):
		return short(v) + " ms"
	case strings.HasSuffix(unit, "-MiB"):
		return short(v) + " MiB"
	case strings.HasSuffix(unit, "B/record"), unit == "B/object":
		return short(v) + " B"
	case unit == "allocs/op":
		return short(v)
	case unit == "Mcalls/s":
		return short(v) + " M/s"
	}
	return short(v) + " " + unit
}

// short prints three digits.
func short(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100 || v == math.Trunc(v):
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// released are the figures of LMCache 0.5.6 on a machine of two cores, in
// milliseconds, with up to 100,000 objects and calls of 16 keys.
var released = []struct {
	what     string
	from, to float64
	ours     key
}{
	{"reserve and finish of a write", 0.254, 0.269, key{"Call/op=write", "ns/call"}},
	{"prefetch, all of them hits", 0.130, 0.147, key{"Call/op=hits", "ns/call"}},
	{"prefetch, all of them misses", 0.073, 0.078, key{"Call/op=misses", "ns/call"}},
	{"release of what was read", 0.032, 0.041, key{"Call/op=release", "ns/call"}},
	{"eviction of 20,000 of 100,000", 126, 279, key{eviction100k, "ns/cycle"}},
	{"longest wait of another call meanwhile", 190, 190, key{eviction100k, "max-evicting-ns"}},
}

// releasedCells returns the table of LMCache beside this program.
func releasedCells(m *measurements) [][]string {
	out := [][]string{{"100,000 objects, calls of 16 keys", "LMCache 0.5.6", "here", "faster"}}
	for _, r := range released {
		theirs := text(r.from*1e6, "ns/op")
		if r.to != r.from {
			theirs += " – " + text(r.to*1e6, "ns/op")
		}
		ours, _, ok := m.median(r.ours)
		faster := ""
		if ok {
			faster = short(r.from*1e6/ours) + " ×"
		}
		out = append(out, []string{r.what, theirs, orNone(ok, text(ours, "ns/op")), faster})
	}
	return out
}

// peerCells returns the table of other recorders.
func peerCells(m *measurements) [][]string {
	columns := []struct {
		title           string
		keys, producers int
	}{{"1 key", 1, 1}, {"1 key, 2 producers", 1, 2}, {"32 keys", 32, 1}, {"32 keys, 2 producers", 32, 2}}
	head := []string{"recorder"}
	for _, c := range columns {
		head = append(head, c.title)
	}
	out := [][]string{head}
	for _, name := range []string{"", "lttng-ust", "mutex+bufio", "zerolog", "runtime-trace-log", "runtime-trace-region"} {
		cells := []string{name}
		if name == "" {
			cells[0] = "lmcache, into the ring"
		}
		for _, c := range columns {
			ours, _, ok := m.median(traced(c.keys, c.producers, "call"))
			if name == "" {
				cells = append(cells, orNone(ok, text(ours, "ns/op")))
				continue
			}
			theirs, _, measured := m.median(key{fmt.Sprintf("Peer/peer=%s/keys=%d/producers=%d", name, c.keys, c.producers), "ns/op"})
			cell := text(theirs, "ns/op")
			if ok {
				cell += fmt.Sprintf(" (%s ×)", short(theirs/ours))
			}
			cells = append(cells, orNone(measured, cell))
		}
		out = append(out, cells)
	}
	return out
}

// policyCells returns the table of eviction policies.
func policyCells(m *measurements) [][]string {
	sizes := []int{256, 1024, 4096}
	head := []string{"policy"}
	for _, gib := range sizes {
		head = append(head, fmt.Sprintf("%d GiB", gib))
	}
	out := [][]string{append(head, "an object", "a write", "an eviction")}
	for _, policy := range []string{"LRU", "ARC", "IsolatedLRU", "S3FIFO", "LeafLRU", "noop"} {
		cells := []string{policy}
		for _, gib := range sizes {
			hits, _, ok := m.median(key{fmt.Sprintf("HitRate/l1=%dGiB/policy=%s", gib, policy), "hit-%"})
			cells = append(cells, orNone(ok, fmt.Sprintf("%.2f %%", hits)))
		}
		for _, unit := range []string{"B/object", "ns/write", "ns/evicted"} {
			v, _, ok := m.median(key{"PolicyCost/policy=" + policy, unit})
			switch {
			case policy == "noop":
				cells = append(cells, "")
			case unit == "B/object":
				cells = append(cells, orNone(ok, short(v)+" B"))
			default:
				cells = append(cells, orNone(ok, text(v, unit)))
			}
		}
		out = append(out, cells)
	}
	return out
}

func orNone(ok bool, s string) string {
	if !ok {
		return "not measured"
	}
	return s
}
