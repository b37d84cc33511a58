"""Hold this program's `lmcache` against the released one, over files of both.

check.py OURS THEIRS WORK: our binary, a Python that has LMCache, and a folder
where drive.py and configs.py have left new/ and configs/. Prints PASS or FAIL a
check; the exit status is 1 if any failed.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = ROOT / "testdata"
RELEASE = "0.5.6"
REPLAY = ["--l1-size-gb", "1", "--eviction-policy", "LRU"]


class Checks:
    def __init__(self, ours, theirs, work):
        self.ours_path, self.theirs_path, self.work = ours, theirs, work
        self.failed = 0

    def say(self, name, problems):
        """One check: it passed if there is no problem."""
        print(f"{'FAIL' if problems else 'PASS'}  {name}", flush=True)
        for p in problems[:10]:
            print(f"      {p}")
        if len(problems) > 10:
            print(f"      and {len(problems) - 10} more")
        self.failed += bool(problems)

    def ours(self, *args):
        return subprocess.run([self.ours_path, *map(str, args)], capture_output=True, text=True)

    def theirs(self, commands):
        """Run commands of the released package; yields their results in order."""
        text = json.dumps([[str(a) for a in c] for c in commands])
        script = ROOT / "interop" / "theirs.py"
        run = subprocess.run([self.theirs_path, "-W", "ignore", script], input=text, capture_output=True, text=True)
        results = [json.loads(line) for line in run.stdout.splitlines()]
        if len(results) != len(commands):
            raise SystemExit(f"the released package ended early (status {run.returncode}):\n{run.stderr[-2000:]}")
        return results

    # The two sides agree about what a file holds.

    def info(self, name, files):
        problems = [] if files else ["no files"]
        for file, theirs in zip(files, self.theirs([["trace", "info", f] for f in files])):
            ours = self.ours("trace", "info", file)
            # Storage traces have the label column of 0.4.4 to 0.5.5, 6 narrower.
            if columns(ours.stdout) != columns(theirs["stdout"]) or ours.returncode != theirs["status"]:
                problems.append(f"{file.name}: ours says\n{ours.stdout}{ours.stderr}theirs\n{theirs['stdout']}")
        self.say(f"{name}: trace info says the same ({len(files)} files)", problems)

    def we_replay(self, name, files):
        problems = [] if files else ["no files"]
        for file in files:
            flags = REPLAY
            scenario = file.with_suffix(".json")
            if scenario.exists():
                flags = our_flags(json.loads(scenario.read_text())["flags"])
            run = self.ours("trace", "replay", file, *flags, "--virtual-time", "--no-csv")
            problems += judge(file, run.stdout, run.returncode, self.records(file), run.stderr)
        self.say(f"{name}: replayed here, 0 skipped, 0 failed ({len(files)} files)", problems)

    def they_replay(self, name, files):
        out = self.work / "replay"
        flags = [*REPLAY, "--disable-metrics", "--no-csv", "--output-dir", out]
        problems = [] if files else ["no files"]
        for file, run in zip(files, self.theirs([["trace", "replay", f, *flags] for f in files])):
            problems += judge(file, run["stdout"], run["status"], self.records(file), "")
        self.say(f"{name}: replayed by LMCache {RELEASE}, 0 skipped, 0 failed ({len(files)} files)", problems)

    def records(self, file):
        return json.loads(self.ours("trace", "info", "--json", file).stdout)["total_records"]

    # Conversion.

    def convert(self, name, sources, via_native=False):
        """Converts sources for the release. Returns the files."""
        folder = self.work / "converted"
        folder.mkdir(exist_ok=True)
        files, problems = [], []
        for source in sources:
            start = source
            if via_native:
                start = folder / (source.stem + ".native.lct")
                problems += self.command("trace", "convert", source, start, "--to", "native", "--force")
            file = folder / (source.stem + ("-round.lct" if via_native else ".lct"))
            broken = self.command("trace", "convert", start, file, "--to", "lmcache", "--release", RELEASE, "--force")
            if not broken:
                files.append(file)
            problems += broken
            if via_native and not broken and file.read_bytes() != source.read_bytes():
                problems.append(f"{source.name} comes back with other bytes")
        self.say(f"{name}: converted ({len(sources)} files)", problems)
        return files

    def command(self, *args):
        run = self.ours(*args)
        return [] if run.returncode == 0 else [f"lmcache {' '.join(map(str, args))}: status {run.returncode}\n{run.stderr}"]

    def record(self):
        """A recording of our own: a native file of a synthetic chat."""
        file = self.work / "own.lct"
        file.unlink(missing_ok=True)
        problems = self.command("bench", "storage", "--workload", "chat:3", "--requests", "60", "--speed", "30", "--virtual-time",
                                "--l1-size-gb", "0.5", "--eviction-policy", "LRU", "--layout", "[2,4,64,64]:bfloat16",
                                "--trace-level", "storage", "--trace-output", file)
        self.say("a workload is recorded here", problems)
        return file

    # Configuration.

    def configs(self, folder):
        sets = {f: json.loads(f.with_suffix(".flags").read_text()) for f in sorted(folder.glob("*.lct"))}
        same, other, digest = [], [], []
        for file, flags in sets.items():
            row = self.digest_row(file, flags)
            if not row.startswith("match ("):
                same.append(f"{' '.join(flags)}: {row}")
            for different in (s for s in sets.values() if s != flags):
                row = self.digest_row(file, different)
                if row.startswith("match (") and settings(flags) != settings(different):
                    other.append(f"recorded {' '.join(flags)}, run {' '.join(different)}: {row}")
            want, got = e1_digest(header_config(file), flags), self.our_digest(flags)
            if "--l2-adapter" not in flags and got != want:
                digest.append(f"{' '.join(flags)}: digest {got}; want {want}")
        self.say(f"configuration: equal flags match ({len(sets)} sets)", same)
        self.say(f"configuration: other flags do not match ({len(sets) * (len(sets) - 1)} pairs)", other)
        self.say("configuration: our digest is that of the released JSON in the form of 0.4.4 to 0.4.6", digest)

    def digest_row(self, file, flags):
        run = self.ours("trace", "replay", file, *flags, "--virtual-time", "--no-csv")
        m = re.search(r"^Config digest: +(.*)$", run.stdout, re.M)
        return m.group(1) if m else f"no digest row, status {run.returncode}: {run.stderr[-300:]}"

    def our_digest(self, flags):
        file = self.work / "digest.lct"
        file.unlink(missing_ok=True)
        self.ours("bench", "storage", "--workload", "chat:1", "--requests", "1", "--virtual-time", *flags,
                  "--trace-level", "storage", "--trace-output", file)
        return json.loads(self.ours("trace", "info", "--json", file).stdout).get("sm_config_digest")

    # Behaviour.

    def parity(self, folder):
        env = os.environ | {"LMCACHE_PARITY_DIR": str(folder)}
        run = subprocess.run(["go", "test", "./sm", "-run", "^TestParity$", "-count=1", "-v"], cwd=ROOT, env=env, capture_output=True, text=True)
        for scenario in sorted(folder.glob("*.json")):
            passed = f"--- PASS: TestParity/{scenario.stem} " in run.stdout
            n = len(json.loads(scenario.read_text())["records"])
            found = re.search(rf"=== RUN +TestParity/{scenario.stem}\n(.*?)\n===", run.stdout + "\n===", re.S)
            self.say(f"parity: {scenario.stem}, {n} records have the same outcome", [] if passed else [found[1] if found else run.stdout[-2000:]])


    # Folders of L2 files.

    def folders(self):
        """What one side stores in a folder the other loads, with plain and with direct I/O."""
        manifest = ROOT / "l2" / "fs" / "testdata" / "manifest.json"
        for adapter, fields in (("fs", {}), ("fs", {"use_odirect": True, "relative_tmp_dir": "t"}), ("fs_native", {}), ("fs_native", {"use_odirect": True})):
            for writer in ("LMCache", "ours"):
                folder = self.work / "folder"
                shutil.rmtree(folder, ignore_errors=True)
                text = json.dumps({"type": adapter, "base_path": str(folder), **fields})
                env = os.environ | {"LMCACHE_FS_FOLDER": str(folder), "LMCACHE_FS_ACTION": "write" if writer == "ours" else "read",
                                    "LMCACHE_FS_NATIVE": "1" if adapter == "fs_native" else "",
                                    "LMCACHE_FS_FIELDS": "".join(f", {json.dumps(k)}: {json.dumps(v)}" for k, v in fields.items())}
                ours = (["go", "test", "./l2/fs", "-run", "^TestExchange$", "-count=1"], env)
                script = [self.theirs_path, "-W", "ignore", str(ROOT / "interop" / "folder.py")]
                theirs = ([*script, "write" if writer == "LMCache" else "read", text, str(manifest)], None)
                problems = []
                for command, env in (theirs, ours) if writer == "LMCache" else (ours, theirs):
                    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
                    if run.returncode:
                        problems.append(f"{' '.join(command[-4:])}: status {run.returncode}\n{run.stdout[-1000:]}{run.stderr[-1000:]}")
                how = "".join(f", {k} {json.dumps(v)}" for k, v in fields.items())
                self.say(f"folder: {adapter}{how}: stored by {writer}, loaded by the other", problems)


def columns(text):
    """text without the width of its label columns."""
    return re.sub(r"^( +[\w() /.-]+:) +", r"\1 ", text, flags=re.M)


def judge(file, table, status, records, stderr):
    """The problems of one replay."""
    got = {k: int(n) for k, n in re.findall(r"^Records (\w+): +(\d+)$", table, re.M)}
    want = {"replayed": records, "skipped": 0, "failed": 0}
    if got == want and status == 0:
        return []
    return [f"{file.name}: {got}, status {status}; want {want}, status 0\n{stderr[-500:]}"]


def our_flags(flags):
    """A scenario's flags as this build takes them: ARC is played by LRU."""
    return ["LRU" if f == "ARC" else f.replace("@L2DIR@", tempfile.mkdtemp(prefix="l2-", dir=ROOT / "build" / "interop")) for f in flags]


