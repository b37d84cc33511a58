package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lmcache/lmcache-go/sm"
)

// smFlags are the storage-manager flags, the same set for every command that
// builds a storage manager.
//
// Source: reference lct-v1.md, section 5.3; storage-manager.md, section 9.1.
type smFlags struct {
	cmd      *cobra.Command
	cfg      sm.Config
	sizeGB   float64
	initGB   int64
	managers []string // --l1-manager
	quotas   []string
	unbuilt  []unbuiltFlag
}

func (f *smFlags) define(cmd *cobra.Command) {
	f.cmd = cmd
	f.cfg = sm.DefaultConfig()
	f.initGB = f.cfg.L1.InitSizeBytes >> 30
	section(cmd, "Storage manager, L1", func(flags *pflag.FlagSet) {
		flags.Var(floatValue{&f.sizeGB}, "l1-size-gb", "size of L1 in GiB; this or --l1-manager is required")
		flags.Var(listValue{&f.managers}, "l1-manager", "one of several L1s, as a JSON object with type DRAM, tag and size_gb, and if wanted align_bytes, use_lazy, write_ttl_seconds, read_ttl_seconds and eviction; repeat it in the order in which writes try them. An --l2-adapter says with affinity_tag which it serves")
		boolPair(flags, &f.cfg.L1.UseLazy, "l1-use-lazy", "touch the pages of L1 when they are first used; the capacity is the same either way")
		flags.Var(intValue[int64]{&f.cfg.L1.AlignBytes}, "l1-align-bytes", "alignment of objects in L1, a power of two")
		flags.Var(intValue[int64]{&f.cfg.L1.WriteTTLSeconds}, "l1-write-ttl-seconds", "life of a reservation")
		flags.Var(intValue[int64]{&f.cfg.L1.ReadTTLSeconds}, "l1-read-ttl-seconds", "life of a read lock")
	})
	section(cmd, "Storage manager, eviction from L1", func(flags *pflag.FlagSet) {
		flags.Var(choiceValue{&f.cfg.Eviction.Policy, sm.EvictionPolicies}, "eviction-policy", "what leaves L1 first: LRU, ARC, IsolatedLRU (LRU by cache salt, with --quota), noop (nothing); beyond LMCache's: S3FIFO (one-hit keys first), LeafLRU (LRU that keeps a chunk for as long as one that extends it); required")
		flags.Var(floatValue{&f.cfg.Eviction.Watermark}, "eviction-trigger-watermark", "used share of L1 at which a cycle evicts")
		flags.Var(floatValue{&f.cfg.Eviction.Ratio}, "eviction-ratio", "share of the keys that one cycle evicts")
		flags.Var(quotaValue{listValue{&f.quotas}}, "quota", "budget of a cache salt in GiB, _default for the empty salt; repeat it for more. For IsolatedLRU: in L1, salts without a quota share what the quotas leave")
	})
	section(cmd, "Storage manager, L2", func(flags *pflag.FlagSet) {
		flags.Var(listValue{&f.cfg.L2Adapters}, "l2-adapter", fmt.Sprintf("an L2 store as a JSON object with a type; repeat it for a cascade (docs/l2.md). Its eviction block has eviction_policy (as --eviction-policy), trigger_watermark and eviction_ratio. Types in this build: %s", strings.Join(slices.Sorted(maps.Keys(adapterKinds)), ", ")))
		flags.Var(choiceValue{&f.cfg.StorePolicy, sm.StorePolicies}, "l2-store-policy", "default, or skip_l1: objects leave L1 when they are in L2")
		flags.Var(choiceValue{&f.cfg.PrefetchPolicy, sm.PrefetchPolicies}, "l2-prefetch-policy", "default, or retain: what a prefetch loads stays in L1")
		for _, name := range []string{"l2-store-policy", "l2-prefetch-policy"} {
			flags.Lookup(name).DefValue = "" // keeps "(default default)" out of the help
		}
		flags.Var(intValue[int]{&f.cfg.PrefetchMaxInFlight}, "l2-prefetch-max-in-flight", "prefetches that load from L2 at once")
	})
	section(cmd, "Storage manager: recorded in the configuration, change nothing here", func(flags *pflag.FlagSet) {
		flags.Var(intValue[int64]{&f.initGB}, "l1-init-size-gb", "what LMCache allocates at the start, in GiB")
		flags.Var(intValue[int]{&f.cfg.NotifierIntervalMS}, "periodic-notifier-interval-ms", "tick of LMCache's notifier; below 1 counts as 1")
	})
	f.unbuilt = append(f.unbuilt, defineUnbuilt(cmd, smUnbuilt())...)
}

