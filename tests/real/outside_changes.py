#!/usr/bin/env python3
"""Changes that somebody outside makes in a running container's root filesystem, as an engine's `cp` does.

The container looks at files and names, is told that they were changed, and looks again: new, replaced, rewritten and
removed ones.
"""
import os
import sys
import threading
import time

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "../util"))
sys.dont_write_bytecode = True
import box  # noqa: E402

arguments = box.parse_arguments(__doc__)

INSIDE = """
cd /outside
look() { ls; for f in new replaced written removed sub/new; do cat $f 2>&1; done; }
look; look
touch /ready
for i in $(seq 200); do [ -e /changed ] && break; sleep 0.1; done
sleep 1.5
look
"""
BEFORE = ["removed\nreplaced\nsub\nwritten\n",
          "cat: new: No such file or directory\nold\nold\nold\ncat: sub/new: No such file or directory\n"]
AFTER = ["new\nreplaced\nsub\nwritten\n", "new\nother\nold, longer\ncat: removed: No such file or directory\nnew\n"]


def write(path, text):
    with open(path, "w") as f:
        f.write(text)


def change(root):
    end = time.monotonic() + 30
    while not os.path.exists(root + "/ready") and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(1.1)  # a second after the container's own last change
    at = root + "/outside/"
    write(at + "new", "new\n")
    write(at + "other", "other\n")
    os.rename(at + "other", at + "replaced")
    with open(at + "written", "w") as f:
        f.write("old, longer\n")
    os.unlink(at + "removed")
    write(at + "sub/new", "new\n")
    write(root + "/changed", "")


root, (sbx,) = box.open_boxes(arguments, ("sbx",))
with root:
    os.makedirs(root.path + "/outside/sub")
    for name in "replaced", "written", "removed":
        write(root.path + "/outside/" + name, "old\n")
    changer = threading.Thread(target=change, args=(root.path,))
    changer.start()
    got = sbx.run(["sh", "-c", INSIDE], timeout=60)
    changer.join()
wanted = "".join(BEFORE * 2 + AFTER)
if got.status != 0 or got.stdout.decode() != wanted:
    print("FAIL: exit status %s\n%s%s\nexpected\n%s" % (got.status, got.stdout.decode(), got.stderr.decode(), wanted))
    sys.exit(1)
