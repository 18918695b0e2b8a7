#!/usr/bin/env python3
"""A guest that attacks the memory it shares with the sentry (hostile_guest.c), beside an honest neighbour in the same
container, whose results must stay right; afterwards the container must still answer.

hostile_test.py [--sbx FILE] [--guest FILE] [--seconds 10] [--seed N]
"""
import argparse
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../util"))
import box  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
box.add_paths(parser)
parser.add_argument("--guest", default=os.path.join(box.REPO, "build/tests/robust/hostile_guest"))
parser.add_argument("--seconds", type=int, default=10)
parser.add_argument("--seed", default="")
arguments = parser.parse_args()

SCRIPT = r"""
/opt/guest/%s %d %s & hostile=$!
want=$(seq 1 5000 | sha256sum) rounds=0 wrong=0
while kill -0 $hostile 2>/dev/null; do
  seq 1 5000 >/tmp/honest; got=$(cat /tmp/honest | sha256sum)
  rounds=$((rounds + 1)); [ "$got" = "$want" ] || { wrong=$((wrong + 1)); echo "got $got"; }
done
wait $hostile; echo "hostile $?"
[ $rounds -ge 3 ] && echo "honest $wrong wrong"; echo alive
"""
directory = os.path.dirname(os.path.realpath(arguments.guest))


def limits(config):
    config["linux"]["resources"] = {"memory": {"limit": 1 << 30}, "pids": {"limit": 400}}
    config["mounts"].append({"destination": "/opt/guest", "type": "bind", "source": directory, "options": ["rbind", "ro"]})


root, (sbx,) = box.open_boxes(arguments, ("sbx",))
with root:
    script = SCRIPT % (os.path.basename(arguments.guest), arguments.seconds, arguments.seed)
    container = sbx.prepare(["bash", "-c", script], change=limits)
    result = box.run_host([*sbx.command, "run", "--bundle", sbx.bundle, container], b"", arguments.seconds * 2 + 60,
                          on_timeout=lambda: sbx.delete(container))
    sbx.close()
out = result.stdout.decode(errors="replace")
ok = not result.timed_out and result.status == 0 and all(
    word in out for word in ("hostile 0", "honest 0 wrong", "alive"))
print(out)
if not ok:
    print("FAIL: exit status %s, cut short: %s" % (result.status, result.timed_out))
    print(result.stderr.decode(errors="replace")[-3000:])
sys.exit(0 if ok else 1)
