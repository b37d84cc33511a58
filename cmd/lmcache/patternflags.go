package main

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lmcache/lmcache-go/bench/workload"
)

// patternFlags are the flags of the generated workloads, under the names of
// LMCache's "bench engine".
type patternFlags struct {
	options workload.PatternOptions
	seed    int64
	shuffle string
	kinds   map[string][]workload.Kind // of a flag: those that it is of use to
}

// define adds the flags to cmd, a section for each workload.
func (f *patternFlags) define(cmd *cobra.Command) {
	f.options = workload.DefaultPatternOptions()
	f.seed, f.shuffle = int64(f.options.Seed), "random"
	f.kinds = map[string][]workload.Kind{}
	o := &f.options
	group := func(title string, kinds []workload.Kind, define func(*pflag.FlagSet)) {
		section(cmd, title, func(flags *pflag.FlagSet) {
			define(flags)
			flags.VisitAll(func(flag *pflag.Flag) { f.kinds[flag.Name] = kinds })
		})
	}
	of := func(kind workload.Kind, define func(*pflag.FlagSet)) {
		group("Workload "+string(kind), []workload.Kind{kind}, define)
	}
	count := func(p *int) pflag.Value { return countValue[int]{p} }
	group("Generated workloads", workload.PatternKinds, func(flags *pflag.FlagSet) {
		flags.Var(naturalValue[int64]{&f.seed}, "seed", "of all that is drawn")
	})
	sized := []workload.Kind{workload.MultiRoundChat, workload.LongDocQA, workload.PrefixSuffixTuner, workload.KVTierPressure}
	group("Generated workloads", sized, func(flags *pflag.FlagSet) {
		flags.Var(positiveValue{&o.TokensPerGB}, "tokens-per-gb-kvcache", "tokens whose KV cache, on all ranks, takes 2^30 bytes (default that of the layout)")
	})
	group("Generated workloads", []workload.Kind{workload.MultiRoundChat, workload.LongDocQA}, func(flags *pflag.FlagSet) {
		flags.Var(positiveValue{&o.VolumeGB}, "kv-cache-volume", "multi-round-chat, long-doc-qa: size of the working set in GiB")
	})
	of(workload.MultiRoundChat, func(flags *pflag.FlagSet) {
		c := &o.MultiRoundChat
		flags.Var(count(&c.SharedPrompt), "mrc-shared-prompt-length", "tokens of a user's system prompt")
		flags.Var(count(&c.ChatHistory), "mrc-chat-history-length", "tokens said before the first round")
		flags.Var(count(&c.UserInput), "mrc-user-input-length", "tokens of a question")
		flags.Var(count(&c.Output), "mrc-output-length", "tokens of an answer")
		flags.Var(positiveValue{&c.QPS}, "mrc-qps", "requests a second, of one user after the other")
		flags.Var(positiveValue{&c.DurationS}, "mrc-duration", "seconds")
	})
	of(workload.LongDocQA, func(flags *pflag.FlagSet) {
		q := &o.LongDocQA
		flags.Var(count(&q.Document), "ldqa-document-length", "tokens of a document")
		flags.Var(count(&q.QueriesPerDocument), "ldqa-query-per-document", "questions about each")
		flags.Var(choiceValue{&f.shuffle, []string{"random", "tile"}}, "ldqa-shuffle-policy", "random, or tile: a question about every document, then the next")
		flags.Var(count(&q.InFlight), "ldqa-num-inflight-requests", "requests at once at most")
		flags.Var(count(&q.Output), "ldqa-max-output-length", "tokens of an answer")
	})
	of(workload.LongDocPermutator, func(flags *pflag.FlagSet) {
		l := &o.LongDocPermutator
		flags.Var(count(&l.Contexts), "ldp-num-contexts", "documents of every request")
		flags.Var(count(&l.Context), "ldp-context-length", "tokens of a document")
		flags.Var(naturalValue[int]{&l.SystemPrompt}, "ldp-system-prompt-length", "tokens in front of them, 0 for none")
		flags.Var(count(&l.Permutations), "ldp-num-permutations", "orders, as far as there are so many")
		flags.Var(count(&l.InFlight), "ldp-num-inflight-requests", "requests at once at most")
		flags.Var(count(&l.Output), "ldp-max-output-length", "tokens of an answer")
	})
	of(workload.PrefixSuffixTuner, func(flags *pflag.FlagSet) {
		t := &o.PrefixSuffixTuner
		flags.Var(count(&t.Context), "psf-context-length", "tokens of a request")
		flags.Var(positiveValue{&t.PrefixRatio}, "psf-prefix-ratio", "share of the prefix, below 1")
		flags.Var(positiveValue{&t.ThrashGB}, "psf-thrash", "size in GiB of the tier that the prefixes exceed by 5 %")
	})
	of(workload.RandomPrefill, func(flags *pflag.FlagSet) {
		flags.Var(count(&o.RandomPrefill.Length), "rp-request-length", "tokens of a request")
		flags.Var(count(&o.RandomPrefill.Requests), "rp-num-requests", "requests, all at once")
	})
	of(workload.KVTierPressure, func(flags *pflag.FlagSet) {
		k := &o.KVTierPressure
		flags.Var(count(&k.Pool), "ktp-pool-size", "documents (default as many as exceed L1 by --ktp-overflow)")
		flags.Var(positiveValue{&k.Overflow}, "ktp-overflow", "working set by size of L1")
		flags.Var(count(&k.PerRequest), "ktp-docs-per-request", "different documents of a request")
		flags.Var(count(&k.Document), "ktp-context-length", "tokens of a document")
		flags.Var(naturalValue[int]{&k.SystemPrompt}, "ktp-system-prompt-length", "tokens in front of them, 0 for none")
		flags.Var(count(&k.Requests), "ktp-num-requests", "requests behind the sweep that fills the cache")
		flags.Var(skewValue{&k.Skew}, "ktp-skew", "exponent of Zipf's law by which documents are drawn; 0 is uniform")
		flags.Var(count(&k.InFlight), "ktp-num-inflight-requests", "requests at once at most")
	})
}