def settings(flags):
    """flags without what says nothing about behaviour."""
    pairs = dict(zip(flags, [*flags[1:], ""]))
    for name in ("--no-l1-use-lazy", "--l1-init-size-gb"):
        pairs.pop(name, None)
    return {k: v for k, v in pairs.items() if k.startswith("--")}


def header_config(file):
    """sm_config_json of a trace without records: the last JSON object in it."""
    raw = file.read_bytes()
    at = raw.index(b"sm_config_json") + len(b"sm_config_json")
    return json.JSONDecoder().raw_decode(raw[at:].decode("latin1"), raw[at:].index(b"{"))[0]


def e1_digest(config, flags):
    """The digest of a 0.5.6 configuration in the form that 0.4.4 to 0.4.6 record."""
    l1 = config["l1_manager_config"]
    memory = {k: l1["memory_config"][k] for k in ("size_in_bytes", "init_size_in_bytes", "align_bytes")}
    memory["use_lazy"] = "--no-l1-use-lazy" not in flags  # 0.5.6 says false on a host without a GPU
    form = {k: config[k] for k in ("l2_adapter_config", "store_policy", "prefetch_policy", "prefetch_max_in_flight")}
    form["l1_manager_config"] = {"memory_config": memory} | {k: l1[k] for k in ("write_ttl_seconds", "read_ttl_seconds")}
    form["eviction_config"] = {k: config["eviction_config"][k] for k in ("eviction_policy", "trigger_watermark", "eviction_ratio")}
    if config["periodic_notifier_interval_ms"] != 5:  # ours keeps what that form has no place for
        form["periodic_notifier_interval_ms"] = config["periodic_notifier_interval_ms"]
    return hashlib.sha256(json.dumps(form, sort_keys=True).encode()).hexdigest()


