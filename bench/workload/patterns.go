package workload

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// Streams of a pattern's seed.
const (
	shuffleStream = iota
	permuteStream
	drawStream // plus the request's number
)

// multiRoundChat: every user has a system prompt and a history of its own, and
// repeats all of it, with what was said since, in each round.
func (p *pattern) multiRoundChat(o *PatternOptions) error {
	c := o.MultiRoundChat
	if err := atLeast(1, c.SharedPrompt, c.ChatHistory, c.UserInput, c.Output); err != nil {
		return err
	}
	if !(c.QPS > 0 && c.DurationS > 0 && c.QPS*c.DurationS <= maxPatternItems) {
		return fmt.Errorf("%v requests a second for %v s", c.QPS, c.DurationS)
	}
	before := c.SharedPrompt + c.ChatHistory
	users, err := items(o.VolumeGB, o.TokensPerGB, before)
	if err != nil {
		return err
	}
	users = max(users, 1)
	p.fact("Users", users)
	p.fact("Tokens before the first round", before)
	p.fact("Requests a second", c.QPS)
	p.warm = series{requests: users, inFlight: 1, prompt: func(i int) prompt {
		return prompt{id: fmt.Sprintf("mrc-%d/warm-up", i), parts: []part{p.part(before+1, "user", i)}, answer: 1}
	}}
	p.measured = series{
		requests: int(math.Ceil(c.QPS * c.DurationS)),
		atNS:     func(i int) int64 { return int64(float64(i) / c.QPS * 1e9) },
		prompt: func(i int) prompt {
			user, round := i%users, i/users
			said := before + (round+1)*(c.UserInput+c.Output)
			return prompt{id: fmt.Sprintf("mrc-%d/%d", user, round), parts: []part{p.part(said, "user", user)}, answer: c.Output, stream: user + 1}
		},
	}
	return nil
}

// questionTokens is the length of a question about a document.
const questionTokens = 32

// longDocQA asks every document several questions.
func (p *pattern) longDocQA(o *PatternOptions) error {
	q := o.LongDocQA
	if err := atLeast(1, q.Document, q.QueriesPerDocument, q.InFlight, q.Output); err != nil {
		return err
	}
	documents, err := items(o.VolumeGB, o.TokensPerGB, q.Document)
	if err != nil {
		return err
	}
	documents = max(documents, 1)
	if documents > maxPatternItems/q.QueriesPerDocument {
		return fmt.Errorf("%d questions about each of %d documents", q.QueriesPerDocument, documents)
	}
	total := documents * q.QueriesPerDocument
	order := func(i int) int { return i }
	policy := "tile"
	if !q.Tile {
		shuffled := rand.New(rand.NewPCG(o.Seed, shuffleStream)).Perm(total)
		order, policy = func(i int) int { return shuffled[i] }, "random"
	}
	p.fact("Documents", documents)
	p.fact("Tokens of a document", q.Document)
	p.fact("Order", policy)
	p.fact("In flight at most", q.InFlight)
	p.warm = series{requests: documents, inFlight: q.InFlight, prompt: func(i int) prompt {
		return prompt{id: fmt.Sprintf("ldqa-%d/warm-up", i), parts: []part{p.part(q.Document, "document", i), p.part(1, "warm-up", i)}, answer: 1}
	}}
	p.measured = series{requests: total, inFlight: q.InFlight, prompt: func(i int) prompt {
		document, question := order(i)%documents, order(i)/documents
		return prompt{
			id: fmt.Sprintf("ldqa-%d/%d", document, question), answer: q.Output,
			parts: []part{p.part(q.Document, "document", document), p.part(questionTokens, "question", document, question), p.part(q.Output, "answer", document, question)},
		}
	}}
	return nil
}