// resolve returns the options for a workload. A flag that it does not use is a
// usage error. bytesPerToken is what the KV cache of a token takes on all ranks.
func (f *patternFlags) resolve(cmd *cobra.Command, spec workload.Spec, bytesPerToken float64) (*workload.PatternOptions, error) {
	var unused string
	cmd.Flags().Visit(func(flag *pflag.Flag) {
		if kinds, ok := f.kinds[flag.Name]; ok && unused == "" && !slices.Contains(kinds, spec.Kind) {
			unused = flag.Name
		}
	})
	switch {
	case unused != "" && spec.Kind == "":
		return nil, usagef("argument --%s: not allowed without a generated workload", unused)
	case unused != "":
		return nil, usagef("argument --%s: not allowed with workload %s", unused, spec.Kind)
	}
	if cmd.Flags().Changed("ktp-pool-size") {
		for _, other := range []string{"ktp-overflow", "tokens-per-gb-kvcache"} {
			if cmd.Flags().Changed(other) {
				return nil, usagef("argument --%s: not allowed with argument --ktp-pool-size", other)
			}
		}
	}
	o := &f.options
	o.Seed, o.LongDocQA.Tile = uint64(f.seed), f.shuffle == "tile"
	if o.TokensPerGB == 0 {
		o.TokensPerGB = (1 << 30) / bytesPerToken
	}
	if r := o.PrefixSuffixTuner.PrefixRatio; r >= 1 {
		return nil, usagef("argument --psf-prefix-ratio: invalid value: %v (allowed: above 0 and below 1)", r)
	}
	return o, nil
}

// needsL1 reports whether the options of a workload follow from the size of L1.
func (f *patternFlags) needsL1(k workload.Kind) bool {
	return k == workload.KVTierPressure && f.options.KVTierPressure.Pool == 0
}

// naturalValue is an integer from 0 on.
type naturalValue[T int | int64] struct{ p *T }

func (v naturalValue[T]) Type() string   { return "INT" }
func (v naturalValue[T]) String() string { return intValue[T](v).String() }
func (v naturalValue[T]) Set(s string) error {
	var n T
	if err := (intValue[T]{&n}).Set(s); err != nil {
		return err
	}
	if n < 0 {
		return fmt.Errorf("invalid value: %d (allowed: 0 or more)", n)
	}
	*v.p = n
	return nil
}

// positiveValue is a finite number above 0.
type positiveValue struct{ p *float64 }

func (v positiveValue) Type() string { return "FLOAT" }
func (v positiveValue) String() string {
	if *v.p == 0 {
		return "" // the help says what the default is
	}
	return floatValue(v).String()
}
func (v positiveValue) Set(s string) error {
	var n float64
	if err := (floatValue{&n}).Set(s); err != nil {
		return err
	}
	if !(n > 0) || math.IsInf(n, 0) {
		return fmt.Errorf("invalid value: %s (allowed: above 0)", strings.TrimSpace(s))
	}
	*v.p = n
	return nil
}

// skewValue is an exponent of Zipf's law.
type skewValue struct{ p *float64 }

func (v skewValue) Type() string   { return "FLOAT" }
func (v skewValue) String() string { return floatValue(v).String() }
func (v skewValue) Set(s string) error {
	var n float64
	if err := (floatValue{&n}).Set(s); err != nil {
		return err
	}
	if !(n >= 0 && n <= 100) {
		return fmt.Errorf("invalid value: %s (allowed: 0 to 100)", strings.TrimSpace(s))
	}
	*v.p = n
	return nil
}
