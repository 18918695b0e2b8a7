#!/usr/bin/env python3
"""Runs real programs natively and under sbx in the same Debian root filesystem and compares output and exit status.

run.py [--list] [--keep-going] [CASE...]     the cases are in cases.py
"""
import argparse
import difflib
import os
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "../util"))
sys.dont_write_bytecode = True
import box  # noqa: E402
from cases import CASES  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
box.add_paths(parser)
parser.add_argument("--list", action="store_true")
parser.add_argument("--box", default="sbx", help="what is compared with native: sbx, or another runtime's name")
parser.add_argument("cases", nargs="*")
arguments = parser.parse_args()
if arguments.list:
    print("\n".join(case[0] for case in CASES))
    sys.exit(0)
unknown = set(arguments.cases) - {case[0] for case in CASES}
if unknown:
    parser.error("no case " + ", ".join(sorted(unknown)))


def run(where, script, timeout):
    wrapped = "rm -rf /tmp/t; mkdir /tmp/t; cd /tmp/t; %s" % script
    return where.run(["bash", "-c", wrapped, "bash"], binds=[(os.path.join(HERE, "project"), "/opt/project")],
                     timeout=timeout)


failed = 0
root, (native, other) = box.open_boxes(arguments, ("native", arguments.box))
with root:
    for name, script, *rest in CASES:
        options = rest[0] if rest else {}
        if arguments.cases and name not in arguments.cases:
            continue
        timeout = options.get("timeout", 120)
        got = run(other, script, timeout)
        if options.get("native", True):
            want = run(native, script, timeout)
            expected, status, took = want.stdout, want.status, "native %.2fs" % want.wall
        else:
            expected, status, took = options["expect"], 0, ""
        same = got.stdout == expected and got.status == status
        print("%s %s (%s %.2fs %s)" % ("ok  " if same else "FAIL", name, arguments.box, got.wall, took), flush=True)
        if not same:
            failed += 1
            if got.status != status:
                how = "cut short after %ds" % timeout if got.timed_out else got.status
                print("  exit status %s, natively %s" % (how, status))
            for line in list(difflib.unified_diff(
                    expected.decode(errors="replace").splitlines(), got.stdout.decode(errors="replace").splitlines(),
                    "native", arguments.box, lineterm=""))[:40]:
                print("  " + line)
            print("  stderr: " + got.stderr.decode(errors="replace")[-1500:].replace("\n", "\n  "))
    native.close()
    other.close()
print("%d failed" % failed)
sys.exit(1 if failed else 0)
