"""What the benches of a whole server share: the load generator, the mock upstream and the bare proxy of the harness, and
servers that are ended with the bench.

The harness is the folder `../shared/bench` beside the project, or what `TOKENMETER_HARNESS` names. It is built in
`target/bench`, where results, logs and data are too.
"""

import json
import os
import pathlib
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
WORK = TARGET / "bench"
TOOLS = WORK / "harness"
MOCK = "http://127.0.0.1:9100"
HYPER = "http://127.0.0.1:9204"
TOKENMETER = "http://127.0.0.1:9208/openai"
READY = "http://127.0.0.1:9209/readyz"
DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def prepare():
    """Builds the harness and tokenmeter; returns tokenmeter's path. `TOKENMETER_TEST_BINARY` names one that is built."""
    # So that `with` blocks end what they started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    source = pathlib.Path(os.environ.get("TOKENMETER_HARNESS", ROOT.parent / "shared" / "bench"))
    if not (source / "src" / "bin" / "loadgen.rs").exists():
        sys.exit(f"the load generator is not in {source}; set TOKENMETER_HARNESS to the folder that has bench.sh")
    # With their times, so that nothing is built twice. The original may be read-only.
    shutil.copytree(source, TOOLS, dirs_exist_ok=True, ignore=shutil.ignore_patterns("target", "out"))
    subprocess.run(["chmod", "-R", "u+w", TOOLS], check=True)
    outside = {name: value for name, value in os.environ.items() if name != "CARGO_TARGET_DIR"}
    subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=TOOLS, env=outside, check=True)
    # A stream is two connections.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    binary = os.environ.get("TOKENMETER_TEST_BINARY")
    if not binary:
        subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=ROOT, check=True)
        binary = TARGET / "release" / "tokenmeter"
    return pathlib.Path(binary).resolve()


def tool(name):
    return str(TOOLS / "target" / "release" / name)


def configuration(name, ledger='durability = "process"', rest="", keeps=False):
    """Writes a configuration with the mock as its upstream; its data folder is empty unless `keeps`."""
    folder = WORK / name
    if not keeps:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "tokenmeter.toml"
    config.write_text(
        f'[listen]\nproxy = "127.0.0.1:9208"\nadmin = "127.0.0.1:9209"\n[ledger]\ndirectory = "{folder}/data"\n{ledger}\n'
        f'[[upstream]]\nname = "openai"\nwire = "openai"\nbase_url = "{MOCK}"\n{rest}\n'
    )
    return config


class Server:
    """A server that runs while its `with` block does."""

    def __init__(self, label, command, url, env=None, probe=(), ready_url=None):
        self.label, self.command, self.url = label, [str(part) for part in command], url
        self.env, self.probe, self.ready_url = env, probe, ready_url

    def __enter__(self):
        log = open(WORK / f"{self.label}.log", "w")
        environment = {**os.environ, **(self.env or {})}
        self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env=environment)
        self.pid = self.process.pid
        for _ in range(600):
            answers = self.is_ready()
            time.sleep(0.1)
            # Whoever answers may be another, where the port was taken.
            if self.process.poll() is not None:
                break
            if answers:
                return self
        self.__exit__()
        sys.exit(f"{self.label} does not serve {self.url}; see {log.name}")

    def is_ready(self):
        """Whether a call is answered, or, to know a server that has had none, the URL that says so."""
        if not self.ready_url:
            return self.load("--requests", 1, "--conns", 1, *self.probe, quiet=True).get("ok")
        try:
            return DIRECTLY.open(self.ready_url, timeout=1).status == 200
        except OSError:
            return False

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def load(self, *arguments, quiet=False):
        """One run of the load generator against it: its result."""
        command = [tool("loadgen"), "--url", f"{self.url}/v1/chat/completions", "--label", self.label, "--pid", self.pid]
        run = subprocess.run(
            [str(part) for part in (*command, *arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
            text=True,
        )
        return json.loads(run.stdout) if run.stdout.strip() else {}

    def rss_mib(self):
        told = subprocess.run([tool("loadgen"), "--rss", str(self.pid)], stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(told.stdout)["rss_kib"] / 1024


def mock(threads=1):
    return Server("mock", [tool("mock-upstream"), "--port", 9100, "--threads", threads], MOCK)


def hyper():
    return Server("hyper", [tool("baseline-hyper"), 9204, "127.0.0.1:9100"], HYPER)


def tokenmeter(binary, config, **more):
    return Server("tokenmeter", [binary, "--config", config, "serve"], TOKENMETER, **more)


def fsync_seconds(folder, rounds=100):
    """What a synced append of a record takes on that disk, while nothing else writes: the median."""
    times, path = [], folder / "fsync"
    with open(path, "wb", buffering=0) as file:
        for _ in range(rounds):
            begun = time.perf_counter()
            file.write(b"x" * 700)
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begun)
    path.unlink()
    return statistics.median(times)


def table(heads, rows):
    """A Markdown table, its columns padded to be read in a terminal too."""
    rows = [[str(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    rows.insert(1, ["-" * width for width in widths])
    for row in rows:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")