// longDocPermutator sends the same documents in ever different orders.
func (p *pattern) longDocPermutator(o *PatternOptions) error {
	l := o.LongDocPermutator
	if err := errors.Join(atLeast(1, l.Contexts, l.Context, l.Permutations, l.InFlight, l.Output), atLeast(0, l.SystemPrompt)); err != nil {
		return err
	}
	if l.Contexts > 1000 || l.Permutations > maxPatternItems/l.Contexts {
		return fmt.Errorf("%d permutations of %d contexts", l.Permutations, l.Contexts)
	}
	orders := permutations(l.Contexts, l.Permutations, rand.New(rand.NewPCG(o.Seed, permuteStream)))
	p.fact("Contexts", l.Contexts)
	p.fact("Tokens of a context", l.Context)
	p.fact("Tokens of the system prompt", l.SystemPrompt)
	p.fact("In flight at most", l.InFlight)
	p.measured = series{requests: len(orders), inFlight: l.InFlight, prompt: func(i int) prompt {
		parts := []part{p.part(l.SystemPrompt, "system")}
		for _, c := range orders[i] {
			parts = append(parts, p.part(l.Context, "context", c))
		}
		return prompt{id: fmt.Sprintf("ldp-%d", i), parts: append(parts, p.part(l.Output, "answer", i)), answer: l.Output}
	}}
	return nil
}

// permutations returns want different orders of n things, in lexicographic
// order: all if there are no more, a random choice if there are more than ten
// times as many, else the first.
func permutations(n, want int, random *rand.Rand) [][]int {
	exist := 1
	for i := 2; i <= n && exist <= 10*want; i++ {
		exist *= i // at most 10·want·n
	}
	if exist <= 10*want {
		order := make([]int, n)
		for i := range order {
			order[i] = i
		}
		all := [][]int{slices.Clone(order)}
		for len(all) < min(want, exist) {
			nextPermutation(order)
			all = append(all, slices.Clone(order))
		}
		return all
	}
	seen := make(map[string]bool, want)
	chosen := make([][]int, 0, want)
	for len(chosen) < want {
		order := random.Perm(n)
		if name := fmt.Sprint(order); !seen[name] {
			seen[name] = true
			chosen = append(chosen, order)
		}
	}
	slices.SortFunc(chosen, slices.Compare[[]int])
	return chosen
}

// nextPermutation makes order the next in lexicographic order; there must be one.
func nextPermutation(order []int) {
	i := len(order) - 2
	for order[i] > order[i+1] {
		i--
	}
	j := len(order) - 1
	for order[j] < order[i] {
		j--
	}
	order[i], order[j] = order[j], order[i]
	slices.Reverse(order[i+1:])
}

// The fixed figures of prefix-suffix-tuner.
const (
	breakerTokens = 32
	leastSuffix   = 100
	tunerOverflow = 1.05
	tunerPauseNS  = 5e9 // between the passes: LMCache evicts once a second
)

// prefixSuffixTuner goes twice over prefixes that exceed a tier by a little,
// which with LRU is enough for every one of the second pass to miss it.
func (p *pattern) prefixSuffixTuner(o *PatternOptions) error {
	t := o.PrefixSuffixTuner
	if !(t.PrefixRatio > 0 && t.PrefixRatio < 1) {
		return fmt.Errorf("a prefix ratio of %v, must be between 0 and 1", t.PrefixRatio)
	}
	prefix := int(math.Round(float64(t.Context) * t.PrefixRatio))
	suffix := t.Context - prefix - breakerTokens
	if suffix < leastSuffix {
		return fmt.Errorf("a context of %d tokens leaves %d behind a prefix of %d and a breaker of %d, at least %d are needed", t.Context, suffix, prefix, breakerTokens, leastSuffix)
	}
	prefixes, err := items(t.ThrashGB*tunerOverflow, o.TokensPerGB, prefix)
	if err != nil {
		return err
	}
	if prefixes == 0 {
		return fmt.Errorf("a tier of %v GB does not hold a prefix of %d tokens", t.ThrashGB, prefix)
	}
	p.fact("Prefixes", prefixes)
	p.fact("Tokens of a prefix", prefix)
	p.fact("Tokens of the suffix", suffix)
	p.fact("Tier to exceed (GB)", t.ThrashGB)
	pass := func(number int) func(i int) prompt {
		return func(i int) prompt {
			return prompt{id: fmt.Sprintf("psf-%d/%d", i, number), answer: 1, parts: []part{
				p.part(prefix, "prefix", i), p.part(breakerTokens, "breaker", i, number), p.part(suffix+1, "suffix"),
			}}
		}
	}
	p.warm = series{requests: prefixes, inFlight: 1, prompt: pass(0)}
	p.measured = series{requests: prefixes, inFlight: 1, prompt: pass(1), atNS: func(int) int64 { return tunerPauseNS }}
	return nil
}

