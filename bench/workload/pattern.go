package workload

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// PatternOptions are the parameters of the generated workloads. Lengths are in
// tokens; a GB is 2^30 bytes. DefaultPatternOptions has the defaults.
//
// Source: reference server-protocol.md, section 8.
type PatternOptions struct {
	Seed uint64
	// VolumeGB is the working set of multi-round-chat and long-doc-qa.
	VolumeGB float64
	// TokensPerGB is how many tokens' KV cache, that of all ranks, a GB holds.
	TokensPerGB float64
	// L1GB is the size of the L1 that kv-tier-pressure is to exceed.
	L1GB float64

	MultiRoundChat    MultiRoundChatOptions
	LongDocQA         LongDocQAOptions
	LongDocPermutator LongDocPermutatorOptions
	PrefixSuffixTuner PrefixSuffixTunerOptions
	RandomPrefill     RandomPrefillOptions
	KVTierPressure    KVTierPressureOptions
}

// MultiRoundChatOptions are those of multi-round-chat.
type MultiRoundChatOptions struct {
	SharedPrompt, ChatHistory, UserInput, Output int
	QPS                                          float64
	DurationS                                    float64
}

// LongDocQAOptions are those of long-doc-qa.
type LongDocQAOptions struct {
	Document, QueriesPerDocument int
	Tile                         bool // questions round by round; shuffled if false
	InFlight, Output             int
}

// LongDocPermutatorOptions are those of long-doc-permutator.
type LongDocPermutatorOptions struct {
	Contexts, Context, SystemPrompt, Permutations int
	InFlight, Output                              int
}

// PrefixSuffixTunerOptions are those of prefix-suffix-tuner.
type PrefixSuffixTunerOptions struct {
	Context     int
	PrefixRatio float64 // of Context
	ThrashGB    float64 // size of the tier that the prefixes exceed by 5 %
}

// RandomPrefillOptions are those of random-prefill.
type RandomPrefillOptions struct{ Length, Requests int }

// KVTierPressureOptions are those of kv-tier-pressure.
type KVTierPressureOptions struct {
	Pool         int     // documents; Overflow of L1 if 0
	Overflow     float64 // working set by size of L1
	PerRequest   int     // documents of a request
	Document     int
	SystemPrompt int
	Requests     int
	Skew         float64 // Zipf exponent; 0 is uniform
	InFlight     int
}

// DefaultPatternOptions returns the defaults of LMCache's "bench engine".
// TokensPerGB and L1GB have none.
func DefaultPatternOptions() PatternOptions {
	return PatternOptions{
		Seed: 42, VolumeGB: 100,
		MultiRoundChat:    MultiRoundChatOptions{SharedPrompt: 2000, ChatHistory: 10000, UserInput: 50, Output: 200, QPS: 1, DurationS: 60},
		LongDocQA:         LongDocQAOptions{Document: 10000, QueriesPerDocument: 2, InFlight: 3, Output: 128},
		LongDocPermutator: LongDocPermutatorOptions{Contexts: 5, Context: 5000, SystemPrompt: 1000, Permutations: 10, InFlight: 1, Output: 128},
		PrefixSuffixTuner: PrefixSuffixTunerOptions{Context: 8000, PrefixRatio: 0.8, ThrashGB: 20},
		RandomPrefill:     RandomPrefillOptions{Length: 10000, Requests: 50},
		KVTierPressure:    KVTierPressureOptions{Overflow: 2, PerRequest: 16, Document: 2560, SystemPrompt: 256, Requests: 200, InFlight: 8},
	}
}

// chatInFlight is how many rounds a chat is served at once: they come at their
// times, whatever the server does.
const chatInFlight = 16

// InFlight returns how many clients it takes for the requests of the kind not to
// wait for one, 0 if it is no generated kind.
func (o *PatternOptions) InFlight(k Kind) int {
	switch k {
	case MultiRoundChat:
		return chatInFlight
	case LongDocQA:
		return o.LongDocQA.InFlight
	case LongDocPermutator:
		return o.LongDocPermutator.InFlight
	case PrefixSuffixTuner:
		return 1
	case RandomPrefill:
		return o.RandomPrefill.Requests
	case KVTierPressure:
		return o.KVTierPressure.InFlight
	}
	return 0
}

// pattern gives the requests of a generated workload: those of a warm-up, then
// those that are measured. None is held: each follows from its number.
type pattern struct {
	name     string // of the workload and its seed, in front of every part's
	chunk    int    // tokens
	warm     series
	measured series
	facts    []Fact

	next int
	req  Request
	err  error
}

// series is requests of one kind, one after the other.
type series struct {
	requests int
	inFlight int                // at most; 0: no bound
	atNS     func(i int) int64  // when it arrives; 0 if nil
	prompt   func(i int) prompt // what it consists of
}

// prompt is what a request consists of. Prompts that begin with the same parts
// begin with the same tokens.
type prompt struct {
	id     string
	parts  []part // answer included
	answer int    // tokens
	stream int
}

// part is so many tokens from the start of a text, which its name stands for.
type part struct {
	name   string
	tokens int
}

// Bounds of a generated workload, so that a slip of the pen cannot ask for
// memory or for numbers that do not fit.
const maxPatternItems = 1 << 28

