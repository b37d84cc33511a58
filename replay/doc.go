// Package replay reissues the calls of a trace to a storage manager, at the
// times at which they were recorded, and measures them: latency per operation,
// lag behind the schedule, and what came of the calls (hits by tier, misses,
// refusals, evictions).
//
// [Run] does a replay. A caller first makes sure that the outputs can be
// written ([PrepareOutput], [OpenJSONL]), warns the user ([LogBanner]), counts
// the records, opens the trace and builds the storage manager. Run then goes
// through the records: decode, wait until the record is due, call, account,
// report. One table (handlers.go) has a handler for every operation of the
// schema.
//
// The texts, tables and files are those of LMCache's "trace replay", with ours
// behind them. Where LMCache's percentiles differ by release, the rule of
// 0.5.7rc2 holds; see [Latency].
//
// Source: reference lct-v1.md, sections 5.3 to 5.7.
package replay
