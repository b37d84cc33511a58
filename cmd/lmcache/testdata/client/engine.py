"""An inference engine of a few lines: libzmq's DEALER, and frames made by hand.

engine.py ENDPOINT STEP: makes one step of the test beside it and prints what it
found, a line each. It knows nothing of any LMCache package.
"""

import hashlib
import mmap
import os
import signal
import sys

import msgpack
import zmq

LOOKUP, STATUS, END_SESSION = 8, 9, 13
REGISTER, UNREGISTER, PREPARE_STORE, COMMIT_STORE, PREPARE_RETRIEVE, COMMIT_RETRIEVE = range(14, 20)
CHUNK_SIZE, PING, NOOP = 21, 22, 24
LAYERS, HIDDEN, CHUNKS = 4, 128, 3


class Engine:
    def __init__(self, endpoint, instance):
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.rcvtimeo = 10_000
        self.socket.connect(endpoint)
        self.uid, self.instance = 0, instance
        self.chunk = self.call(CHUNK_SIZE)

    def call(self, op, *args):
        uid, self.uid = self.uid, self.uid + 1
        self.socket.send_multipart([msgpack.packb(a) for a in (uid, op, *args)])
        reply = self.socket.recv_multipart()
        assert reply[:2] == [msgpack.packb(uid), msgpack.packb(op)], reply
        assert len(reply) in (2, 3), reply
        return msgpack.unpackb(reply[2]) if len(reply) == 3 else None

    def register(self):
        pool = self.call(REGISTER, {
            "instance_id": self.instance, "model_name": "m", "world_size": 1, "block_size": 16, "num_layers": LAYERS,
            "hidden_dim_size": HIDDEN, "dtype_str": "float16", "use_mla": False, "num_physical_slots": self.chunk})
        with open("/dev/shm/" + pool["shm_name"], "r+b") as f:
            self.pool = mmap.mmap(f.fileno(), pool["pool_size"])

    def key(self, request, worker=None, chunks=CHUNKS, first=1):
        tokens = [first, *range(2, chunks * self.chunk + 1), 2**32 - 1]
        return {
            "model_name": "m", "world_size": 1, "worker_id": worker, "token_ids": tokens, "start": 0,
            "end": chunks * self.chunk, "request_id": request, "cache_salt": "", "request_configs": None, "num_kv_readers": 1}

    def lookup(self, request, **kw):
        assert self.call(LOOKUP, self.key(request, **kw), 1) is None
        while (hits := self.call(STATUS, request)) is None:
            pass
        return hits

    def prepare(self, request, **kw):
        return self.call(PREPARE_STORE, self.key(request, 0, **kw), self.instance)["context"]

    def memory(self, slot):
        assert slot["shape"] == [2, LAYERS, self.chunk, HIDDEN] and slot["dtype"] == "float16", slot
        assert slot["length"] == 2 * LAYERS * self.chunk * HIDDEN * 2, slot
        return slice(slot["offset"], slot["offset"] + slot["length"])


def content(index, length):
    """Bytes that every chunk has of its own."""
    block = b"".join(hashlib.sha256(b"%d:%d" % (index, i)).digest() for i in range(64))
    return (block * (length // len(block) + 1))[:length]


def store(e):
    e.register()
    print("hits", e.lookup("cold"))
    context = e.prepare("cold")
    for index, slot in zip(context["chunk_indices"], context["slots"]):
        e.pool[e.memory(slot)] = content(index, slot["length"])
    print("indices", *context["chunk_indices"])
    print("commit", e.call(COMMIT_STORE, e.key("cold", 0), e.instance, b""))
    print("end", e.call(END_SESSION, "cold"))


def retrieve(e):
    e.register()
    print("hits", e.lookup("warm"))
    reply = e.call(PREPARE_RETRIEVE, e.key("warm", 0), e.instance)
    print("success", reply["success"], reply["data"])
    for index, slot in enumerate(reply["context"]["slots"]):
        print("equal", e.pool[e.memory(slot)] == content(index, slot["length"]))
    print("commit", e.call(COMMIT_RETRIEVE, e.key("warm", 0), e.instance))
    print("again", e.prepare("warm"))
    print("ping", e.call(PING, e.instance), e.call(NOOP))
    e.call(UNREGISTER, e.instance)


def die(e):
    """Writes half of what was prepared, and is killed."""
    e.register()
    print("hits", e.lookup("killed", first=7))
    context = e.prepare("killed", first=7)
    print("prepared", len(context["slots"]), flush=True)
    slot = context["slots"][0]
    half = slot["length"] // 2
    e.pool[slot["offset"]:slot["offset"] + half] = content(0, half)
    os.kill(os.getpid(), signal.SIGKILL)


def after(e):
    """Another engine comes: what was never committed must not be read."""
    e.register()
    print("hits", e.lookup("after", first=7))
    print("reserved", len(e.prepare("after", first=7)["slots"]))
    print("others", e.lookup("others"))
    e.call(UNREGISTER, e.instance - 1)  # as the dead engine's successor does, or the reaper
    print("hits", e.lookup("freed", first=7))
    context = e.prepare("freed", first=7)
    print("freed", len(context["slots"]))
    for index, slot in zip(context["chunk_indices"], context["slots"]):
        e.pool[e.memory(slot)] = content(index, slot["length"])
    print("commit", e.call(COMMIT_STORE, e.key("freed", 0, first=7), e.instance, b""))
    print("hits", e.lookup("whole", first=7))


def main():
    endpoint, step = sys.argv[1:]
    steps = {"store": (store, 41), "retrieve": (retrieve, 42), "die": (die, 50), "after": (after, 51)}
    run, instance = steps[step]
    run(Engine(endpoint, instance))


if __name__ == "__main__":
    main()
