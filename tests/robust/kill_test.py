#!/usr/bin/env python3
"""Kills sentry, gofer, a stub or the sbx command of a busy container at a random moment, round after round, and checks
that `delete --force` ends everything and that nothing is left: no process, mount, cgroup or state.

kill_test.py [--sbx FILE] [--rounds 20] [--seed N]
"""
import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../util"))
import box  # noqa: E402

BUSY = "while :; do ls -lR /etc >/tmp/out | cat; (echo a; sleep 0.01) & wait; done"
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
box.add_paths(parser)
parser.add_argument("--rounds", type=int, default=20)
parser.add_argument("--seed", type=int, default=int(time.time()))
arguments = parser.parse_args()
random.seed(arguments.seed)


def processes_below(pid):
    """The process and its descendants: (pid, name)."""
    parents, names = {}, {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open("/proc/%s/stat" % entry) as f:
                    text = f.read()
            except OSError:
                continue
            names[int(entry)] = text[text.index("(") + 1:text.rindex(")")]
            parents[int(entry)] = int(text[text.rindex(")") + 2:].split()[1])
    found = [pid]
    for p in found:
        found += [c for c, parent in parents.items() if parent == p]
    return [(p, names[p]) for p in found if p in names]


def alive(pid):
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def cgroups(name):
    return [d for base in ("/sys/fs/cgroup",) for d, _, _ in os.walk(base) if os.path.basename(d) == name]


def eventually(check, seconds=10):
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


bad = 0
root, (sbx,) = box.open_boxes(arguments, ("sbx",))
state = tempfile.mkdtemp(prefix="sbx-state-")
sbx.command += ["--root", state]
with root:
    for number in range(arguments.rounds):
        container = sbx.prepare(["bash", "-c", BUSY])
        command = subprocess.Popen([*sbx.command, "run", "--bundle", sbx.bundle, container], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        # Half of them while it starts.
        time.sleep(random.uniform(0.001, 0.03) if number % 2 else random.uniform(0.02, 1.0))
        everything = processes_below(command.pid)
        victim, name = random.choice(everything)
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            pass
        time.sleep(random.uniform(0, 0.2))
        everything += processes_below(command.pid)
        problems = []
        result = sbx.call("delete", "--force", container, timeout=20)
        if result.timed_out:
            problems.append("delete --force hung")
        try:
            command.wait(10)
        except subprocess.TimeoutExpired:
            problems.append("sbx run hung")
            command.kill()
            command.wait()
        if command.returncode == 0:
            problems.append("sbx run ended with status 0")
        if not eventually(lambda: not any(alive(p) for p, _ in everything)):
            problems.append("left running: %s" % [(p, n) for p, n in everything if alive(p)])
            for p, _ in everything:
                if alive(p):
                    os.kill(p, signal.SIGKILL)
        if not eventually(lambda: not cgroups(container), 5):
            problems.append("cgroups left: %s" % cgroups(container))
        if os.path.exists(os.path.join(state, container)):
            problems.append("state left")
        with open("/proc/self/mounts") as mounts:
            if container in mounts.read():
                problems.append("a mount left")
        if problems:
            bad += 1
            print("round %d: killed %s: %s" % (number, name, "; ".join(problems)), flush=True)
    sbx.close()
print("%d rounds, %d bad (seed %d)" % (arguments.rounds, bad, arguments.seed))
sys.exit(1 if bad else 0)
