"""Drive the released StorageManager step by step and write parity data.

A scenario (scenarios.py) is a function that issues calls through a Driver. The
Driver makes each call on LMCache's public StorageManager from one thread, waits
until the background work it caused is done, runs an eviction cycle where the
scenario has one, and notes the outcome in the form of testdata/parity/README.md.
LMCache's own recorder writes the trace of the same run. A second run without
the recorder must give the same outcomes, or the scenario is refused.

    drive.py OUT [NAME ...]    NAME.lct and NAME.json for each scenario
    drive.py OUT any-lru~7     the same script with another seed
    drive.py --list
"""

import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace

os.environ.setdefault("LMCACHE_LOG_LEVEL", "CRITICAL")

from lmcache.v1.distributed.api import GroupedObjectKeys, PrefetchTaskSpec
from lmcache.v1.distributed.config import parse_args
from lmcache.v1.distributed.error import L1Error
from lmcache.v1.distributed.storage_controllers.eviction_controller import L1EvictionController
from lmcache.v1.distributed.storage_manager import StorageManager
from lmcache.v1.mp_observability.config import ObservabilityConfig
from lmcache.v1.mp_observability.event_bus import EventBusConfig, init_event_bus
from lmcache.v1.mp_observability.trace.decorator import set_tracing_enabled
from lmcache.v1.mp_observability.trace.lifecycle import maybe_initialize_trace_recorder

import scenarios

RESERVE = {L1Error.SUCCESS: "R", L1Error.KEY_NOT_WRITABLE: "P", L1Error.OUT_OF_MEMORY: "M"}
FINISH = {L1Error.SUCCESS: "F", L1Error.KEY_NOT_EXIST: "X", L1Error.KEY_IN_WRONG_STATE: "W"}
READ = {L1Error.SUCCESS: "G", L1Error.KEY_NOT_EXIST: "X", L1Error.KEY_NOT_READABLE: "L"}

SETTLE_SECONDS = 30  # background work that takes longer is a failure