// newPattern makes the workload of a generated kind.
func newPattern(k Kind, chunk int, o PatternOptions) (*pattern, error) {
	p := &pattern{name: fmt.Sprintf("%s:%d", k, o.Seed), chunk: chunk}
	shape := map[Kind]func(*pattern, *PatternOptions) error{
		MultiRoundChat: (*pattern).multiRoundChat, LongDocQA: (*pattern).longDocQA, LongDocPermutator: (*pattern).longDocPermutator,
		PrefixSuffixTuner: (*pattern).prefixSuffixTuner, RandomPrefill: (*pattern).randomPrefill, KVTierPressure: (*pattern).kvTierPressure,
	}[k]
	p.fact("Workload", string(k))
	p.fact("Seed", o.Seed)
	if err := shape(p, &o); err != nil {
		return nil, fmt.Errorf("%w: workload %s: %w", ErrOptions, k, err)
	}
	if p.measured.requests < 1 || max(p.measured.requests, p.warm.requests) > maxPatternItems {
		return nil, fmt.Errorf("%w: workload %s: %d requests after a warm-up of %d, must be from 1 to %d", ErrOptions, k, p.measured.requests, p.warm.requests, maxPatternItems)
	}
	p.fact("Requests of the warm-up", p.warm.requests)
	p.fact("Requests measured", p.measured.requests)
	return p, nil
}

func (p *pattern) fact(label string, value any) {
	p.facts = append(p.facts, Fact{label, fmt.Sprint(value)})
}

// part returns tokens of the text that is the kind's number i.
func (p *pattern) part(tokens int, kind string, number ...int) part {
	name := append([]byte(p.name), ':')
	name = append(name, kind...)
	for _, n := range number {
		name = strconv.AppendInt(append(name, ':'), int64(n), 10)
	}
	return part{string(name), tokens}
}

// items returns how many things of so many tokens each a working set has.
func items(gb, tokensPerGB float64, tokens int) (int, error) {
	switch {
	case !(tokensPerGB > 0) || math.IsInf(tokensPerGB, 0):
		return 0, fmt.Errorf("%v tokens a GB, must be above 0", tokensPerGB)
	case !(gb > 0) || math.IsInf(gb, 0):
		return 0, fmt.Errorf("a volume of %v GB, must be above 0", gb)
	case tokens < 1:
		return 0, errors.New("a prompt of no tokens")
	}
	n := gb * tokensPerGB / float64(tokens)
	if n > maxPatternItems {
		return 0, fmt.Errorf("%.0f prompts of %d tokens in %v GB, at most %d", n, tokens, gb, maxPatternItems)
	}
	return int(n), nil
}

// atLeast returns an error unless every value is.
func atLeast(low int, values ...int) error {
	for _, v := range values {
		if v < low {
			return fmt.Errorf("%d where at least %d is needed", v, low)
		}
	}
	return nil
}

func (p *pattern) Next() bool {
	i, ph, warm := p.next, &p.warm, true
	if i >= p.warm.requests {
		i, ph, warm = i-p.warm.requests, &p.measured, false
	}
	if i >= ph.requests || p.err != nil {
		return false
	}
	q := ph.prompt(i)
	tokens := 0
	for _, part := range q.parts {
		tokens += part.tokens
	}
	if tokens > maxTokens {
		p.err = fmt.Errorf("request %s has %d tokens, at most %d", q.id, tokens, maxTokens)
		return false
	}
	p.next++
	input := tokens - q.answer
	// Nobody computes the KV of the last token that is generated.
	all := max(tokens-min(q.answer, 1), input) / p.chunk
	hashes := appendPromptHashes(slices.Grow(p.req.Hashes[:0], all), q.parts, p.chunk, all)
	full := input / p.chunk
	p.req = Request{
		ID: q.id, InputTokens: input, OutputTokens: q.answer, Hashes: hashes[:full], Generated: hashes[full:],
		Warmup: warm, Fence: !warm && i == 0 && p.warm.requests > 0, Limit: ph.inFlight, Stream: q.stream,
	}
	if ph.atNS != nil {
		p.req.ArrivalNS = ph.atNS(i)
	}
	return true
}

// appendPromptHashes appends the hashes of the first chunks of a prompt. A hash
// names the chunk's tokens and, through the hash before it, its prefix.
func appendPromptHashes(dst [][32]byte, parts []part, chunk, chunks int) [][32]byte {
	var hash [32]byte
	var text []byte
	used := 0 // tokens of parts[0] that earlier chunks have
	for range chunks {
		text = append(text[:0], hash[:]...)
		for need := chunk; need > 0; {
			n := min(need, parts[0].tokens-used)
			if n > 0 {
				text = append(text, parts[0].name...)
				text = strconv.AppendInt(append(text, ':'), int64(used), 10)
				text = append(strconv.AppendInt(append(text, '+'), int64(n), 10), ';')
			}
			need, used = need-n, used+n
			if used == parts[0].tokens {
				parts, used = parts[1:], 0
			}
		}
		hash = sha256.Sum256(text)
		dst = append(dst, hash)
	}
	return dst
}

func (p *pattern) Request() *Request { return &p.req }
func (p *pattern) Err() error        { return p.err }
func (p *pattern) ChunkTokens() int  { return p.chunk }
func (p *pattern) Endless() bool     { return false }
func (p *pattern) Facts() []Fact     { return p.facts }
func (p *pattern) Close() error      { return nil }

// Requests returns how many requests there are, those of the warm-up included.
func (p *pattern) Requests() int { return p.warm.requests + p.measured.requests }
