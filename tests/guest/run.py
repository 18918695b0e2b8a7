#!/usr/bin/env python3
"""Runs the guest test program natively or under sbx, in the same Debian root filesystem.

run.py --box native|sbx --program FILE [--expect FILE] [FAMILY[.NAME]...]

A test named in the expectations file (lines "BOX TEST reason") must fail in that box: one that passes is reported too,
so the list can only shrink.
"""
import argparse
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../util"))
import box  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
box.add_paths(parser)
parser.add_argument("--box", default="sbx")
parser.add_argument("--program", default=os.path.join(box.REPO, "build/tests/guest/guest_tests"))
parser.add_argument("--expect", default=os.path.join(os.path.dirname(os.path.realpath(__file__)), "expect.txt"))
parser.add_argument("--dir", default="/tmp", help="where the tests work: a directory of the root filesystem or a tmpfs")
parser.add_argument("--execs", type=int, default=0, help="how often the program executes itself before it begins")
parser.add_argument("--timeout", type=float, default=600)
parser.add_argument("tests", nargs="*")
arguments = parser.parse_args()

expected = {}
if os.path.exists(arguments.expect):
    for line in open(arguments.expect):
        words = line.split("#")[0].split(None, 2)
        if len(words) >= 2 and words[0] == arguments.box:
            expected[words[1]] = words[2].strip() if len(words) > 2 else ""

root, (where,) = box.open_boxes(arguments, (arguments.box,))
with root:
    directory = os.path.dirname(os.path.realpath(arguments.program))
    result = where.run(["/opt/guest/" + os.path.basename(arguments.program), *arguments.tests],
                       binds=[(directory, "/opt/guest")], cwd="/", timeout=arguments.timeout,
                       environment={"GUEST_DIR": arguments.dir, "GUEST_EXECS": str(arguments.execs)})
    where.close()
out = result.stdout.decode(errors="replace")
ran = dict((m[2], m[1]) for m in re.finditer(r"^(ok  |FAIL|skip) (\S+)", out, re.M))
details = []
for line in out.splitlines():
    if line.startswith("  "):
        details.append(line)
        continue
    name = line[5:].split()[0] if len(line) > 5 else ""
    if line.startswith("FAIL") and name not in expected:
        print("\n".join([line, *details]))
    details = []
bad = [n for n, how in ran.items() if how == "FAIL" and n not in expected]
surprises = [n for n, how in ran.items() if how == "ok  " and n in expected]
for name in surprises:
    print("unexpected success: %s (remove it from %s)" % (name, os.path.basename(arguments.expect)))
finished = re.search(r"^\d+ tests, \d+ failed", out, re.M) is not None
if not finished:
    how = "took longer than %gs" % arguments.timeout if result.timed_out else "exit status %s" % result.status
    print("the test program did not finish (%s); last test that ended: %s" % (how, list(ran)[-1] if ran else "none"))
    print(result.stderr.decode(errors="replace")[-2000:])
known = sum(1 for n, how in ran.items() if how == "FAIL" and n in expected)
print("%s: %d ran, %d failed, %d expected failures, %d skipped" % (
    arguments.box, len(ran), len(bad), known, sum(1 for how in ran.values() if how == "skip")))
sys.exit(0 if finished and not bad and not surprises and ran else 1)