class Driver:
    """One run of one scenario."""

    def __init__(self, scenario, trace_path):
        self.scenario = scenario
        self.l2_dir = tempfile.mkdtemp(prefix="l2-") if "@L2DIR@" in " ".join(scenario.flags) else None
        self.config = parse_args([f.replace("@L2DIR@", self.l2_dir or "") for f in scenario.flags])
        self.bus = init_event_bus(EventBusConfig(max_queue_size=1_000_000))
        self.recorder = None
        set_tracing_enabled(False)
        if trace_path:
            observe = ObservabilityConfig(trace_level="storage", trace_output=str(trace_path))
            self.recorder = maybe_initialize_trace_recorder(self.bus, observe, self.config)
        self.bus.start()

        # The eviction thread is not started; its controller is stepped instead.
        controllers = []
        L1EvictionController.start = lambda c: controllers.append(c)
        L1EvictionController.stop = lambda c: None
        self.sm = StorageManager(self.config)
        self.eviction = controllers[0]
        self.policy = self.eviction._eviction_policy
        self.l1 = self.sm._l1_manager
        self.main = threading.get_ident()
        self.moved = threading.Condition()
        self.counts = Counter()  # guarded by moved
        self.last = {}  # key -> code of the last call from this thread
        for name in ("reserve_write", "finish_write", "unsafe_read", "finish_read", "delete", "finish_write_and_reserve_read"):
            self._watch(name)

        self.numbers = {}
        self.records = []
        self.totals = Counter()
        self.reads = []  # open contexts, oldest first
        self.origin = time.monotonic()

    def _watch(self, name):
        """Note what each call of an L1 method did, whoever makes it."""
        method = getattr(self.l1, name)

        def watched(keys, *args, **kwargs):
            temporary = [k for k in set(keys) if self.is_temporary(k)] if name == "finish_read" else []
            absent = [k for k in set(keys) if self.l1.get_object_state(k) is None]
            result = method(keys, *args, **kwargs)
            codes = {k: v[0] if isinstance(v, tuple) else v for k, v in result.items()}
            good = sum(c == L1Error.SUCCESS for c in codes.values())
            with self.moved:
                if threading.get_ident() == self.main:
                    self.last = codes
                else:
                    self.counts["background " + name] += good
                if name == "finish_write_and_reserve_read":
                    # A key that stands twice is loaded at its first place and unknown at its second.
                    there = {k for k, c in codes.items() if c == L1Error.SUCCESS}
                    there.update(k for k in absent if self.l1.get_object_state(k) is not None)
                    self.counts["loaded"] += len(there)
                self.counts["freed"] += sum(self.l1.get_object_state(k) is None for k in temporary)
                self.moved.notify_all()
            return result

        setattr(self.l1, name, lambda *a, **k: watched(*a, **k) if a else watched(k.pop("keys"), **k))

    def is_temporary(self, key):
        """Whether a prefetch's copy of key, which goes with its last reader, is resident."""
        state = self.l1.get_object_state(key)
        return state is not None and state.is_temporary

    def is_staged(self, key):
        """Whether a writer has reserved key and not finished it."""
        return key in self.l1._staging

    # The calls that a scenario makes.

    def reserve(self, keys, layout):
        """reserve_write. Returns one letter a key."""
        self._begin(keys)
        self.sm.reserve_write(list(keys), layout)
        codes = self._codes(keys, RESERVE)
        for c, total in zip("RPM", ("reserved", "refused_present", "refused_oom")):
            self.totals[total] += codes.count(c)
        return self._end("reserve_write", codes=codes)

    def finish(self, keys):
        """finish_write. Returns one letter a key."""
        self._begin(keys)
        admitted = [k for k in dict.fromkeys(keys) if self.l1.get_object_state(k) is None]
        self.sm.finish_write(list(keys))
        codes = self._codes(keys, FINISH)
        self._count(codes, "written", "write_failed")
        stored = sum(self.last.get(k) == L1Error.SUCCESS for k in admitted) * len(self.sm.l2_adapters())
        self._wait_for("background finish_read", stored)
        if self.config.store_policy == "skip_l1":
            self._wait_for("background delete", stored)
        return self._end("finish_write", codes=codes)

    def prefetch(self, rows, readers=1, policy="prefix", skip_l2=False, no_lock=False, request=""):
        """submit_prefetch_task and its result. A row is (keys, group, layout,
        window). Returns the rows of letters."""
        groups = [GroupedObjectKeys(list(keys), group, layout, window) for keys, group, layout, window in rows]
        self._begin([k for g in groups for k in g.keys])
        spec = {"num_kv_readers": readers, "fetching_policy": policy}
        if no_lock:
            spec["lock_mode"] = scenarios.NO_LOCK
        handle = self.sm.submit_prefetch_task(PrefetchTaskSpec(groups, **spec), request, skip_l2)
        if not self.sm.wait_prefetch_status(handle, SETTLE_SECONDS):
            raise RuntimeError(f"record {len(self.records)}: no prefetch result")
        result = self.sm.query_prefetch_status(handle)
        out = []
        for row, group in enumerate(groups):
            l1, l2 = result.l1_hit_cells[row], result.l2_hit_cells[row]
            out.append("".join("1" if l1.test(c) else "2" if l2.test(c) else "." for c in range(len(group.keys))))
        for c, total in zip("12.", ("hit_l1", "hit_l2", "missed")):
            self.totals[total] += sum(r.count(c) for r in out)
        self.totals["keys_requested"] += sum(map(len, out))
        fields = {"rows": out}
        if policy == "full":
            fields["found"] = [str(b) for b in result.found_cells]
        return self._end("submit_prefetch_task", **fields)

    def enter(self, keys):
        """read_prefetched_results, entered. Returns whether it yielded."""
        self._begin(keys)
        context = self.sm.read_prefetched_results(list(keys))
        yields = context.__enter__() is not None
        self.reads.append(context)
        codes = self._codes(keys, READ)
        self.totals["read_enter_keys"] += len(codes)
        self.totals["read_enter_refused"] += not yields
        self._end("read_enter", codes=codes, yields=yields)
        return yields

    def exit(self):
        """A clean exit of the oldest open context."""
        self._begin([])
        self.reads.pop(0).__exit__(None, None, None)
        self._end("read_exit")

    def release(self, keys, locks=1):
        """finish_read_prefetched. Returns one letter a key."""
        self._begin(keys)
        self.sm.finish_read_prefetched(list(keys), locks)
        codes = self._codes(keys, FINISH)
        self._count(codes, "locks_released_keys", "release_failed")
        return self._end("finish_read_prefetched", codes=codes)

    def at(self, seconds):
        """Sleep until so much time after the start of the scenario."""
        late = time.monotonic() - self.origin - seconds
        if late > 0.2:
            raise RuntimeError(f"this machine is {late:.2f} s late, time-outs would not be judged alike")
        time.sleep(max(0, -late))

    # What they have in common.

    def _begin(self, keys):
        for k in keys:
            self.numbers.setdefault(k, len(self.numbers))
        with self.moved:
            self.counts.clear()
        self.last = {}
        self.files = self._stored()

    def _stored(self):
        return sum(n.endswith(".data") for n in os.listdir(self.l2_dir)) if self.l2_dir else 0

    def _codes(self, keys, letters):
        return "".join(letters[self.last[k]] for k in keys)

    def _count(self, codes, good, bad):
        self.totals[good] += codes.count("F")
        self.totals[bad] += len(codes) - codes.count("F")

    def _wait_for(self, what, n):
        with self.moved:
            if not self.moved.wait_for(lambda: self.counts[what] >= n, SETTLE_SECONDS):
                raise RuntimeError(f"record {len(self.records)}: {what}: {self.counts[what]} of {n}")

    def _end(self, op, **fields):
        while self.sm.report_status()["store_controller"]["in_flight_task_count"]:
            time.sleep(0.0002)
        i = len(self.records)
        record = {"i": i, "op": op, **fields}
        effects = {"freed": self.counts["freed"], "l2_stored": self._stored() - self.files, "l2_loaded": self.counts["loaded"]}
        record.update({k: v for k, v in effects.items() if v})
        for k, v in zip(("temporary_freed", "l2_stored", "l2_loaded"), effects.values()):
            self.totals[k] += v
        every = self.scenario.eviction_every
        if every and (i + 1) % every == 0:
            evicted = self._evict()
            if evicted is not None:
                record["evicted"] = [self.numbers[k] for k in evicted]
                self.totals["eviction_passes_above_watermark"] += 1
                self.totals["evicted"] += len(evicted)
        status = self.l1.report_status()
        record["resident"] = status["total_object_count"] - status["staging_object_count"]
        record["used"] = self.l1.get_memory_usage()[0]
        self.records.append(record)
        self.totals["records"] += 1
        return fields.get("codes", fields.get("rows"))

    def _evict(self):
        """One eviction cycle. Returns the keys that went, None below the watermark."""
        used, total = self.l1.get_memory_usage()
        settings = self.config.eviction_config
        if used / total < settings.trigger_watermark:
            return None
        gone = []
        for action in self.policy.get_eviction_actions(settings.eviction_ratio, key_eligible_filter=self.l1.is_key_evictable):
            self.last = {}
            self.eviction.execute_eviction_action(action)
            gone += [k for k in action.keys if self.last.get(k) == L1Error.SUCCESS]
        return gone

    def _final(self):
        states = {n: self.l1.get_object_state(k) for k, n in self.numbers.items()}
        resident = {n: s for n, s in states.items() if s is not None}
        used, capacity = self.l1.get_memory_usage()
        final = {
            "resident": sorted(resident),
            "staged": sorted(self.numbers[k] for k in self.l1._staging),
            "read_locked": sorted(n for n, s in resident.items() if s.read_lock.is_locked()),
            "temporary": sorted(n for n, s in resident.items() if s.is_temporary),
            "used": used,
            "capacity": capacity,
        }
        if self.config.eviction_config.eviction_policy == "LRU":
            # Everything eligible, all of it: the whole list, oldest first.
            actions = self.policy.get_eviction_actions(1.0, key_eligible_filter=lambda k: True)
            final["order"] = [self.numbers[k] for a in actions for k in a.keys]
        elif self.config.eviction_config.eviction_policy == "ARC":
            for name in ("t1", "t2", "b1", "b2"):
                final[name] = [self.numbers[k] for k in getattr(self.policy, "_" + name)]
            final["target_t1_size"], final["arc_capacity"] = self.policy._target_t1_size, self.policy._capacity
        return final

    def result(self):
        s = self.scenario
        self.totals["final_resident"] = self.records[-1]["resident"]
        return {
            "format": "lmcache-parity/1",
            "name": s.name,
            "about": s.about,
            "upstream": "0.5.6",
            "trace": s.name + ".lct",
            "flags": s.flags,
            "object_bytes": s.object_bytes,
            "settle": {
                "prefetch": "after_every_record",
                "store": "after_every_record",
                "eviction_every": s.eviction_every,
                "clock": s.clock,
            },
            "distinct_keys": len(self.numbers),
            "totals": {k: self.totals[k] for k in scenarios.TOTALS},
            "final": self._final(),
            "records": self.records,
        }

    def close(self):
        if not self.sm.memcheck():
            raise RuntimeError("memcheck fails")
        for context in self.reads:
            with contextlib.suppress(Exception):
                set_tracing_enabled(False)
                context.__exit__(None, None, None)
        self.sm.close()
        self.bus.stop()
        if self.bus.dropped_events_count():
            raise RuntimeError("the event bus dropped events")
        if self.l2_dir:
            shutil.rmtree(self.l2_dir)