// boolPair defines --name and --no-name.
func boolPair(flags *pflag.FlagSet, p *bool, name, usage string) {
	def := "off"
	if *p {
		def = "on"
	}
	flags.VarPF(switchValue{p, true}, name, "", usage+" (default "+def+")").NoOptDefVal = "true"
	flags.VarPF(switchValue{p, false}, "no-"+name, "", "the opposite").NoOptDefVal = "true"
	for _, n := range []string{name, "no-" + name} {
		flags.Lookup(n).DefValue = "false" // keeps "(default true)" out of the help of both
	}
}

// missing returns the required flags that the command line does not have.
func (f *smFlags) missing() []string {
	if len(f.managers) > 0 {
		return nil // each says its size; who lacks a policy is told with the others' settings
	}
	var names []string
	for _, name := range []string{"l1-size-gb", "eviction-policy"} {
		if !f.cmd.Flags().Changed(name) {
			names = append(names, "--"+name)
		}
	}
	return names
}

// config returns what the flags say, or a usage error.
func (f *smFlags) config() (sm.Config, error) {
	if err := checkUnbuilt(f.cmd, f.unbuilt); err != nil {
		return sm.Config{}, err
	}
	c := f.cfg
	var err error
	if len(f.managers) > 0 {
		return f.severalL1()
	}
	if c.L1.SizeBytes, err = sm.SizeBytes("--l1-size-gb", f.sizeGB); err != nil {
		return c, settingError(err)
	}
	if c.L1.InitSizeBytes, err = sm.SizeBytes("--l1-init-size-gb", float64(f.initGB)); err != nil {
		return c, settingError(err)
	}
	c.Quotas = nil
	for _, text := range f.quotas {
		q, err := sm.ParseQuota(text)
		if err != nil {
			return c, settingError(err)
		}
		c.Quotas = append(c.Quotas, q)
	}
	c.NotifierIntervalMS = max(c.NotifierIntervalMS, 1)
	if err := c.Validate(adapterKinds); err != nil {
		return c, settingError(err)
	}
	return c, nil
}

// severalL1 is config with --l1-manager. LMCache refuses --l1-size-gb beside it
// and drops other flags of a single L1 without a word; here all are refused,
// unless they say the default.
func (f *smFlags) severalL1() (sm.Config, error) {
	c := f.cfg
	def := sm.DefaultConfig()
	for _, flag := range []struct {
		name  string
		given bool
	}{
		{"l1-size-gb", true},
		{"l1-use-lazy", c.L1.UseLazy != def.L1.UseLazy},
		{"no-l1-use-lazy", c.L1.UseLazy != def.L1.UseLazy},
		{"l1-align-bytes", c.L1.AlignBytes != def.L1.AlignBytes},
		{"l1-init-size-gb", f.initGB != def.L1.InitSizeBytes>>30},
	} {
		if flag.given && f.cmd.Flags().Changed(flag.name) {
			return c, usagef("argument --%s: not allowed with argument --l1-manager (Use either --l1-manager or legacy L1 flags)", flag.name)
		}
	}
	var err error
	if c.L1Managers, err = sm.ParseL1Managers(f.managers, sm.L1Manager{L1: c.L1, Eviction: c.Eviction}); err != nil {
		return c, settingError(err)
	}
	c.NotifierIntervalMS = max(c.NotifierIntervalMS, 1)
	if err := c.Validate(adapterKinds); err != nil {
		return c, settingError(err)
	}
	return c, nil
}

// smUnbuilt are the storage-manager flags of LMCache 0.5.6 that this build
// does not have.
func smUnbuilt() []unbuiltFlag {
	const (
		gds = "there is no GPU-direct storage"
	)
	return []unbuiltFlag{
		boolUnbuilt("l1-use-hugepages", false, "L1 uses the system's normal pages"),
		boolUnbuilt("no-l1-use-hugepages", false, ""),
		{name: "l1-devdax-path", value: textValue(""), reason: "there is no Device-DAX L1"},
		{name: "gds-l1-path", value: textValue(""), reason: gds},
		boolUnbuilt("gds-l1-use-direct-io", false, ""),
		boolUnbuilt("no-gds-l1-use-direct-io", false, gds),
		{name: "gds-l1-backend", value: choiceValue{ptr("auto"), []string{"auto", "cufile", "hipfile", "mufile", "phx", "ugds"}}, reason: gds},
	}
}
