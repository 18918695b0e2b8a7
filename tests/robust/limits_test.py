#!/usr/bin/env python3
"""Guests that take all they can get: each must end with Linux's errno or a killed guest process, and the container must
still answer: the same shell prints a word afterwards.

limits_test.py [--sbx FILE] [--seconds 10]
"""
import argparse
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../util"))
import box  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
box.add_paths(parser)
parser.add_argument("--seconds", type=int, default=10, help="for how long each hostile guest runs")
arguments = parser.parse_args()
GUESTS = {
    "fork": "python3 -c 'import os\nwhile True:\n  try: os.fork()\n  except OSError: pass'",
    "memory": "python3 -c 'l=[]\nwhile True: l.append(bytearray(1<<20))'",
    "descriptors": "python3 -c 'import os\nl=[]\nwhile True:\n  try: l.append(os.open(\"/dev/null\", 0))\n"
                   "  except OSError as e:\n    assert e.errno == 24, e; break'",
    "disk": "dd if=/dev/zero of=/dev/shm/fill bs=1M 2>&1 | grep -c 'No space left'",
}


def limits(config):
    config["linux"]["resources"] = {"memory": {"limit": 256 << 20}, "pids": {"limit": 100}}


bad = 0
root, (sbx,) = box.open_boxes(arguments, ("sbx",))
with root:
    for name, guest in GUESTS.items():
        script = "timeout -s KILL %d %s >/dev/null 2>&1; pkill -9 python3; sleep 0.5; rm -f /dev/shm/fill; echo alive" % (
            arguments.seconds, "bash -c \"$1\"")
        container = sbx.prepare(["bash", "-c", script, "bash", guest], change=limits)
        result = box.run_host([*sbx.command, "run", "--bundle", sbx.bundle, container], b"", arguments.seconds + 60,
                              on_timeout=lambda: sbx.delete(container))
        ok = result.stdout.strip() == b"alive" and result.status == 0
        bad += not ok
        print("%s %s" % ("ok  " if ok else "FAIL", name) + ("" if ok else " (exit status %s, cut short: %s) %s" % (
            result.status, result.timed_out, (result.stdout + result.stderr)[-300:])), flush=True)
    sbx.close()
sys.exit(1 if bad else 0)
