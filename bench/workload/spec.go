package workload

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Kind is a kind of workload.
type Kind string

// The kinds that exist.
const (
	Mooncake Kind = "mooncake" // a request trace of Mooncake's FAST'25 release
	Agentic  Kind = "agentic"  // sessions of coding agents, as kv-cache-tester publishes them
	Chat     Kind = "chat"     // synthetic multi-round chat
)

// Spec names a workload, as the command line does.
type Spec struct {
	Kind Kind
	Path string // mooncake, agentic: the file
	Seed uint64 // chat
}

// ErrSpec is wrapped by the errors of ParseSpec.
var ErrSpec = errors.New("invalid workload")

// ParseSpec reads mooncake:FILE, agentic:FILE or chat:SEED. It looks at the
// text only: whether the file exists and what it holds is for Open.
func ParseSpec(s string) (Spec, error) {
	kind, rest, found := strings.Cut(s, ":")
	switch Kind(kind) {
	case Mooncake, Agentic:
		if rest == "" {
			return Spec{}, fmt.Errorf("%w %q: want %s:FILE", ErrSpec, s, kind)
		}
		return Spec{Kind: Kind(kind), Path: rest}, nil
	case Chat:
		seed, err := strconv.ParseUint(rest, 10, 64)
		if !found || err != nil {
			return Spec{}, fmt.Errorf("%w %q: want chat:SEED with a seed from 0 to 2^64-1", ErrSpec, s)
		}
		return Spec{Kind: Chat, Seed: seed}, nil
	}
	return Spec{}, fmt.Errorf("%w %q: want mooncake:FILE, agentic:FILE or chat:SEED", ErrSpec, s)
}

// String gives the form that ParseSpec reads.
func (s Spec) String() string {
	if s.Kind == Chat {
		return fmt.Sprintf("%s:%d", s.Kind, s.Seed)
	}
	return string(s.Kind) + ":" + s.Path
}

// SourceOptions configures Open. The zero value is the default.
type SourceOptions struct {
	// ChunkTokens is the number of tokens of a chunk; 256 if zero. It must
	// divide a file's block size or be a multiple of it.
	ChunkTokens int
	// SessionsPerHour is the rate of the Poisson process at which sessions of
	// an agentic workload start; 60 if zero.
	SessionsPerHour float64
	// ArrivalSeed is the seed of that process.
	ArrivalSeed uint64
}

const (
	defaultChunkTokens     = 256
	defaultSessionsPerHour = 60
)

func (o SourceOptions) withDefaults() (SourceOptions, error) {
	if o.ChunkTokens == 0 {
		o.ChunkTokens = defaultChunkTokens
	}
	if o.SessionsPerHour == 0 {
		o.SessionsPerHour = defaultSessionsPerHour
	}
	if o.ChunkTokens < 1 {
		return o, fmt.Errorf("chunks of %d tokens, at least 1", o.ChunkTokens)
	}
	// The bounds keep a gap between sessions above a nanosecond and a file of
	// them within an int64 of nanoseconds.
	if !(o.SessionsPerHour >= 1e-3 && o.SessionsPerHour <= 1e9) {
		return o, fmt.Errorf("%v sessions an hour, must be from 0.001 to 1e9", o.SessionsPerHour)
	}
	return o, nil
}

// Open opens the workload. The caller must Close it. An error about a file
// names it; one about a line is a *LineError.
func (s Spec) Open(opt SourceOptions) (Workload, error) {
	opt, err := opt.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("open workload %s: %w", s, err)
	}
	switch s.Kind {
	case Mooncake:
		return openMooncake(s.Path, opt)
	case Agentic:
		return openAgentic(s.Path, opt)
	case Chat:
		return newChat(s.Seed, opt.ChunkTokens), nil
	}
	return nil, fmt.Errorf("%w %q: unknown kind", ErrSpec, s)
}
