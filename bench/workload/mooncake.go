package workload

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"strconv"
)

// mooncakeBlock is the block size of Mooncake's traces in tokens.
//
// Source: Mooncake FAST'25 release, traces: "hash_ids: prefix block ids, 512
// tokens a block".
const mooncakeBlock = 512

// maxArrivalS bounds an arrival time, so that no sum of two of them leaves an
// int64 of nanoseconds: about 31 years.
const maxArrivalS = 1e9

// mooncake reads a request trace: one JSON object a line, in order of arrival.
type mooncake struct {
	in   *lines
	grid grid
	req  Request
	ids  blockIDs
	next int // requests given
	err  error
}

func openMooncake(path string, opt SourceOptions) (*mooncake, error) {
	g, err := newGrid(mooncakeBlock, opt.ChunkTokens)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	in, err := openLines(path)
	if err != nil {
		return nil, err
	}
	return &mooncake{in: in, grid: g}, nil
}

func (m *mooncake) Next() bool {
	if m.err != nil {
		return false
	}
	b, err := m.in.next()
	if err == nil {
		err = m.parse(b)
	}
	m.err = err
	return err == nil
}

func (m *mooncake) parse(b []byte) error {
	line, err := parseMooncakeLine(b)
	if err != nil {
		return m.in.fail(err)
	}
	if line.arrivalNS < m.req.ArrivalNS {
		return m.in.errorf("timestamp: %v ms is before the previous line's %v ms",
			float64(line.arrivalNS)/1e6, float64(m.req.ArrivalNS)/1e6)
	}
	m.ids.truncate(0)
	for _, id := range line.ids {
		m.ids.append(run{id, 1})
	}
	m.req = Request{
		ID:           "mooncake-" + strconv.Itoa(m.next),
		ArrivalNS:    line.arrivalNS,
		InputTokens:  line.input,
		OutputTokens: line.output,
		Hashes:       m.grid.appendHashes(m.req.Hashes[:0], string(Mooncake), line.input, &m.ids),
	}
	m.next++
	return nil
}

// mooncakeLine is one request of a trace.
type mooncakeLine struct {
	arrivalNS     int64
	input, output int
	ids           []uint64
}

// parseMooncakeLine reads one line and checks it: all four fields, times and
// counts in bounds, and as many ids as the input has blocks, the last of which
// may be partial.
func parseMooncakeLine(b []byte) (mooncakeLine, error) {
	var raw struct {
		Timestamp    *float64  `json:"timestamp"` // ms
		InputLength  *int      `json:"input_length"`
		OutputLength *int      `json:"output_length"`
		HashIDs      *[]uint64 `json:"hash_ids"`
	}
	if err := json.Unmarshal(b, &raw); err != nil {
		return mooncakeLine{}, err
	}
	var l mooncakeLine
	switch {
	case raw.Timestamp == nil:
		return l, missingField("timestamp")
	case raw.InputLength == nil:
		return l, missingField("input_length")
	case raw.OutputLength == nil:
		return l, missingField("output_length")
	case raw.HashIDs == nil:
		return l, missingField("hash_ids")
	}
	if err := checkTokens("input_length", *raw.InputLength); err != nil {
		return l, err
	}
	if err := checkTokens("output_length", *raw.OutputLength); err != nil {
		return l, err
	}
	ns, err := nanoseconds("timestamp", *raw.Timestamp, 1e6)
	if err != nil {
		return l, err
	}
	l = mooncakeLine{arrivalNS: ns, input: *raw.InputLength, output: *raw.OutputLength, ids: *raw.HashIDs}
	if want := (l.input + mooncakeBlock - 1) / mooncakeBlock; len(l.ids) != want {
		return l, fmt.Errorf("hash_ids: %d ids for %d input tokens, want %d", len(l.ids), l.input, want)
	}
	return l, nil
}

func missingField(name string) error { return fmt.Errorf("%s: missing", name) }

func checkTokens(name string, n int) error {
	if n < 0 || n > maxTokens {
		return fmt.Errorf("%s: %d tokens, must be from 0 to %d", name, n, maxTokens)
	}
	return nil
}

// nanoseconds converts a time of a file, in units of so many ns.
func nanoseconds(name string, t, unit float64) (int64, error) {
	if !(t >= 0 && t*unit <= maxArrivalS*1e9) {
		return 0, fmt.Errorf("%s: %v is out of range", name, t)
	}
	return int64(math.Round(t * unit)), nil
}

func (m *mooncake) Request() *Request { return &m.req }
func (m *mooncake) ChunkTokens() int  { return m.grid.chunk }
func (m *mooncake) Endless() bool     { return false }
func (m *mooncake) Close() error      { return m.in.Close() }

func (m *mooncake) Err() error {
	if m.err == io.EOF {
		return nil
	}
	return m.err
}

func (m *mooncake) Facts() []Fact {
	return []Fact{
		{"Workload", "Mooncake request trace"},
		{"File", filepath.Base(m.in.name)},
		{"Block size (tokens)", strconv.Itoa(mooncakeBlock)},
		{"Arrivals", "as in the file"},
	}
}
