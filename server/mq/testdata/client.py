"""A client of libzmq that packs its frames with Python's msgpack, and unpacks the replies.

Prints a line that begins with ok for each thing that holds.
"""

import sys
import msgpack
import zmq

context = zmq.Context()
s = context.socket(zmq.DEALER)
s.linger = 0
s.rcvtimeo = 20000
s.connect(sys.argv[1])
uid = 0

LOOKUP, STATUS, WAIT, END, REGISTER, UNREGISTER = 8, 9, 10, 13, 14, 15
PREPARE_STORE, COMMIT_STORE, PREPARE_RETRIEVE, COMMIT_RETRIEVE = 16, 17, 18, 19
CLEAR, CHUNK_SIZE, PING, REPORT, NOOP, EXPERIMENTAL = 20, 21, 22, 23, 24, 32
NOTHING = object()


def send(op, *args):
    global uid
    uid += 1
    s.send_multipart([msgpack.packb(uid), msgpack.packb(op)] + [msgpack.packb(a) for a in args])
    return msgpack.packb(uid), msgpack.packb(op)


def ask(name, want, op, *args):
    head = send(op, *args)
    reply = s.recv_multipart()
    got = msgpack.unpackb(reply[2]) if len(reply) == 3 else NOTHING
    good = tuple(reply[:2]) == head and got == want
    print("ok" if good else "FAIL", name, "" if good else (reply, want), flush=True)


key = {
    "model_name": "m", "world_size": 1, "worker_id": None, "token_ids": list(range(100000, 108192)) + [0, 200, 4294967295],
    "start": 0, "end": 8192, "request_id": "r", "cache_salt": "", "request_configs": {"lmcache.tag": [1, {"a": b"b"}]},
    "num_kv_readers": 1,
}
context_map = {
    "instance_id": 7, "model_name": "m", "world_size": 1, "block_size": 16, "num_layers": 2, "hidden_dim_size": 8,
    "dtype_str": "float16", "use_mla": False, "num_physical_slots": None,
}
slot = {"offset": 4096, "length": 16, "shape": [2, 1, 4, 1], "dtype": "float16"}
old_key = {k: v for k, v in key.items() if k not in ("num_kv_readers", "request_configs")}

ask("noop", "OK", NOOP)
ask("noop by name", "OK", "noop")
ask("chunk size", 256, CHUNK_SIZE)
ask("experimental", [], EXPERIMENTAL)
ask("ping of a scheduler", True, PING, None)
ask("ping of a worker", True, PING, 2**40)
ask("ping of era C", True, PING)
ask("register", {"shm_name": "lmcache_l1_pool_x", "pool_size": 1 << 20}, REGISTER, context_map)
ask("lookup", NOTHING, LOOKUP, key, 1)
ask("lookup of an older client", NOTHING, LOOKUP, old_key, 4)
ask("status", 3, STATUS, "r")
ask("wait", 3, WAIT, "r", 0.5)
ask("prepare_store", {"context": {"slots": [slot], "chunk_indices": [0]}}, PREPARE_STORE, key, 7)
ask("commit_store", True, COMMIT_STORE, key, 7, b"")
ask("prepare_retrieve", {"success": False, "data": b"", "context": {}}, PREPARE_RETRIEVE, key, 7)
ask("commit_retrieve", True, COMMIT_RETRIEVE, key, 7)
ask("report", NOTHING, REPORT, 7, "m", [{"req_id": "r", "new_block_ids": [1, 300], "new_token_ids": [-1]}])
ask("end_session", NOTHING, END, "r")
ask("end_session of a newer client", NOTHING, END, "r", {"finish_reason": "", "stop_token_id": -1})
ask("clear", NOTHING, CLEAR, False)
ask("clear of era C", NOTHING, CLEAR)
ask("unregister", NOTHING, UNREGISTER, 7)

s.send(b"\x07")
s.send_multipart([b"\x07", b"", b"cancel"])
send("nope", 1)
send(11, "r")
send(PING, True)
send(COMMIT_STORE, key, 7, "text")
ask("what is not answered is not answered", "OK", NOOP)
context.destroy(linger=0)
