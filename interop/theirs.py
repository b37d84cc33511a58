"""Run many commands of the released `lmcache` in one process; it takes seconds to load.

stdin: a JSON array of argument lists. stdout: one JSON object a command, with
its exit status and what it printed.
"""

import contextlib
import io
import json
import os
import sys
from importlib.metadata import distribution

os.environ.update(LMCACHE_LOG_LEVEL="ERROR", LMCACHE_DISABLE_BANNER="1")


def run(command, args):
    out = io.StringIO()
    sys.argv = ["lmcache", *args]
    try:
        with contextlib.redirect_stdout(out):
            status = command()
    except SystemExit as e:
        status = e.code
    return {"args": args, "status": status or 0, "stdout": out.getvalue()}


def main():
    (entry,) = distribution("lmcache").entry_points.select(group="console_scripts", name="lmcache")
    command = entry.load()
    for args in json.load(sys.stdin):
        print(json.dumps(run(command, args)), flush=True)


if __name__ == "__main__":
    main()
