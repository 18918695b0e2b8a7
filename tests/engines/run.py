#!/usr/bin/env python3
"""Runs each case in a real engine once with runc and once with sbx, and compares output and exit status.

run.py [--engine docker|containerd|cri|podman|rootless|systemd] [--quick] [--list] [CASE...]     the cases are in *_cases.py

A case that runc itself cannot do on this machine is skipped, and why is printed. Needs root.
"""
import argparse
import atexit
import difflib
import os
import re
import shutil
import sys
import tempfile

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "../util"))
sys.dont_write_bytecode = True
import box  # noqa: E402
import subprocess  # noqa: E402
from engines import ENGINES, Missing  # noqa: E402
import containerd_cases  # noqa: E402
import cri_cases  # noqa: E402
import docker_cases  # noqa: E402
import podman_cases  # noqa: E402
import server_cases  # noqa: E402
import systemd_cases  # noqa: E402

PACKAGES = ("iproute2,iputils-ping,curl,nginx-light,redis-server,redis-tools,postgresql,openssh-server,openssh-client,"
            "nodejs,iperf3,caddy")
CASES = {"docker": docker_cases.CASES + server_cases.CASES, "containerd": containerd_cases.CASES, "cri": cri_cases.CASES,
         "podman": podman_cases.CASES, "rootless": podman_cases.ROOTLESS,
         "systemd": systemd_cases.CASES}
# A case whose output with runc has one of these compares nothing.
BROKEN = ("never: ", "No such container", "Invalid container name", "no such container", "Conflict.", "syntax error")
COMMON = r"""
exec 2>&1
pty() { script -qec "$*" /dev/null </dev/null | tr -d '\r\004' | sed 's/\^[@D]//g' | grep -v '^$'; }
wait_for() { local i; for i in $(seq 150); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done; echo "never: $*"; }
"""

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--sbx", default=os.path.join(box.REPO, "build/sbx"))
parser.add_argument("--engine", action="append", choices=sorted(ENGINES))
parser.add_argument("--quick", action="store_true", help="only the cases marked so, for CI")
parser.add_argument("--load", type=int, help="how many seconds servers are under load; default: a few")
parser.add_argument("--list", action="store_true")
parser.add_argument("cases", nargs="*")
arguments = parser.parse_args()


def chosen(engine):
    for name, script, *rest in CASES[engine]:
        options = rest[0] if rest else {}
        if arguments.cases and name not in arguments.cases and "%s.%s" % (engine, name) not in arguments.cases:
            continue
        if arguments.quick and not options.get("quick"):
            continue
        yield name, script, options


if arguments.list:
    for engine in CASES:
        for name, _, _ in chosen(engine):
            print("%s.%s" % (engine, name))
    sys.exit(0)
if os.geteuid() != 0:
    parser.error("run this as root")
root = subprocess.check_output([os.path.join(box.REPO, "scripts/make-rootfs"), os.path.join(box.REPO, "build/cache"),
                                "" if arguments.quick else PACKAGES], text=True).strip().splitlines()[-1]


def run(engine, runtime, script, timeout):
    environment = dict(os.environ, LC_ALL="C.UTF-8", **engine.use(runtime))
    if arguments.load:
        environment.update(LOAD=str(arguments.load), CLIENTS="90")
        timeout += 2 * arguments.load
    text = COMMON + engine.prelude() + script
    result = box.run_host(["bash", "-c", text, "bash"], timeout=timeout, environment=environment)
    said = result.stdout.decode(errors="replace")
    said = re.sub(r"\b(runc|sbx) (create|exec|start) failed", r"RUNTIME \2 failed", said)
    # Printed by docker's client or not, as its own threads happen to run.
    said = re.sub(r'time="[^"]*" level=error msg="error waiting for container: context canceled"\n', "", said)
    result.said = re.sub(r"/tmp/tmp\.\w+", "/tmp/DIR", said)
    box.run_host(["bash", "-c", engine.prelude() + engine.CLEAN], timeout=120, environment=environment)
    return result


# What is built meanwhile must not matter.
installed = tempfile.mkdtemp(prefix="sbx-bin-")
atexit.register(shutil.rmtree, installed)
os.chmod(installed, 0o755)
sbx = shutil.copy(os.path.realpath(arguments.sbx), os.path.join(installed, "sbx"))
os.chdir(installed)  # conmon leaves a file `oom` where podman was called

counts = {"ok": 0, "FAIL": 0, "skip": 0, "known": 0}
for name in arguments.engine or list(ENGINES):
    todo = list(chosen(name))
    if not todo:
        continue
    try:
        engine = ENGINES[name](sbx, root)
    except Missing as e:
        print("skip %s: %s" % (name, e))
        counts["skip"] += len(todo)
        continue
    try:
        for case, script, options in todo:
            timeout = options.get("timeout", 90)
            want = run(engine, "runc", script, timeout)
            expected = want.said
            if want.timed_out or ("must" in options and options["must"] not in expected):
                counts["skip"] += 1
                print("skip %s.%s: runc here: %s" % (name, case, expected.strip()[-300:]), flush=True)
                continue
            if any(word in expected for word in BROKEN):
                counts["FAIL"] += 1
                print("FAIL %s.%s: with runc already: %s" % (name, case, expected.strip()[-500:]), flush=True)
                continue
            result = run(engine, "sbx", script, timeout)
            got = result.said
            ok = got == expected and result.status == want.status and not result.timed_out
            if "known" in options:
                counts["known" if not ok else "FAIL"] += 1
                print("%s %s.%s: %s" % ("FAIL" if ok else "diff", name, case,
                                        "does work: take it off the list" if ok else options["known"]), flush=True)
                continue
            counts["ok" if ok else "FAIL"] += 1
            print("%s %s.%s (runc %.1fs, sbx %.1fs)" % ("ok  " if ok else "FAIL", name, case, want.wall, result.wall),
                  flush=True)
            if ok:
                continue
            if result.timed_out:
                print("  cut short after %d s" % timeout)
            elif result.status != want.status:
                print("  exit status %s, runc %s" % (result.status, want.status))
            for line in list(difflib.unified_diff(expected.splitlines(), got.splitlines(), "runc", "sbx",
                                                  lineterm=""))[:30]:
                print("  " + line)
    finally:
        engine.close()
print("%d passed, %d failed, %d skipped, %d known differences" % (counts["ok"], counts["FAIL"], counts["skip"],
                                                                   counts["known"]))
sys.exit(1 if counts["FAIL"] else 0)
