"""Scenarios for drive.py: seeded scripts of calls on a storage manager.

Every script draws from the one random.Random that it is given, and reacts to
what the calls did, as an engine would.
"""

import hashlib
from dataclasses import dataclass
from typing import Callable

import torch
from lmcache.v1.distributed.api import MemoryLayoutDesc, ObjectKey, PrefetchLockMode

NO_LOCK = PrefetchLockMode.NO_LOCK
FULL = -1  # the window of full attention

TOTALS = (
    "keys_requested hit_l1 hit_l2 missed reserved refused_present refused_oom written write_failed read_enter_keys "
    "read_enter_refused locks_released_keys release_failed temporary_freed l2_stored l2_loaded evicted "
    "eviction_passes_above_watermark records final_resident"
).split()


@dataclass
class Scenario:
    name: str
    about: str
    flags: list
    play: Callable
    eviction_every: int = 1
    clock: str = "any"
    object_bytes: int = 65536
    seed: str = ""  # its name if empty


def layout(*shapes, dtype=torch.bfloat16):
    return MemoryLayoutDesc([torch.Size(s) for s in shapes], [dtype] * len(shapes))


L64K = layout((2, 16, 32, 32))
L4K = layout((2, 1, 32, 32))
L1 = layout((1,), dtype=torch.uint8)  # one byte: a page
L20K = layout((2, 4, 32, 32), (1, 1))  # 16 KiB and 2 bytes: 20 KiB
L128K = layout((2, 32, 32, 32))
SIZES = [L64K, L4K, L1, L20K, L128K]


def rank(world, global_rank):
    return ObjectKey.ComputeKVRank(world, global_rank, world, global_rank)


def key(chunk, r=0, world=1, group=0, model="org/model-7b"):
    return ObjectKey(hashlib.sha256(repr(chunk).encode()).digest(), model, rank(world, r), group)


def flags(gb, *more, policy="LRU"):
    return ["--no-l1-use-lazy", "--eviction-policy", policy, "--l1-size-gb", repr(gb), *more]


FS = ("--l2-adapter", '{"type":"fs","base_path":"@L2DIR@"}')


FAULTS = ("--l2-adapter", '{"type":"fault_inject","rate":0.1,"seed":5,"gap_indices":[3],"gap_tail_ratios":[0.5],"inner":{"type":"fs","base_path":"@L2DIR@"}}')


def objects(n, size=65536):
    """The L1 size in GiB that holds n objects exactly."""
    return n * size / 2**30


def chats(rounds, users, readers=1, world=1, groups=((0, FULL, L64K),), grow=4, limit=40):
    """Users talk in turns: each looks its whole history up, reads what is there
    and writes the rest."""

    def play(d, rng):
        history = [[("system", i) for i in range(3)] for _ in range(users)]
        for n in range(rounds):
            user = rng.randrange(users)
            if len(history[user]) > limit:
                history[user] = [("system", i) for i in range(3)]
            history[user] = history[user] + [(user, n, i) for i in range(rng.randint(1, grow))]
            chunks = history[user]
            rows = [([key(c, r, world, g) for c in chunks], g, lay, w) for g, w, lay in groups for r in range(world)]
            got = d.prefetch(rows, readers, request=f"chat-{user}-{n}")
            hit = max((i + 1 for row in got for i, c in enumerate(row) if c != "."), default=0)
            locked = [k for (keys, *_), row in zip(rows, got) for k, c in zip(keys, row) if c != "."]
            for _ in range(readers):
                if locked:
                    d.enter(locked)
                    d.exit()
                    d.release(locked, 1)
            for keys, _, lay, _ in rows:
                new = keys[hit:]
                if not new:
                    continue
                codes = d.reserve(new, lay)
                good = [k for k, c in zip(new, codes) if c == "R"]
                if good and rng.random() < 0.97:  # a client dies now and then
                    d.finish(good)

    return play