def main(ours, theirs, work):
    c = Checks(ours, theirs, pathlib.Path(work))
    shutil.rmtree(c.work / "converted", ignore_errors=True)
    new = sorted((c.work / "new").glob("*.lct"))
    given = sorted((DATA / "parity").glob("*.lct")) + [DATA / "lct-v1" / "real-0.5.6.lct", DATA / "lct-v1-server" / "bench.lct"]
    c.info("recorded by LMCache", [*new, *given, DATA / "lct-v1" / "real-0.5.6-events.lct"])
    c.we_replay("recorded by LMCache", new + given)
    c.configs(c.work / "configs")
    c.parity(c.work / "new")
    c.folders()

    eras = sorted((DATA / "lct-v1").glob("real-*[0-9].lct")) + [DATA / "lct-v1" / f"tiny{n}.lct" for n in ("", "-newest", "-schema2")]
    round_trip = c.convert("0.5.6 to native and back, byte for byte", [f for f in new if f.stat().st_size < 2_000_000], via_native=True)
    for name, files in (("every release's traces to 0.5.6", eras), ("our own recording to 0.5.6", [c.record()])):
        files = c.convert(name, files)
        c.info(name, files)
        c.they_replay(name, files)
    c.info("0.5.6 to native and back", round_trip)
    print(f"{c.failed} checks failed" if c.failed else "all checks passed")
    return 1 if c.failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
