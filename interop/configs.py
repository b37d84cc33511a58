"""Write what the released package makes of sets of storage-manager flags.

configs.py OUT: for each set NN.lct, a trace without records by LMCache's own
recorder, whose header has the configuration, and NN.flags, a JSON array.
"""

import json
import os
import pathlib
import sys

os.environ.setdefault("LMCACHE_LOG_LEVEL", "CRITICAL")

from lmcache.v1.distributed.config import parse_args
from lmcache.v1.mp_observability.trace.recorder import StorageTraceRecorder

LRU = "--eviction-policy LRU"
SETS = [
    f"--l1-size-gb 200 {LRU}",
    f"--l1-size-gb 0.05 {LRU} --no-l1-use-lazy",
    f"--l1-size-gb 1e-09 {LRU}",
    f"--l1-size-gb 3.3 {LRU} --l1-init-size-gb 1",
    f"--l1-size-gb 64 {LRU} --l1-init-size-gb 0",
    f"--l1-size-gb 20 {LRU} --l1-align-bytes 65536",
    f"--l1-size-gb 20 {LRU} --l1-write-ttl-seconds 1",
    f"--l1-size-gb 20 {LRU} --l1-read-ttl-seconds 86400",
    "--l1-size-gb 20 --eviction-policy noop",
    f"--l1-size-gb 20 {LRU} --eviction-trigger-watermark 0.3333333333333333",
    f"--l1-size-gb 20 {LRU} --eviction-trigger-watermark 1.0",
    f"--l1-size-gb 20 {LRU} --eviction-ratio 0.00001",
    f"--l1-size-gb 20 {LRU} --eviction-ratio 1",
    f"--l1-size-gb 20 {LRU} --eviction-ratio 0",
    f"--l1-size-gb 20 {LRU} --l2-store-policy skip_l1",
    f"--l1-size-gb 20 {LRU} --l2-prefetch-policy retain",
    f"--l1-size-gb 20 {LRU} --l2-prefetch-max-in-flight 1",
    f"--l1-size-gb 20 {LRU} --periodic-notifier-interval-ms 50",
    f"--l1-size-gb 0.1 {LRU} --eviction-trigger-watermark 0.1 --eviction-ratio 0.7 --l1-align-bytes 512 --l1-read-ttl-seconds 2",
    "--l1-size-gb 7.77 --eviction-policy noop --l2-store-policy skip_l1 --l2-prefetch-policy retain --l2-prefetch-max-in-flight 99",
]
MOCK = ["--l2-adapter", '{"type": "mock", "max_size_gb": 1, "mock_bandwidth_gb": 2.5}']


def main(out):
    out.mkdir(parents=True, exist_ok=True)
    for n, flags in enumerate([*map(str.split, SETS), [*SETS[0].split(), *MOCK]]):
        recorder = StorageTraceRecorder(str(out / f"{n:02}.lct"))
        recorder.attach_storage_config(parse_args(flags))
        recorder.close()
        (out / f"{n:02}.flags").write_text(json.dumps(flags))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
