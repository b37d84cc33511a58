package telemetry

import (
	"fmt"
	"log/slog"

	"github.com/lmcache/lmcache-go/event"
)

// trail logs events at DEBUG, in LMCache's words.
//
// Source: reference observability.md, section 5.3.
type trail struct{ log *slog.Logger }

func (t *trail) Name() string { return "LoggingSubscriber" }

func (t *trail) Events() event.Set {
	return event.SetOf(event.L1ReadReserved, event.L1ReadFinished, event.L1WriteReserved, event.L1WriteFinished,
		event.L1WriteFinishedAndRead, event.L1KeysEvicted, event.SMReadPrefetchedFinished, event.SMWriteReserved,
		event.SMWriteFinished, event.L2StoreSubmitted, event.L2StoreCompleted, event.L2LookupSubmitted,
		event.L2LoadSubmitted, event.L2LoadCompleted, event.L2KeysEvicted, event.TimeoutRaised,
		event.LookupStart, event.LookupEnd, event.StoreStart, event.StoreEnd, event.RetrieveStart, event.RetrieveEnd)
}

func (t *trail) Handle(e *event.Event) error {
	keys := func(what string) { t.log.Debug(fmt.Sprintf("%s: %d keys", what, len(e.Keys))) }
	both := func(what string) {
		t.log.Debug(fmt.Sprintf("%s: %d succeeded, %d failed", what, len(e.Keys), len(e.Failed)))
	}
	switch e.Type {
	case event.L1ReadReserved:
		keys("L1 read reserved")
	case event.L1ReadFinished:
		keys("L1 read finished")
	case event.L1WriteReserved:
		keys("L1 write reserved")
	case event.L1WriteFinished:
		keys("L1 write finished")
	case event.L1WriteFinishedAndRead:
		keys("L1 write finished and read reserved")
	case event.L1KeysEvicted:
		keys("L1 eviction")
	case event.L2KeysEvicted:
		keys("L2 eviction")
	case event.SMReadPrefetchedFinished:
		both("SM read prefetched finished")
	case event.SMWriteReserved:
		both("SM write reserved")
	case event.SMWriteFinished:
		both("SM write finished")
	case event.L2StoreSubmitted:
		t.log.Debug(fmt.Sprintf("L2 store submitted: %d keys to adapter %d", len(e.Keys), e.Adapter))
	case event.L2StoreCompleted:
		t.log.Debug(fmt.Sprintf("L2 store completed: adapter %d, %d succeeded, %d failed", e.Adapter, e.Count, e.Lost))
	case event.L2LookupSubmitted:
		t.log.Debug(fmt.Sprintf("L2 prefetch lookup submitted: request %d, %d keys to %d adapters", e.RequestID, len(e.Keys), e.Adapters))
	case event.L2LoadSubmitted:
		t.log.Debug(fmt.Sprintf("L2 prefetch load submitted: request %d, %d keys to %d adapters", e.RequestID, len(e.Keys), e.Adapters))
	case event.L2LoadCompleted:
		t.log.Debug(fmt.Sprintf("L2 prefetch load completed: request %d, %d loaded, %d failed", e.RequestID, len(e.Keys), len(e.Failed)))
	case event.LookupStart:
		t.log.Debug(fmt.Sprintf("MP lookup/prefetch start: session=%s", e.Session))
	case event.LookupEnd:
		t.log.Debug(fmt.Sprintf("MP lookup/prefetch end: session=%s found_count=%d", e.Session, e.Count))
	case event.StoreStart:
		t.log.Debug(fmt.Sprintf("MP store start: session=%s device=%s", e.Session, e.Served.DeviceName()))
	case event.StoreEnd:
		t.log.Debug(fmt.Sprintf("MP store end: session=%s device=%s stored_count=%d", e.Session, e.Served.DeviceName(), e.Count))
	case event.RetrieveStart:
		t.log.Debug(fmt.Sprintf("MP retrieve start: session=%s device=%s", e.Session, e.Served.DeviceName()))
	case event.RetrieveEnd:
		t.log.Debug(fmt.Sprintf("MP retrieve end: session=%s device=%s retrieved_count=%d", e.Session, e.Served.DeviceName(), e.Count))
	case event.TimeoutRaised:
		t.log.Warn(fmt.Sprintf("Timeout raised (%s): %s", e.Reason, e.Text))
	}
	return nil
}
