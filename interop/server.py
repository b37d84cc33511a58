"""Hold our server and client tools against those of the released LMCache.

server.py OURS THEIRS WORK: the two `lmcache` commands, and a folder for what
they write. Prints PASS or FAIL a check, then what both servers do with one
generator of ours; the exit status is 1 if a check failed. It needs a /dev/shm
of 256 MiB. Their server is judged by its answers, their benchmark by its lines:
its exit status is 0 even when everything failed.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

SHAPE = "(2,64,16,2,64):float16:4"
L1 = ["--l1-size-gb", "0.0625", "--eviction-policy", "LRU"]
PREFIX = "lmcache.v1.distributed.storage_manager.StorageManager."
REQUESTS = int(os.environ.get("INTEROP_REQUESTS", "8000"))


class Failed(Exception):
    pass


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A server of either side, with what its clients need to know."""

    def __init__(self, command, ours, work, *flags):
        self.port, self.http = free_port(), free_port()
        self.rpc, self.url = f"tcp://127.0.0.1:{self.port}", f"http://localhost:{self.http}"
        self.log = open(work / f"server-{self.port}.log", "w")
        args = [command, "server", *L1, "--host", "127.0.0.1", "--port", str(self.port), "--http-port", str(self.http),
                "--supported-transfer-mode", "engine_driven", "--shm-name", f"interop_{os.getpid()}_{self.port}", *flags]
        if ours:
            args += ["--prometheus-port", str(free_port())]
        self.process = subprocess.Popen(args, stdout=self.log, stderr=self.log)

    def __enter__(self):
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/healthcheck", timeout=1):
                    return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise Failed(f"the server did not start: {pathlib.Path(self.log.name).read_text()[-1500:]}") from None
                time.sleep(0.1)

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.status = self.process.wait(timeout=30)
        self.log.close()

    def cpu(self):
        """Seconds of processor time so far."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Checks:
    def __init__(self, ours, theirs, work):
        self.ours, self.theirs, self.work, self.failed = ours, theirs, work, 0

    @contextlib.contextmanager
    def check(self, name):
        problems = []
        try:
            yield problems
        except (Failed, subprocess.TimeoutExpired) as e:
            problems.append(str(e))
        print(f"{'FAIL' if problems else 'PASS'}  {name}", flush=True)
        for p in problems[:10]:
            print(f"      {p}")
        self.failed += bool(problems)

    def run(self, command, *args):
        return subprocess.run([command, *map(str, args)], capture_output=True, text=True, timeout=120)

    def server(self, command, *flags):
        return Server(command, command == self.ours, self.work, *flags)

    # Their clients, our server.

    def their_bench(self, server, *, requests, ranks):
        """Problems of a run of their benchmark, read from its lines."""
        run = self.run(self.theirs, "bench", "server", "--mode", "cpu", "--rpc-url", server.rpc, "--url", server.url,
                       "--num-tokens", 512, "--kvcache-shape-spec", SHAPE, "--start", 0, "--end", requests,
                       "--interval", 0.1, "--tp-size", ranks)
        want = {
            r"\[rank \d+\] REGISTER_KV_CACHE: OK": ranks,
            r"\[seq \d+/cold\] LOOKUP: 0/2 chunks hit": requests,
            rf"\[seq \d+/cold\] STORE: stored \(512 tokens, .* {ranks} writers\)": requests,
            r"\[seq \d+/warm\] LOOKUP: 2/2 chunks hit": requests,
            rf"\[seq \d+/warm\] RETRIEVE: retrieved \(512 tokens, .* {ranks} workers\)": requests,
            r"\[seq \d+\] CHECKSUM MATCH OK": requests,
            r"\[iid \d+\] UNREGISTER_KV_CACHE: OK": ranks,
            r"STORE: (?!stored)|RETRIEVE: (?!retrieved)|MISMATCH|warning": 0,
        }
        problems = [f"{len(re.findall(p, run.stdout))} lines match {p}, want {n}"
                    for p, n in want.items() if len(re.findall(p, run.stdout)) != n]
        return problems + [f"{run.stdout[-1500:]}{run.stderr[-500:]}"] if problems else []

    def operations(self, trace, requests, ranks):
        """Problems of the counts of section 9.3 in a recording of that run."""
        text = self.run(self.ours, "trace", "info", trace).stdout
        got = {name: int(n) for name, n in re.findall(rf"^ +{re.escape(PREFIX)}([\w.]+): (\d+)$", text, re.M)}
        each = requests * ranks
        want = {"submit_prefetch_task": 2 * requests, "reserve_write": each, "finish_write": each,
                "read_prefetched_results.__enter__": each, "read_prefetched_results.__exit__": each, "finish_read_prefetched": each}
        return [f"{name}: {got.get(name)}, want {n}" for name, n in want.items() if got.get(name) != n]

    def replayed(self, trace):
        """Problems of a replay of a recording: a record that failed."""
        run = self.run(self.ours, "trace", "replay", trace, *L1, "--virtual-time", "--no-csv", "--output-dir", self.work)
        return [] if run.returncode == 0 else [run.stdout[-800:] + run.stderr[-800:]]

    def their_clients(self):
        for ranks in 1, 2:
            trace = self.work / f"ours-{ranks}.lct"
            with self.check(f"its bench server against our server, {ranks} rank(s)") as problems:
                with self.server(self.ours, "--trace-level", "storage", "--trace-output", str(trace)) as server:
                    problems += self.their_bench(server, requests=3, ranks=ranks)
                if server.status != 0:
                    problems.append(f"our server ended with status {server.status}")
            with self.check(f"the operations in that recording, {ranks} rank(s), and its replay") as problems:
                problems += self.operations(trace, 3, ranks) + self.replayed(trace)
        with self.check("its ping, describe and clear against our server") as problems:
            with self.server(self.ours) as server:
                problems += self.our_bench(server, "--end", 2)
                for args, patterns in (
                    (["ping", "kvcache"], [r"Status: +OK"]),
                    (["describe", "kvcache"], [r"Health: +OK", r"Eviction policy: +LRU", r"Cached objects: +4\b", r"Chunk size: +256"]),
                    (["kvcache", "clear"], [r"Status: +OK"]),
                    (["describe", "kvcache"], [r"Cached objects: +0\b"]),
                ):
                    run = self.run(self.theirs, *args, "--url", server.url)
                    problems += [f"{' '.join(args)}: no {p} in {run.stdout}{run.stderr[-300:]}" for p in patterns if not re.search(p, run.stdout)]
                    if run.returncode != 0:
                        problems.append(f"{' '.join(args)}: status {run.returncode}")

    # Our clients, their server.

    def our_bench(self, server, *args):
        run = self.run(self.ours, "bench", "server", "--rpc-url", server.rpc, "--kvcache-shape-spec", SHAPE, "--interval", 0, *args)
        return [] if run.returncode == 0 else [f"status {run.returncode}: {run.stdout[-1500:]}{run.stderr}"]

    def our_clients(self):
        trace = self.work / "theirs.lct"
        with self.check("our bench server, ping, describe and clear against its server") as problems:
            with self.server(self.theirs, "--trace-level", "storage", "--trace-output", str(trace)) as server:
                problems += self.our_bench(server, "--end", 3)
                problems += self.our_bench(server, "--start", 10, "--end", 13, "--tp-size", 2)
                problems += self.our_bench(server, "--start", 20, "--end", 40, "--concurrency", 4)
                problems += self.our_bench(server, "--start", 50, "--end", 52, "--tp-size", 2, "--model", "mla", "--kvcache-shape-spec", "(1,64,16,1,64):float16:4")
                for args in ["ping", "kvcache"], ["describe", "kvcache"], ["kvcache", "clear"]:
                    run = self.run(self.ours, *args, "--url", server.url)
                    if run.returncode != 0:
                        problems.append(f"{' '.join(args)}: status {run.returncode}: {run.stdout}{run.stderr}")
        with self.check("a recording of its server under that load, replayed") as problems:
            problems += self.replayed(trace)

    def load(self):
        trace = self.work / "load.lct"
        with self.check("our server under load of 8 clients, its recording replayed") as problems:
            with self.server(self.ours, "--trace-level", "storage", "--trace-output", str(trace)) as server:
                problems += self.our_bench(server, "--end", 100, "--concurrency", 8, "--tp-size", 2, "--kvcache-shape-spec", "(2,64,16,1,32):float16:2")
            problems += self.replayed(trace)

    # How fast both are, with one generator.

    def speed(self):
        rows = {}
        with self.check(f"both servers answer {REQUESTS} requests a row") as problems:
            with self.server(self.theirs) as theirs, self.server(self.ours) as ours:
                for op in "noop", "ping", "lookup":
                    for flight in 1, 64:
                        for name, server in ("theirs", theirs), ("ours", ours):
                            before = server.cpu()
                            run = self.run(self.ours, "bench", "server", "--rpc-url", server.rpc, "--kvcache-shape-spec", SHAPE,
                                           "--op", op, "--in-flight", flight, "--requests", REQUESTS, "--json")
                            if run.returncode != 0:
                                raise Failed(f"{op}, {flight} in flight, {name}: {run.stderr}")
                            out = json.loads(run.stdout)
                            rows[op, flight, name] = out["requests_per_s"], (server.cpu() - before) / REQUESTS * 1e6
        if problems:
            return
        print(f"\n{'':8}{'in flight':>10}{'its /s':>12}{'ours /s':>12}{'times':>8}{'its CPU us':>12}{'ours':>8}{'times':>8}")
        for op in "noop", "ping", "lookup":
            for flight in 1, 64:
                (t, tc), (o, oc) = rows[op, flight, "theirs"], rows[op, flight, "ours"]
                print(f"{op:8}{flight:>10}{t:>12.0f}{o:>12.0f}{o / t:>8.1f}{tc:>12.0f}{oc:>8.0f}{tc / max(oc, 0.1):>8.1f}")


def main():
    ours, theirs, work = sys.argv[1:]
    os.environ.update(LMCACHE_TRACK_USAGE="false", DO_NOT_TRACK="1", LMCACHE_DISABLE_BANNER="1")
    work = pathlib.Path(work) / "server"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    checks = Checks(ours, theirs, work)
    checks.their_clients()
    checks.our_clients()
    checks.load()
    checks.speed()
    sys.exit(1 if checks.failed else 0)


if __name__ == "__main__":
    main()
