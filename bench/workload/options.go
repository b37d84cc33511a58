package workload

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/lmcache/lmcache-go/event"
	"github.com/lmcache/lmcache-go/internal/clock"
	"github.com/lmcache/lmcache-go/kv"
)

// ErrOptions is wrapped by the errors about options of Run.
var ErrOptions = errors.New("invalid option")

// Defaults of Options.
const (
	DefaultModel                  = "meta-llama/Llama-3.1-8B"
	DefaultPrefillTokensPerSecond = 20_000
	DefaultDecodeTokensPerSecond  = 50
	DefaultCopyBytesPerSecond     = 20e9
	DefaultPollInterval           = time.Millisecond
	DefaultPrefetchTimeout        = 30 * time.Second
)

// Options configures Run.
type Options struct {
	Manager Manager     // required
	Clock   clock.Clock // required: paces the engine

	// Meter measures what calls cost; Clock if nil. With a virtual Clock the
	// machine's clock goes here: simulated calls take no simulated time.
	Meter clock.Clock

	Model string // DefaultModel if empty
	Salt  string // cache salt of all keys

	// Layout of one chunk on one rank; LlamaLayout of the workload's chunk
	// size and Ranks if zero.
	Layout kv.Layout

	// Ranks is the number of tensor-parallel workers, each with keys of its
	// own; 1 if zero.
	Ranks int

	// Speed divides the times of the workload and of the engine's work: 2 runs
	// an hour of traffic, as it is, in half an hour. 1 if zero.
	Speed float64

	MaxRequests int           // requests to run beside those of a warm-up; all if zero
	MaxDuration time.Duration // of workload time: later arrivals are left out; all if zero

	// PrefillTokensPerSecond says how long the engine computes for the tokens
	// of a request that were not hits, before it stores their chunks. A
	// request's prefill does not wait for another's: there are as many engines
	// as it takes. DefaultPrefillTokensPerSecond if zero, no time if negative.
	PrefillTokensPerSecond float64

	// DecodeTokensPerSecond says how long the engine generates the output of a
	// request whose source says what it is, before it stores the chunks that it
	// fills. DefaultDecodeTokensPerSecond if zero, no time if negative.
	DecodeTokensPerSecond float64

	// CopyBytesPerSecond says how long a worker copies between L1 and its
	// device, while it holds the read locks or the reservation.
	// DefaultCopyBytesPerSecond if zero, no time if negative.
	CopyBytesPerSecond float64

	// PollInterval is the time from one query of a prefetch to the next, as
	// it is whatever the Speed; DefaultPollInterval if zero.
	PollInterval time.Duration

	// PrefetchTimeout is when the engine gives a prefetch up and computes the
	// whole prompt; DefaultPrefetchTimeout if zero.
	PrefetchTimeout time.Duration

	Bus      *event.Bus // gets every call but queries as an event; nil for none
	Progress *Progress  // kept current if not nil
}

// LlamaLayout returns the layout of a chunk of Llama-3.1-8B in bfloat16 on one
// of that many ranks, which share the 1,024 elements of its hidden dimension (8
// KV heads of 128) evenly: [2, 32, chunkTokens, 1024 / ranks].
func LlamaLayout(chunkTokens, ranks int) (kv.Layout, error) {
	const layers, kvHeads, headSize = 32, 8, 128
	if ranks < 1 || kvHeads%ranks != 0 {
		return 0, fmt.Errorf("%w: Llama-3.1-8B has %d KV heads, which %d ranks cannot share evenly; give a layout", ErrOptions, kvHeads, ranks)
	}
	bf16, _ := kv.ParseDType("bfloat16")
	return kv.InternLayout(kv.LayoutDesc{
		Shapes: [][]int64{{2, layers, int64(chunkTokens), int64(kvHeads / ranks * headSize)}},
		DTypes: []kv.DType{bf16},
	})
}

// withDefaults fills and checks the options for a workload w.
func (o Options) withDefaults(w Workload) (Options, error) {
	if o.Manager == nil || o.Clock == nil {
		return o, fmt.Errorf("%w: Manager and Clock are required", ErrOptions)
	}
	if o.Meter == nil {
		o.Meter = o.Clock
	}
	if o.Model == "" {
		o.Model = DefaultModel
	}
	setDefault(&o.Ranks, 1)
	setDefault(&o.Speed, 1)
	setDefault(&o.PrefillTokensPerSecond, DefaultPrefillTokensPerSecond)
	setDefault(&o.DecodeTokensPerSecond, DefaultDecodeTokensPerSecond)
	setDefault(&o.CopyBytesPerSecond, DefaultCopyBytesPerSecond)
	setDefault(&o.PollInterval, DefaultPollInterval)
	setDefault(&o.PrefetchTimeout, DefaultPrefetchTimeout)
	switch {
	case o.Ranks < 1 || o.Ranks > 255: // a rank is packed in eight bits
		return o, fmt.Errorf("%w: %d ranks, must be from 1 to 255", ErrOptions, o.Ranks)
	case !(o.Speed > 0) || math.IsInf(o.Speed, 0):
		return o, fmt.Errorf("%w: speed %v, must be above 0", ErrOptions, o.Speed)
	case o.MaxRequests < 0:
		return o, fmt.Errorf("%w: %d requests", ErrOptions, o.MaxRequests)
	case o.MaxDuration < 0:
		return o, fmt.Errorf("%w: duration %v", ErrOptions, o.MaxDuration)
	case math.IsNaN(o.PrefillTokensPerSecond) || math.IsNaN(o.DecodeTokensPerSecond) || math.IsNaN(o.CopyBytesPerSecond):
		return o, fmt.Errorf("%w: a rate that is not a number", ErrOptions)
	case o.PollInterval < 0 || o.PrefetchTimeout < 0:
		return o, fmt.Errorf("%w: a negative poll interval or timeout", ErrOptions)
	case w.Endless() && o.MaxRequests == 0 && o.MaxDuration == 0:
		return o, fmt.Errorf("%w: the workload has no end: give a number of requests or a duration", ErrOptions)
	}
	if o.Layout == 0 {
		var err error
		if o.Layout, err = LlamaLayout(w.ChunkTokens(), o.Ranks); err != nil {
			return o, err
		}
	}
	if o.Layout.Bytes() == 0 {
		return o, fmt.Errorf("%w: a layout of no bytes", ErrOptions)
	}
	return o, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// workTime returns how long amount takes at rate, at the given speed.
func workTime(amount, rate, speed float64) int64 {
	if rate < 0 || amount <= 0 {
		return 0
	}
	// A rate near zero must not overflow: no work takes over a century.
	return int64(min(amount/rate/speed*1e9, 3e18))
}
