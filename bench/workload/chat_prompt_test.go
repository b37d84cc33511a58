package workload

import "testing"

// Conversations of one system prompt share the chunks that lie in it, and no
// others: the chunk behind holds what the user said.
func TestChatSharesPrompts(t *testing.T) {
	c := newChat(5, 256)
	longest := map[int]map[int][][32]byte{} // prompt, conversation: hashes
	for range 500 {
		c.Next()
		for _, v := range c.running {
			if longest[v.prompt] == nil {
				longest[v.prompt] = map[int][][32]byte{}
			}
			longest[v.prompt][v.number] = c.appendHashes(nil, v)
		}
	}
	pairs := 0
	for p, conversations := range longest {
		var before [][32]byte
		for _, hashes := range conversations {
			shared := c.prompts[p] / 256
			if len(hashes) <= shared {
				continue
			}
			if before != nil {
				pairs++
				for i := range min(len(hashes), len(before)) {
					if (hashes[i] == before[i]) != (i < shared) {
						t.Fatalf("prompt %d of %d tokens: chunk %d: got shared %v", p, c.prompts[p], i, hashes[i] == before[i])
					}
				}
			}
			before = hashes
		}
	}
	if pairs < 100 {
		t.Errorf("got %d pairs of conversations to compare", pairs)
	}
}
