package workload

import (
	"slices"
	"testing"
)

// Property: what is accepted has as many ids as its input has blocks, and times
// and counts in bounds; nothing panics.
func FuzzMooncakeLine(f *testing.F) {
	f.Add([]byte(`{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]}`))
	f.Add([]byte(`{"timestamp": 27482.5, "input_length": 0, "output_length": 0, "hash_ids": []}`))
	f.Add([]byte(`{"timestamp": -1, "input_length": 512, "output_length": 1, "hash_ids": [18446744073709551615]}`))
	f.Add([]byte(`{"hash_ids": null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := parseMooncakeLine(b)
		if err != nil {
			return
		}
		if l.arrivalNS < 0 || l.input < 0 || l.input > maxTokens || len(l.ids) != (l.input+511)/512 {
			t.Fatalf("got %+v", l)
		}
		var ids blockIDs
		for _, id := range l.ids {
			ids.append(run{id, 1})
		}
		at := ids.cursor()
		for i, id := range l.ids {
			if got := at.id(i); got != id {
				t.Fatalf("id %d as runs: got %d; want %d", i, got, id)
			}
		}
	})
}

// Property: what is accepted gives every request the ids that its input needs,
// in order of time, and the differences that difference finds give them again.
func FuzzSession(f *testing.F) {
	f.Add([]byte(`{"id":"a","block_size":64,"hash_id_scope":"local","requests":[{"t":0.0,"in":11133,"out":139,"hash_keep":0,"hash_runs":[[1,173]]},{"t":13.0,"in":11300,"out":96,"hash_keep":173,"hash_runs":[[174,3]]}]}`))
	f.Add([]byte(`{"id":"b","block_size":64,"hash_id_scope":"local","requests":[{"t":1,"requests":[{"t":0,"in":200,"out":1,"hash_ids":[9,8,7]}]},{"t":1.5,"in":65,"out":1,"hash_ids":[9,8]}]}`))
	f.Add([]byte(`{"id":"c","block_size":1,"hash_id_scope":"local","requests":[{"t":0,"in":3,"out":0,"hash_keep":0,"hash_runs":[[18446744073709551614,1],[5,0],[5,2]]},{"t":1,"in":1,"out":0,"hash_keep":1,"hash_runs":[]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSession(b)
		if err != nil {
			return
		}
		lastNS := int64(0)
		previous := make([]blockIDs, len(s.lists))
		for i := range s.requests {
			r := &s.requests[i]
			if r.atNS < lastNS {
				t.Fatalf("request %s at %d, after one at %d", r.name, r.atNS, lastNS)
			}
			lastNS = r.atNS
			ids := s.ids(i)
			if ids.n < r.in/s.block || ids.n > maxTokens {
				t.Fatalf("request %s: got %d ids for %d tokens", r.name, ids.n, r.in)
			}
			if ids.n > 1<<16 {
				return // too many to spell out in a fuzz test
			}
			list, at := make([]uint64, ids.n), ids.cursor()
			for j := range list {
				list[j] = at.id(j)
			}
			p := &previous[r.list]
			p.replace(difference(p, list))
			if !slices.Equal(p.runs, ids.runs) || p.n != ids.n {
				t.Fatalf("request %s: got %v again; want %v", r.name, p, ids)
			}
		}
	})
}
