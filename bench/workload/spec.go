package workload

import (
	"errors"
	"fmt"
	"slices"
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

	// Those of LMCache's "bench engine", which PatternOptions configure.
	MultiRoundChat    Kind = "multi-round-chat"
	LongDocQA         Kind = "long-doc-qa"
	LongDocPermutator Kind = "long-doc-permutator"
	PrefixSuffixTuner Kind = "prefix-suffix-tuner"
	RandomPrefill     Kind = "random-prefill"
	KVTierPressure    Kind = "kv-tier-pressure"
)

// PatternKinds are the kinds that PatternOptions configure.
var PatternKinds = []Kind{MultiRoundChat, LongDocQA, LongDocPermutator, PrefixSuffixTuner, RandomPrefill, KVTierPressure}

// Generated reports whether PatternOptions configure the kind.
func (k Kind) Generated() bool { return slices.Contains(PatternKinds, k) }

// SpecForms says what ParseSpec reads.
var SpecForms = func() string {
	forms := "mooncake:FILE, agentic:FILE, chat:SEED"
	for i, k := range PatternKinds {
		if i == len(PatternKinds)-1 {
			return forms + " or " + string(k)
		}
		forms += ", " + string(k)
	}
	return forms
}()

// Spec names a workload, as the command line does.
type Spec struct {
	Kind Kind
	Path string // mooncake, agentic: the file
	Seed uint64 // chat
}

// ErrSpec is wrapped by the errors of ParseSpec.
var ErrSpec = errors.New("invalid workload")

// ParseSpec reads mooncake:FILE, agentic:FILE, chat:SEED, or the name of a kind
// that PatternOptions configure. It looks at the text only: whether the file exists and what it holds is for Open.
func ParseSpec(s string) (Spec, error) {
	kind, rest, found := strings.Cut(s, ":")
	if Kind(kind).Generated() {
		if found {
			return Spec{}, fmt.Errorf("%w %q: want %s alone", ErrSpec, s, kind)
		}
		return Spec{Kind: Kind(kind)}, nil
	}
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
	return Spec{}, fmt.Errorf("%w %q: want %s", ErrSpec, s, SpecForms)
}

// String gives the form that ParseSpec reads.
func (s Spec) String() string {
	switch {
	case s.Kind == Chat:
		return fmt.Sprintf("%s:%d", s.Kind, s.Seed)
	case s.Kind.Generated():
		return string(s.Kind)
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
	// Pattern has the parameters of the generated workloads; DefaultPatternOptions
	// if nil.
	Pattern *PatternOptions
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
	if o.Pattern == nil {
		pattern := DefaultPatternOptions()
		o.Pattern = &pattern
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
	if s.Kind.Generated() {
		return newPattern(s.Kind, opt.ChunkTokens, *opt.Pattern)
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
