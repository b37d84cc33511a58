"""Exchange a folder of L2 files with the released StorageManager.

folder.py write ADAPTER MANIFEST    stores the manifest's objects through ADAPTER
folder.py read ADAPTER MANIFEST     loads them; prints a line for each that is
                                    missing or has other bytes

ADAPTER is the JSON of --l2-adapter. The manifest is a JSON list of objects:
hash (hex), model, rank, group, salt, size. Byte i of the n-th object is
(31*i + 7*n + i//256) mod 256. l2/fs/exchange_test.go is the other side.
"""

import json
import os
import sys
import time

os.environ.setdefault("LMCACHE_LOG_LEVEL", "CRITICAL")

import torch
from lmcache.v1.distributed.api import GroupedObjectKeys, MemoryLayoutDesc, ObjectKey, PrefetchTaskSpec
from lmcache.v1.distributed.config import parse_args
from lmcache.v1.distributed.storage_manager import StorageManager
from lmcache.v1.mp_observability.event_bus import EventBusConfig, init_event_bus

SECONDS = 30  # for one object


def content(n, size):
    return bytes((31 * i + 7 * n + i // 256) % 256 for i in range(size))


def view(obj):
    """The bytes of a memory object, to be read and written."""
    return memoryview(obj.byte_array).cast("B")


def main(action, adapter, manifest):
    with open(manifest) as f:
        objects = json.load(f)
    bus = init_event_bus(EventBusConfig())
    bus.start()
    sm = StorageManager(parse_args(["--no-l1-use-lazy", "--l1-size-gb", "0.0625", "--eviction-policy", "noop", "--l2-adapter", adapter]))
    failed = 0
    for n, o in enumerate(objects):
        key = ObjectKey(bytes.fromhex(o["hash"]), o["model"], o["rank"], o["group"], o["salt"])
        layout = MemoryLayoutDesc([torch.Size([o["size"]])], [torch.uint8])
        if action == "write":
            obj = sm.reserve_write([key], layout)[key]
            view(obj)[: o["size"]] = content(n, o["size"])
            sm.finish_write([key])
            continue
        spec = PrefetchTaskSpec([GroupedObjectKeys([key], o["group"], layout, -1)])
        handle = sm.submit_prefetch_task(spec, "", False)
        sm.wait_prefetch_status(handle, SECONDS)
        if not sm.query_prefetch_status(handle).l2_hit_count:
            print(f"object {n}, {key}: a miss")
            failed += 1
            continue
        with sm.read_prefetched_results([key]) as got:
            if bytes(view(got[0])[: o["size"]]) != content(n, o["size"]):
                print(f"object {n}, {key}: other bytes")
                failed += 1
        sm.finish_read_prefetched([key])
    end = time.monotonic() + SECONDS
    while action == "write" and time.monotonic() < end:
        time.sleep(0.05)
        if not sm.report_status()["store_controller"]["in_flight_task_count"]:
            time.sleep(0.2)  # what finish_write queued may not be a task yet
            if not sm.report_status()["store_controller"]["in_flight_task_count"]:
                break
    sm.close()
    bus.stop()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
