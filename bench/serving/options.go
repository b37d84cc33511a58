package serving

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/lmcache/lmcache-go/server/client"
)

// ErrOptions is wrapped by the errors about options.
var ErrOptions = errors.New("invalid option")

// DefaultModel is the model name of LMCache's benchmark.
const DefaultModel = "test-model"

// firstInstance is the instance id of rank 0 of LMCache's benchmark.
const firstInstance = 1000

// Options configures Run and RunWorkload.
type Options struct {
	Endpoint string // such as tcp://localhost:5555; required
	Shape    Shape  // of a rank's memory; required
	// TPSize is the number of simulated tensor-parallel ranks; 1 if zero.
	TPSize int
	// MLA makes all ranks read what rank 0 stores. A Shape of one KV is always so.
	MLA bool

	NumTokens  int   // tokens of a request beside its number; 512 if zero
	Start, End int64 // numbers of the requests, End excluded; without end if negative
	// Interval is the time between the passes of a request, and to the next.
	Interval time.Duration

	// Clients is how many engines there are, each with a connection, memory and
	// instance ids of its own; 1 if zero.
	Clients int
	// FirstInstance is the instance id of rank 0 of the first client; 1000 if zero.
	// Those of the other ranks and clients follow.
	FirstInstance int64

	Model   string        // DefaultModel if empty
	Salt    string        // cache salt of all keys
	Timeout time.Duration // of a request; client.DefaultTimeout if zero

	// Lines takes what LMCache's benchmark prints while it runs; nothing if nil.
	Lines io.Writer
	Notes []string // lines to print behind the shape

	Progress *Progress // kept up to date if not nil
}

func (o Options) withDefaults() (Options, error) {
	set := func(field *int, value int) {
		if *field == 0 {
			*field = value
		}
	}
	set(&o.TPSize, 1)
	set(&o.NumTokens, 512)
	set(&o.Clients, 1)
	if o.FirstInstance == 0 {
		o.FirstInstance = firstInstance
	}
	if o.Model == "" {
		o.Model = DefaultModel
	}
	if o.Timeout == 0 {
		o.Timeout = client.DefaultTimeout
	}
	if o.Lines == nil {
		o.Lines = io.Discard
	}
	if o.Progress == nil {
		o.Progress = new(Progress)
	}
	o.MLA = o.MLA || o.Shape.KV == 1
	switch {
	case o.Endpoint == "" || o.Shape.KV == 0:
		return o, fmt.Errorf("%w: Endpoint and Shape are required", ErrOptions)
	case o.MLA && o.Shape.KV != 1:
		return o, fmt.Errorf("%w: MLA has no separate K and V: the shape must have kv_size 1, not %d", ErrOptions, o.Shape.KV)
	case o.TPSize < 1 || o.TPSize > 255: // a rank is packed in eight bits
		return o, fmt.Errorf("%w: %d ranks, must be from 1 to 255", ErrOptions, o.TPSize)
	case o.NumTokens < 1 || o.Clients < 1 || o.Start < 0 || o.Interval < 0:
		return o, fmt.Errorf("%w: tokens and clients must be at least 1, start and interval at least 0", ErrOptions)
	case max(o.Start, o.End) > 1<<32: // they are tokens
		return o, fmt.Errorf("%w: request numbers above 2^32", ErrOptions)
	}
	return o, nil
}

// worldSize is how many shards a chunk has.
func (o *Options) worldSize() int {
	if o.MLA {
		return 1
	}
	return o.TPSize
}

// readers is how many ranks read each shard.
func (o *Options) readers() int {
	if o.MLA {
		return o.TPSize
	}
	return 1
}