def anything(
    records,
    chunks=30,
    world=1,
    groups=1,
    sizes=None,
    repeats=False,
    burst=None,
    period=0.667,
    bias=0.75,
    apart=False,
):
    """Calls drawn at random over few keys: legal, useless and wrong ones.

    sizes: layouts drawn for each reservation; without it a group has one
    layout. burst: so many calls at once, then a pause until the next period.
    bias: how often a call concerns what is reserved or locked. apart: prefetches
    leave out what a writer has staged."""

    def play(d, rng):
        def one(c=None, r=None, g=None):
            c = rng.randrange(chunks) if c is None else c
            r = rng.randrange(world) if r is None else r
            g = rng.randrange(groups) if g is None else g
            return key(c, r, world, g)

        def some(most, r=None, g=None):
            n = rng.randint(1, most)
            if rng.random() < 0.5:
                start = rng.randrange(chunks)
                picked = [one((start + i) % chunks, r, g) for i in range(n)]
            else:
                picked = [one(None, r, g) for _ in range(n)]
            return list(dict.fromkeys(picked))

        def size(g):
            return rng.choice(sizes) if sizes else SIZES[g]

        reserved, locked = [], []  # (keys), (keys, locks)
        steps = 0
        for burst_no in range(records):
            if burst:
                d.at(burst_no * period)
            for _ in range(burst or 1):
                x = rng.random()
                if x < 0.25:
                    g = rng.randrange(groups)
                    keys = some(8, g=g)
                    codes = d.reserve(keys, size(g))
                    good = [k for k, c in zip(keys, codes) if c == "R"]
                    if good:
                        reserved.append(good)
                elif x < 0.47:
                    if reserved and rng.random() < bias:
                        keys = reserved.pop(rng.randrange(len(reserved)))
                        if rng.random() < 0.2:
                            rng.shuffle(keys)
                        if rng.random() < 0.2:
                            keys = keys[: rng.randint(1, len(keys))]
                    else:
                        keys = some(6)
                    # Released, a write that meets a prefetch's copy is lost with
                    # that copy. We keep it (README.md, hazards), so none is made.
                    d.finish([k for k in keys if not d.is_temporary(k)])
                elif x < 0.70:
                    cols = rng.choice([0, 1, 2, 4, 6, 8, 12])
                    start = rng.randrange(chunks)
                    picks = [(start + i) % chunks for i in range(cols)]
                    if repeats and rng.random() < 0.3:
                        picks = [rng.choice(picks) for _ in picks]
                    if apart:
                        picks = [c for c in picks if not d.is_staged(one(c))]
                    rows = []
                    for g in range(groups):
                        if rng.random() < 0.2 and rows:
                            continue
                        window = rng.choice([FULL, FULL, FULL, 1, 2, 3, 5])
                        rows += [([key(c, r, world, g) for c in picks], g, size(g), window) for r in range(world)]
                    readers = rng.choice([1, 1, 1, 2, 3, 5, 128, 200])
                    no_lock = rng.random() < 0.12
                    policy = "full" if rng.random() < 0.25 else "prefix"
                    got = d.prefetch(rows, readers, policy, skip_l2=rng.random() < 0.15, no_lock=no_lock)
                    hits = [k for (keys, *_), row in zip(rows, got) for k, c in zip(keys, row) if c != "."]
                    if hits and not no_lock:
                        locked.append((hits, readers))
                elif x < 0.90:
                    if locked and rng.random() < bias:
                        n = rng.randrange(len(locked))
                        keys, locks = locked[n]
                        take = rng.choice([1, locks, locks, locks + 1])
                        if take >= locks:
                            locked.pop(n)
                        d.release(list(dict.fromkeys(keys)), take)
                    else:
                        d.release(some(5), rng.choice([1, 1, 2, 0, -3, 300]))
                elif d.reads and rng.random() < 0.6:
                    d.exit()
                else:
                    keys = rng.choice(locked)[0] if locked and rng.random() < bias else some(5)
                    d.enter(keys if repeats else list(dict.fromkeys(keys)))
                    if len(d.reads) > 3:
                        d.exit()
                steps += 1
                if steps >= records:
                    return

    return play


def evict(watermark, ratio):
    return ("--eviction-trigger-watermark", repr(watermark), "--eviction-ratio", repr(ratio))


RETAIN = ("--l2-prefetch-policy", "retain")
SKIP_L1 = ("--l2-store-policy", "skip_l1")
TTL = ("--l1-read-ttl-seconds", "1", "--l1-write-ttl-seconds", "1")
HYBRID = ((0, FULL, L64K), (1, 3, L4K))

