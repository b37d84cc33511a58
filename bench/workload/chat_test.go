package workload_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/lmcache/lmcache-go/bench/workload"
)

func TestChatDeterminism(t *testing.T) {
	one := take(t, open(t, "chat:7", workload.SourceOptions{}), 3000)
	same := take(t, open(t, "chat:7", workload.SourceOptions{}), 3000)
	if fmt.Sprint(one) != fmt.Sprint(same) {
		t.Error("the same seed: got other requests")
	}
	other := take(t, open(t, "chat:8", workload.SourceOptions{}), 10)
	if fmt.Sprint(one[:10]) == fmt.Sprint(other) {
		t.Error("another seed: got the same requests")
	}
	for _, r := range other {
		if len(r.Hashes) > 0 && r.Hashes[0] == one[0].Hashes[0] {
			t.Error("another seed: got the same hashes")
		}
	}
}

func TestChatShape(t *testing.T) {
	w := open(t, "chat:1", workload.SourceOptions{})
	if !w.Endless() {
		t.Error("got an end")
	}
	const n = 20000
	last := map[string]workload.Request{} // by conversation
	prompts := map[[32]byte]int{}         // first chunk: conversations that share it
	rounds := map[string]int{}
	lastNS, messages, thinkS := int64(0), []float64{}, 0.0
	for _, r := range take(t, w, n) {
		if r.ArrivalNS < lastNS {
			t.Fatalf("%s arrives at %d, after one at %d", r.ID, r.ArrivalNS, lastNS)
		}
		lastNS = r.ArrivalNS
		if len(r.Hashes) != r.InputTokens/256 || r.OutputTokens < 8 || r.OutputTokens > 2048 {
			t.Fatalf("%s: got %d chunks of %d tokens, %d answered", r.ID, len(r.Hashes), r.InputTokens, r.OutputTokens)
		}
		id, round, _ := strings.Cut(r.ID, "/")
		if want := fmt.Sprint(rounds[id]); round != want {
			t.Fatalf("%s: got round %s; want %s", id, round, want)
		}
		rounds[id]++
		if before, ok := last[id]; ok {
			message := r.InputTokens - before.InputTokens - before.OutputTokens
			gapS := float64(r.ArrivalNS-before.ArrivalNS) / 1e9
			if message < 4 || r.InputTokens > 32768 || gapS < 1.5 {
				t.Fatalf("%s after %v s: got a message of %d tokens, context %d", r.ID, gapS, message, r.InputTokens)
			}
			for i, h := range before.Hashes {
				if r.Hashes[i] != h {
					t.Fatalf("%s: chunk %d is not the previous round's", r.ID, i)
				}
			}
			messages = append(messages, float64(message))
			thinkS += gapS - 0.5 - float64(before.OutputTokens)/50
		} else if len(r.Hashes) > 0 {
			prompts[r.Hashes[0]]++
		}
		last[id] = r
	}
	// 0.5 conversations a second; a conversation has 6 rounds, less what the
	// context limit cuts; think times have mean 20·exp(1/2) = 33 s, less what
	// the bounds cut; the median message has 60 tokens, more with what is pasted.
	perS := float64(len(rounds)) / (float64(lastNS) / 1e9)
	mean := n / float64(len(rounds))
	think := thinkS / float64(len(messages))
	long := 0
	for _, m := range messages {
		if m > 60 {
			long++
		}
	}
	above := float64(long) / float64(len(messages))
	if math.Abs(perS-0.5) > 0.03 || mean < 5 || mean > 6.2 || math.Abs(think-32.5) > 2 || above < 0.5 || above > 0.6 {
		t.Errorf("got %v conversations/s, %v rounds, %v s to think, %v of messages above 60 tokens", perS, mean, think, above)
	}
	// Zipf over 16 prompts: the first has 1/3.38 of the conversations. A prompt
	// shorter than a chunk shares none.
	most := 0
	shared := 0
	for _, k := range prompts {
		most = max(most, k)
		if k > 1 {
			shared++
		}
	}
	if got := float64(most) / float64(len(rounds)); math.Abs(got-0.296) > 0.03 || shared < 14 || shared > 16 {
		t.Errorf("got %d shared prompts, the most frequent in %v of conversations; want about 16, 0.296", shared, got)
	}
}
