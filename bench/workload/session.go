package workload

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// session is one agent's session: its requests in order of time, those of its
// sub-agents among them. It holds block ids as runs, each request's as the
// difference from the one before in the same list, which is a few dozen bytes
// a request.
type session struct {
	id       string
	block    int // tokens
	requests []sessionRequest
	lists    []blockIDs // the ids of the last request given, one a list
}

// sessionRequest is one request. Its ids are the first keep ids of the previous
// request of its list, then the runs.
type sessionRequest struct {
	name    string // path of positions in the file's lists
	atNS    int64  // since the start of the session
	in, out int    // tokens
	list    int    // index into session.lists
	keep    int
	runs    []run
}

// sessionJSON is one line of a file, and a sub-agent within it. A request has
// its ids in full (hash_ids) or as a difference (hash_keep, hash_runs).
type sessionJSON struct {
	ID        string         `json:"id"`
	BlockSize int            `json:"block_size"`
	Scope     string         `json:"hash_id_scope"`
	Requests  *[]requestJSON `json:"requests"`
}

type requestJSON struct {
	T        *float64       `json:"t"` // s from the start of the session or the sub-agent
	In       *int           `json:"in"`
	Out      *int           `json:"out"`
	HashIDs  *[]uint64      `json:"hash_ids"`
	HashKeep *int           `json:"hash_keep"`
	HashRuns *[][]uint64    `json:"hash_runs"`
	Requests *[]requestJSON `json:"requests"` // of a sub-agent, which is no request itself
}

// parseSession reads one line and checks it: every id list must be decodable
// and cover the input, and the times of a list must not go back.
func parseSession(b []byte) (*session, error) {
	var raw sessionJSON
	if err := json.Unmarshal(b, &raw); err != nil {
		return nil, err
	}
	switch {
	case raw.ID == "":
		return nil, missingField("id")
	case raw.BlockSize < 1 || raw.BlockSize > maxTokens:
		return nil, fmt.Errorf("block_size: %d, must be from 1 to %d", raw.BlockSize, maxTokens)
	case raw.Scope != "local":
		return nil, fmt.Errorf("hash_id_scope: %q, this build reads \"local\"", raw.Scope)
	case raw.Requests == nil:
		return nil, missingField("requests")
	}
	s := &session{id: raw.ID, block: raw.BlockSize}
	if err := s.addList("", 0, *raw.Requests); err != nil {
		return nil, err
	}
	slices.SortStableFunc(s.requests, func(a, b sessionRequest) int {
		return int(min(max(a.atNS-b.atNS, -1), 1))
	})
	return s, nil
}

// addList adds the requests of one list, which starts at baseNS. Sub-agents are
// lists of their own: their ids continue nobody's.
func (s *session) addList(prefix string, baseNS int64, list []requestJSON) error {
	index, previous, lastNS := len(s.lists), blockIDs{}, baseNS
	s.lists = append(s.lists, blockIDs{})
	for i := range list {
		r, name := &list[i], prefix+strconv.Itoa(i)
		atNS, err := r.at(baseNS)
		if err == nil && atNS < lastNS {
			err = fmt.Errorf("t: %v s is before the previous request's", *r.T)
		}
		if err != nil {
			return fmt.Errorf("requests %s: %w", name, err)
		}
		lastNS = atNS
		if r.Requests != nil {
			if err := s.addList(name+".", atNS, *r.Requests); err != nil {
				return err
			}
			continue
		}
		sr, err := r.decode(s.block, &previous)
		if err != nil {
			return fmt.Errorf("requests %s: %w", name, err)
		}
		sr.name, sr.atNS, sr.list = name, atNS, index
		s.requests = append(s.requests, sr)
	}
	return nil
}

func (r *requestJSON) at(baseNS int64) (int64, error) {
	if r.T == nil {
		return 0, missingField("t")
	}
	ns, err := nanoseconds("t", *r.T, 1e9)
	if err == nil && ns > maxArrivalS*1e9-baseNS {
		err = fmt.Errorf("t: %v s after %v s is out of range", *r.T, float64(baseNS)/1e9)
	}
	return baseNS + ns, err
}

// decode checks one request and makes previous its ids.
func (r *requestJSON) decode(block int, previous *blockIDs) (sessionRequest, error) {
	var sr sessionRequest
	switch {
	case r.In == nil:
		return sr, missingField("in")
	case r.Out == nil:
		return sr, missingField("out")
	}
	if err := checkTokens("in", *r.In); err != nil {
		return sr, err
	}
	if err := checkTokens("out", *r.Out); err != nil {
		return sr, err
	}
	sr.in, sr.out = *r.In, *r.Out
	var err error
	switch {
	case r.HashIDs != nil && r.HashKeep == nil && r.HashRuns == nil:
		sr.keep, sr.runs = difference(previous, *r.HashIDs)
	case r.HashIDs == nil && r.HashKeep != nil && r.HashRuns != nil:
		sr.keep = *r.HashKeep
		sr.runs, err = parseRuns(*r.HashRuns)
	default:
		err = errors.New("hash_ids: want either hash_ids or hash_keep and hash_runs")
	}
	if err != nil {
		return sr, err
	}
	if sr.keep < 0 || sr.keep > previous.n {
		return sr, fmt.Errorf("hash_keep: %d, the previous request has %d ids", sr.keep, previous.n)
	}
	previous.replace(sr.keep, sr.runs)
	if full := sr.in / block; previous.n != full && previous.n != (sr.in+block-1)/block {
		return sr, fmt.Errorf("hash_ids: %d ids for %d input tokens, want %d", previous.n, sr.in, full)
	}
	return sr, nil
}

// parseRuns reads [first, count] pairs. No list may have more ids than the
// longest input has tokens.
func parseRuns(pairs [][]uint64) ([]run, error) {
	runs, total := make([]run, 0, len(pairs)), uint64(0)
	for i, p := range pairs {
		if len(p) != 2 {
			return nil, fmt.Errorf("hash_runs: run %d has %d numbers, want first and count", i, len(p))
		}
		if total += min(p[1], maxTokens+1); total > maxTokens || p[0]+p[1] < p[0] {
			return nil, fmt.Errorf("hash_runs: run %d has %d ids from %d on, out of range", i, p[1], p[0])
		}
		runs = append(runs, run{p[0], int(p[1])})
	}
	return runs, nil
}

// difference expresses ids as what they share with previous and the runs after
// that.
func difference(previous *blockIDs, ids []uint64) (keep int, runs []run) {
	at := previous.cursor()
	for keep < len(ids) && keep < previous.n && at.id(keep) == ids[keep] {
		keep++
	}
	var rest blockIDs
	for _, id := range ids[keep:] {
		rest.append(run{id, 1})
	}
	return keep, slices.Clip(rest.runs)
}

// replace keeps the first keep ids and appends runs.
func (b *blockIDs) replace(keep int, runs []run) {
	b.truncate(keep)
	for _, r := range runs {
		b.append(r)
	}
}

// ids returns the block ids of request i. Requests must be asked for in order,
// each once: the answer is made from the previous one's.
func (s *session) ids(i int) *blockIDs {
	r := &s.requests[i]
	ids := &s.lists[r.list]
	ids.replace(r.keep, r.runs)
	return ids
}