ALL = {
    s.name: s
    for s in [
        Scenario("chats-lru", "12 users talk in turns over an L1 of 100 objects.", flags(objects(100)), chats(260, 12)),
        Scenario("chats-tight", "Chats that an L1 of 24 objects cannot hold, eviction every fifth record.",
                 flags(objects(24), *evict(0.7, 0.35)), chats(300, 6), eviction_every=5),
        Scenario("chats-ranks", "Chats on two ranks with two readers.", flags(objects(150), *evict(0.9, 0.1)),
                 chats(120, 6, readers=2, world=2), eviction_every=2),
        Scenario("chats-hybrid", "Chats of a model with full attention and a sliding window of 3 chunks.",
                 flags(objects(60), *evict(0.6, 0.25)), chats(200, 6, groups=HYBRID), eviction_every=3),
        Scenario("chats-noop", "Chats until L1 is full, nothing is ever evicted.", flags(objects(90), policy="noop"), chats(150, 8)),
        Scenario("chats-l2-default", "Chats over a small L1 with an fs store below, loads are temporary.",
                 flags(objects(40), *FS), chats(150, 8)),
        Scenario("chats-l2-retain", "The same, loads stay in L1.", flags(objects(40), *FS, *RETAIN), chats(150, 8), eviction_every=2),
        Scenario("chats-l2-skip-l1", "Chats where L1 drops what the store has.", flags(objects(60), *FS, *SKIP_L1), chats(120, 8)),
        Scenario("chats-l2-hybrid", "Full attention and a window, two ranks, a store below.",
                 flags(objects(60), *FS, *evict(0.6, 0.5)), chats(80, 5, world=2, groups=HYBRID)),
        Scenario("any-lru", "Random calls, right and wrong ones, over 30 keys.", flags(objects(20), *evict(0.8, 0.2)), anything(2000)),
        Scenario("any-arc", "Random calls under ARC: ghosts, and a target that moves.",
                 flags(objects(20), *evict(0.8, 0.2), policy="ARC"), anything(2000)),
        Scenario("any-arc-l2", "The same over two ranks, with a store below, loads stay.",
                 flags(objects(24), *FS, *RETAIN, *evict(0.7, 0.3), policy="ARC"), anything(1200, chunks=20, world=2), eviction_every=2),
        Scenario("any-sizes", "Random calls, objects of five sizes in a fragmented L1.",
                 flags(0.00152, *evict(0.95, 0.1)), anything(2000, sizes=SIZES), eviction_every=3),
        Scenario("any-grid", "Random calls over two ranks and three groups.",
                 flags(0.003, *evict(0.75, 0.3)), anything(1500, chunks=16, world=2, groups=3), eviction_every=2),
        Scenario("any-noop", "Random calls, nothing is evicted.", flags(0.002, policy="noop"),
                 anything(800, sizes=SIZES), eviction_every=1),
        Scenario("any-repeats", "Random calls, keys repeated in prefetches and reads.", flags(objects(20)),
                 anything(1200, chunks=14, repeats=True)),
        Scenario("any-l2-default", "Random calls, a store below, loads are temporary.",
                 flags(objects(14), *FS, *evict(0.7, 0.4)), anything(1200, chunks=24)),
        Scenario("any-l2-retain", "Random calls, a store below, loads stay.",
                 flags(objects(14), *FS, *RETAIN, *evict(0.7, 0.4)), anything(1200, chunks=24)),
        Scenario("any-l2-grid", "Random calls, two ranks and two groups of different sizes, a store below.",
                 flags(objects(24), *FS, *evict(0.8, 0.5)), anything(1000, chunks=14, world=2, groups=2), eviction_every=2),
        Scenario("any-l2-grid-retain", "The same, loads stay.",
                 flags(objects(24), *FS, *RETAIN, *evict(0.8, 0.5)), anything(1000, chunks=14, world=2, groups=2), eviction_every=4),
        Scenario("any-l2-tight", "Random calls, L1 too small for most loads.",
                 flags(objects(6), *FS, *evict(0.9, 0.5)), anything(1000, chunks=16, world=2), eviction_every=4),
        Scenario("any-l2-skip-l1", "Random calls, L1 drops what the store has.",
                 flags(objects(14), *FS, *SKIP_L1), anything(800, chunks=24)),
        Scenario("any-l2-faults", "Random calls, two ranks, a store below that loses loads, loads stay.",
                 flags(objects(24), *FAULTS, *RETAIN, *evict(0.8, 0.4)), anything(700, chunks=16, world=2), eviction_every=2),
        Scenario("faults-l2", "Random calls, fault_inject over fs: gaps in loads.",
                 flags(objects(20), *FAULTS, *evict(0.8, 0.4)), anything(140, chunks=12, world=2), eviction_every=2),
        Scenario("any-l2-repeats", "Random calls, keys repeated in prefetches and reads, a store below.",
                 flags(objects(60), *FS, *evict(0.1, 0.3)), anything(800, chunks=12, repeats=True)),
        Scenario("any-ttl", "Random calls in bursts, locks and reservations of one second.",
                 flags(objects(16), *TTL, *evict(0.7, 0.3)), anything(500, chunks=24, sizes=SIZES, burst=14), eviction_every=2,
                 clock="trace"),
        Scenario("any-ttl-l2", "The same with a store below.",
                 flags(objects(12), *TTL, *FS, *evict(0.7, 0.3)), anything(300, chunks=24, burst=8, apart=True), eviction_every=2, clock="trace"),
        # Short ones, kept in testdata/parity.
        Scenario("window-chats", "Chats of a model with full attention and a sliding window of 3 chunks, on two ranks.",
                 flags(objects(20), *evict(0.6, 0.25)), chats(12, 3, world=2, groups=HYBRID, limit=9), eviction_every=3),
        Scenario("object-sizes", "Random calls, objects of five sizes in a fragmented L1, also beside refusals and expired reservations.",
                 flags(0.00152, "--l1-write-ttl-seconds", "1", *evict(0.95, 0.1)), anything(180, chunks=20, sizes=SIZES, burst=15),
                 eviction_every=3, clock="trace"),
        Scenario("grid-l2", "Random calls over two ranks and two groups with windows, fs L2, loads refused for memory.",
                 flags(objects(16), *FS, *evict(0.8, 0.5)), anything(125, chunks=10, world=2, groups=2), eviction_every=2),
        Scenario("staged-and-loaded", "fs L2, L1 too small for most loads, keys that are staged and loaded at once.",
                 flags(objects(6), *FS, *evict(0.9, 0.5)), anything(160, chunks=8, world=2, bias=0.6), eviction_every=3,
                 seed="staged-and-loaded~8"),
        Scenario("skip-l1", "Chats where L1 drops what the fs L2 has.", flags(objects(40), *FS, *SKIP_L1), chats(24, 3, limit=12)),
    ]
}