// randomPrefill sends different prompts, all at once.
func (p *pattern) randomPrefill(o *PatternOptions) error {
	r := o.RandomPrefill
	if err := atLeast(1, r.Length, r.Requests); err != nil {
		return err
	}
	p.fact("Tokens of a request", r.Length)
	p.measured = series{requests: r.Requests, prompt: func(i int) prompt {
		return prompt{id: fmt.Sprintf("rp-%d", i), parts: []part{p.part(r.Length+1, "request", i)}, answer: 1}
	}}
	return nil
}

// kvTierPressure draws documents from a pool that exceeds L1.
func (p *pattern) kvTierPressure(o *PatternOptions) error {
	k := o.KVTierPressure
	if err := errors.Join(atLeast(1, k.PerRequest, k.Document, k.Requests, k.InFlight), atLeast(0, k.Pool, k.SystemPrompt)); err != nil {
		return err
	}
	if !(k.Skew >= 0 && k.Skew <= 100) {
		return fmt.Errorf("a skew of %v, must be from 0 to 100", k.Skew)
	}
	pool := k.Pool
	if pool == 0 {
		var err error
		if pool, err = items(o.L1GB*k.Overflow, o.TokensPerGB, k.Document); err != nil {
			return err
		}
	}
	if pool < k.PerRequest {
		return fmt.Errorf("a pool of %d documents, a request has %d different ones", pool, k.PerRequest)
	}
	p.fact("Documents", pool)
	p.fact("Documents of a request", k.PerRequest)
	p.fact("Tokens of a document", k.Document)
	p.fact("Skew", k.Skew)
	p.fact("In flight at most", k.InFlight)
	made := func(id string, documents []int) prompt {
		parts := []part{p.part(k.SystemPrompt, "system")}
		for _, d := range documents {
			parts = append(parts, p.part(k.Document, "document", d))
		}
		return prompt{id: id, parts: append(parts, part{"answer " + id, 1}), answer: 1}
	}
	p.warm = series{requests: (pool + k.PerRequest - 1) / k.PerRequest, inFlight: k.InFlight, prompt: func(i int) prompt {
		var group []int
		for d := i * k.PerRequest; d < min((i+1)*k.PerRequest, pool); d++ {
			group = append(group, d)
		}
		return made(fmt.Sprintf("ktp-%d/warm-up", i), group)
	}}
	p.measured = series{requests: k.Requests, inFlight: k.InFlight, prompt: func(i int) prompt {
		return made(fmt.Sprintf("ktp-%d", i), draw(pool, k.PerRequest, k.Skew, rand.New(rand.NewPCG(o.Seed, drawStream+uint64(i)))))
	}}
	return nil
}

// draw returns count different numbers below n, drawn one after the other with
// weight 1/(number+1)^skew. Each number waits an exponential time of that rate,
// and the first win (Efraimidis and Spirakis, 2006).
func draw(n, count int, skew float64, random *rand.Rand) []int {
	type candidate struct {
		number int
		logAt  float64 // a number of the least weight waits too long for a float64
	}
	best := make([]candidate, 0, count+1)
	for i := range n {
		c := candidate{i, math.Log(random.ExpFloat64()) + skew*math.Log(float64(i+1))}
		if len(best) == count && c.logAt >= best[count-1].logAt {
			continue
		}
		at, _ := slices.BinarySearchFunc(best, c, func(a, b candidate) int { return cmp.Compare(a.logAt, b.logAt) })
		best = slices.Insert(best, at, c)
		best = best[:min(len(best), count)]
	}
	numbers := make([]int, len(best))
	for i, c := range best {
		numbers[i] = c.number
	}
	return numbers
}
