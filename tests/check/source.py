#!/usr/bin/env python3
"""Checks the source for what compilers do not see. source.py [ROOT]

TRY stands alone: inside braces the elements already built would leak when it returns. No unfinished-work marks, no
nlohmann/json outside oci, no spdlog outside the log, no file too long to read.
"""
import os
import re
import subprocess
import sys

root = os.path.realpath(sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "../.."))
LONGEST = 900
wrong = []
names = subprocess.check_output(["git", "-C", root, "ls-files", "*.cc", "*.h"], text=True).split()
for path in names:
    if not os.path.exists(os.path.join(root, path)):
        continue
    with open(os.path.join(root, path), encoding="utf-8") as source:
        text = source.read()
    if text.count("\n") > LONGEST:
        wrong.append("%s: %d lines, more than %d" % (path, text.count("\n"), LONGEST))
    for number, line in enumerate(text.splitlines(), 1):
        code = line.split("//")[0]
        # A brace that opens before TRY and closes after it on one line, and is no block (no statement end within).
        if re.search(r"[\w>]\s*\{[^{};]*[\w,]\s*\bTRY\(|[\w>]\s*\{TRY\([^;]*\),", code) and not re.search(r"\)\s*(const\s*)?\{|else\s*\{|do\s*\{", code):
            wrong.append("%s:%d: TRY inside braces" % (path, number))
        if re.search(r"\b(TODO|FIXME|XXX)\b", line):
            wrong.append("%s:%d: unfinished work is counted with STUB, not marked" % (path, number))
    if "nlohmann/" in text and not path.startswith(("oci/", "tests/")):
        wrong.append("%s: nlohmann/json outside oci" % path)
    if "<spdlog/" in text and path != "sentry/base/log.cc":
        wrong.append("%s: spdlog outside sentry/base/log.cc" % path)
print("\n".join(wrong) if wrong else "%d files are fine" % len(names))
sys.exit(1 if wrong else 0)
