package workload

import (
	"cmp"
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
)

// The distributions of the synthetic chat. They are of the order that public
// chat traces show; docs/workloads.md says what each stands for.
const (
	chatPerSecond    = 0.5 // conversations that begin, a Poisson process
	chatPrompts      = 16  // system prompts; conversations choose one by Zipf's law, exponent 1
	chatMeanRounds   = 6   // geometric
	chatPasteShare   = 0.1 // of messages carry a pasted document
	chatContextLimit = 32768
	chatDecodePerS   = 50.0 // tokens a second, for when an answer has been read
	chatFirstTokenS  = 0.5
)

// logNormal is a log-normal distribution, cut to a range.
type logNormal struct{ median, sigma, low, high float64 }

func (d logNormal) draw(r *rand.Rand) float64 {
	return min(max(d.median*math.Exp(d.sigma*r.NormFloat64()), d.low), d.high)
}

var (
	chatPromptTokens  = logNormal{1200, 0.8, 200, 8000}
	chatMessageTokens = logNormal{60, 1.2, 4, 4096}
	chatPasteTokens   = logNormal{2000, 0.8, 256, 16384}
	chatAnswerTokens  = logNormal{250, 0.8, 8, 2048}
	chatThinkS        = logNormal{20, 1, 1, 600}
)

// Streams of the seed, so that a conversation's course does not depend on how
// it is interleaved with others.
const (
	chatArrivalStream      = iota
	chatPromptStream       // lengths of the system prompts
	chatConversationStream // plus the conversation's number
)

// chat generates conversations without end. A round's prompt is all that was
// said before and a new message, and it arrives when the user has read the last
// answer and written one: at times that do not depend on how the server did.
type chat struct {
	seed    uint64
	chunk   int // tokens
	arrival *rand.Rand
	prompts [chatPrompts]int // tokens
	weights [chatPrompts]float64
	startNS int64 // when the next conversation begins
	begun   int
	running chatQueue
	req     Request
}

// conversation is a running conversation and its next round.
type conversation struct {
	number  int
	rand    *rand.Rand
	prompt  int // index of the system prompt
	round   int
	rounds  int
	context int // tokens of the next round's input
	answer  int // tokens of the next round's output
	dueNS   int64
}

func newChat(seed uint64, chunkTokens int) *chat {
	c := &chat{seed: seed, chunk: chunkTokens, arrival: rand.New(rand.NewPCG(seed, chatArrivalStream))}
	prompts := rand.New(rand.NewPCG(seed, chatPromptStream))
	sum := 0.0
	for i := range c.prompts {
		c.prompts[i] = int(chatPromptTokens.draw(prompts))
		sum += 1 / float64(i+1)
		c.weights[i] = sum
	}
	c.startNS = c.gapNS()
	return c
}

func (c *chat) gapNS() int64 { return int64(c.arrival.ExpFloat64() / chatPerSecond * 1e9) }

func (c *chat) Next() bool {
	for len(c.running) == 0 || c.startNS <= c.running[0].dueNS {
		heap.Push(&c.running, c.begin())
		c.startNS += c.gapNS()
	}
	v := c.running[0]
	c.req = Request{
		ID:           fmt.Sprintf("chat-%d/%d", v.number, v.round),
		ArrivalNS:    v.dueNS,
		InputTokens:  v.context,
		OutputTokens: v.answer,
		Hashes:       c.appendHashes(c.req.Hashes[:0], v),
	}
	if v.advance() {
		heap.Fix(&c.running, 0)
	} else {
		heap.Pop(&c.running)
	}
	return true
}

func (c *chat) begin() *conversation {
	v := &conversation{number: c.begun, dueNS: c.startNS,
		rand: rand.New(rand.NewPCG(c.seed, chatConversationStream+uint64(c.begun)))}
	c.begun++
	at := v.rand.Float64() * c.weights[chatPrompts-1]
	for c.weights[v.prompt] < at {
		v.prompt++
	}
	// The number of trials up to the first success of probability 1/mean.
	v.rounds = 1 + int(math.Log1p(-v.rand.Float64())/math.Log1p(-1.0/chatMeanRounds))
	v.context = c.prompts[v.prompt]
	v.say()
	return v
}

// say adds the user's message and decides on the length of the answer.
func (v *conversation) say() {
	v.context += int(chatMessageTokens.draw(v.rand))
	if v.rand.Float64() < chatPasteShare {
		v.context += int(chatPasteTokens.draw(v.rand))
	}
	v.answer = int(chatAnswerTokens.draw(v.rand))
}

// advance moves to the next round and reports whether there is one: not behind
// the last, nor when the context has grown to its limit.
func (v *conversation) advance() bool {
	v.dueNS += int64((chatFirstTokenS + float64(v.answer)/chatDecodePerS + chatThinkS.draw(v.rand)) * 1e9)
	v.context += v.answer
	v.say()
	v.round++
	return v.round < v.rounds && v.context <= chatContextLimit
}

// appendHashes appends the hashes of a round's chunks. Chunks that lie in the
// system prompt are those of all its conversations, the others are the
// conversation's own: what was said once stays, so a position names a prefix.
func (c *chat) appendHashes(dst [][32]byte, v *conversation) [][32]byte {
	prompt := fmt.Sprintf("%s:%d:prompt:%d", Chat, c.seed, v.prompt)
	own := fmt.Sprintf("%s:%d:conversation:%d", Chat, c.seed, v.number)
	shared := c.prompts[v.prompt] / c.chunk
	for i := range v.context / c.chunk {
		space := own
		if i < shared {
			space = prompt
		}
		dst = append(dst, ChunkHash(space, uint64(i), 0))
	}
	return dst
}

func (c *chat) Request() *Request { return &c.req }
func (c *chat) Err() error        { return nil }
func (c *chat) ChunkTokens() int  { return c.chunk }
func (c *chat) Endless() bool     { return true }
func (c *chat) Close() error      { return nil }

func (c *chat) Facts() []Fact {
	return []Fact{
		{"Workload", "synthetic multi-round chat"},
		{"Seed", strconv.FormatUint(c.seed, 10)},
		{"Arrivals", "Poisson, open loop"},
		{"Conversations per hour", strconv.Itoa(chatPerSecond * 3600)},
		{"System prompts", strconv.Itoa(chatPrompts)},
		{"Conversations begun", strconv.Itoa(c.begun)},
	}
}

// chatQueue is a heap of conversations by the time of their next round.
type chatQueue []*conversation

func (q chatQueue) Len() int { return len(q) }
func (q chatQueue) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(q[i].dueNS, q[j].dueNS), cmp.Compare(q[i].number, q[j].number)) < 0
}
func (q chatQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *chatQueue) Push(x any)   { *q = append(*q, x.(*conversation)) }
func (q *chatQueue) Pop() any {
	old := *q
	v := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return v
}
