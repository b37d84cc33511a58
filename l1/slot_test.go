package l1

import (
	"reflect"
	"testing"
)

// TestSlotSize: what every key costs in the tier's table, of 128 bytes in all.
func TestSlotSize(t *testing.T) {
	if got := reflect.TypeFor[slot]().Size(); got != 32 {
		t.Errorf("a slot takes %d bytes; want 32", got)
	}
}
