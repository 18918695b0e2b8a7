#!/usr/bin/env python3
"""What runs in a container before its process (startContainer hooks), and the number that the process has.

--runtime runs the same with another runtime, whose answers these are.
"""
import argparse
import os
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "../util"))
sys.dont_write_bytecode = True
import box  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--runtime", help="another runtime than --sbx")
box.add_paths(parser)
arguments = parser.parse_args()
failed = []


def hooks(*scripts):
    return lambda config: config.update(hooks={"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", s]} for s in scripts]})


def on_the_host(config):
    config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "pid"]


def case(name, script, wanted, change, status=0):
    got = runtime.run(["sh", "-c", script], timeout=30, change=change)
    out = got.stdout.decode()
    fine = got.status == status and (wanted(out) if callable(wanted) else out == wanted)
    print("%s %s" % ("ok  " if fine else "FAIL", name))
    if not fine:
        failed.append(name)
        print("exit status %s\n%s%s" % (got.status, out, got.stderr.decode()))


root, (runtime,) = box.open_boxes(arguments, (arguments.runtime or "sbx",))
with root:
    os.mkdir(root.path + "/said")
    case("hooks-run-inside-and-before", "cat /said/*; echo $$", "first\nsecond\n1\n",
         hooks("[ $$ != 1 ] && echo first >/said/1", "cat /said/1 && echo second >/said/2"))
    case("hook-that-fails", "touch /said/process", "", hooks("touch /said/hook; exit 3"), status=1)
    case("it-came-no-further", "ls /said", "1\n2\nhook\n", lambda config: None)
    case("what-a-hook-leaves-behind", "sleep 1; cat /said/late; echo $$", "late\n1\n",
         hooks("(sleep 0.3; echo late >/said/late) </dev/null >/dev/null 2>&1 &"))
    case("number-of-the-host", "echo $$", lambda out: int(out) > 1, on_the_host)
    # It is no init: a signal that it has no handler for ends it.
    case("no-protection-there", "kill -TERM $$; sleep 0.1; echo alive", "", on_the_host, status=128 + 15)
    case("orphans-there", "(sleep 0.2 & echo $! >/said/orphan); sleep 0.6; kill -0 $(cat /said/orphan) 2>/dev/null || echo gone",
         "gone\n", on_the_host)
sys.exit(1 if failed else 0)