def run(scenario, trace_path=None):
    driver = Driver(scenario, trace_path)
    try:
        scenario.play(driver, random.Random(scenario.seed or scenario.name))
        return driver.result()
    finally:
        driver.close()


def write(path, result):
    """JSON with a line a record, as the given scenarios have it."""
    head = {k: v for k, v in result.items() if k != "records"}
    lines = [f' {json.dumps(k)}: {json.dumps(v, separators=(",", ":") if k == "final" else None)},' for k, v in head.items()]
    records = ",\n  ".join(json.dumps(r, separators=(",", ":")) for r in result["records"])
    path_text = "{\n" + "\n".join(lines) + '\n "records": [\n  ' + records + "\n ]\n}\n"
    with open(path, "w") as f:
        f.write(path_text)


def main(args):
    if args == ["--list"]:
        print("\n".join(scenarios.ALL))
        return 0
    out, names = args[0], args[1:] or list(scenarios.ALL)
    os.makedirs(out, exist_ok=True)
    failed = 0
    for name in names:
        scenario = scenarios.ALL[name.partition("~")[0]]
        if "~" in name:
            scenario = replace(scenario, name=name, seed=name)
        began = time.monotonic()
        try:
            first = run(scenario, os.path.join(out, name + ".lct"))
            again = run(scenario)
            if first != again:
                at = [a["i"] for a, b in zip(first["records"], again["records"]) if a != b][:1]
                raise RuntimeError(f"two runs differ, first at record {at}")
            write(os.path.join(out, name + ".json"), first)
            print(f"{name}: {len(first['records'])} records, {time.monotonic() - began:.1f} s", flush=True)
        except Exception as e:  # the other scenarios are still worth having
            print(f"{name}: {type(e).__name__}: {e}", flush=True)
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
