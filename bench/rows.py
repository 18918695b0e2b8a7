"""The rows of bench/run: what each runs in the container, what it finds there, and how fast it should be.

A row is one of three kinds. `micro` rows are loops of bench/micro.c. `time` rows are programs, timed inside the container,
so without its start. `script` rows are functions of bench/rows.sh that print their own figure (servers with their load).
All end in one line `name nanoseconds operations`. `start`, `exec`, `idle` and `density` rows are bench/run's own.
"""
import base64
import dataclasses
import hashlib
import io
import json
import os
import shutil
import tarfile

HERE = os.path.dirname(os.path.realpath(__file__))
# What the rows need beside the packages of every test.
PACKAGES = ("redis-server,redis-tools,nginx-light,wrk,iperf3,fio,sysbench,rt-tests,stress-ng,nodejs,ffmpeg,"
            "default-jre-headless,postgresql,npm,esbuild")


@dataclasses.dataclass
class Row:
    name: str
    kind: str
    argv: tuple = ()  # of `time` rows
    goal: tuple = ()  # (box, ratio): at most so many times as much as that box
    fresh: bool = False  # wants /bench/x empty
    writes: bool = False  # to the root filesystem: compared with and without a memory overlay
    warm: bool = False  # runs once before it is timed
    bytes: bool = False  # its figure is a size


def micro(name, goal=None, **more):
    return Row(name, "micro", (), ("native", goal) if goal else (), **more)


def program(name, argv, goal=None, **more):
    return Row(name, "time", tuple(argv.split()) if isinstance(argv, str) else tuple(argv),
               ("native", goal) if goal else (), **more)


def script(name, goal=None, **more):
    return Row(name, "script", (), ("native", goal) if goal else (), **more)


def loop(shell, count):
    return [shell, "-c", "i=0; while [ $i -lt %d ]; do /bin/true; i=$((i+1)); done" % count]


ROWS = [
    micro("cpu", 1.1), micro("getpid", 0.2), micro("getppid", 0.6), micro("null-call", 2), micro("clock_gettime", 1.2),
    micro("mmap-touch-munmap-64k", 1.1), micro("page-fault", 1.1), micro("futex-pingpong", 1.1), micro("line-round-trip"),
    micro("thread-create-join"), micro("signal-self"), micro("fork-wait", 1.5), micro("fork-exec-wait", 1.5),
    micro("spawn-wait", 1.2), micro("pipe-write-read", 1), micro("pipe-pingpong", 1), micro("unix-pingpong", 1),
    micro("tcp-pingpong"), micro("epoll-loop"), micro("stat", 1.5), micro("open-close", 1.5), micro("pread-4k", 1),
    micro("pread-64k", 1.2), micro("read-1m", 1.2), micro("pwrite-4k", writes=True), micro("pwrite-64k", 1.2, writes=True),
    micro("create-unlink", 1.5, writes=True),
    Row("start to exit", "start", goal=("crun", 1.5)), Row("exec true", "exec"), Row("idle PSS", "idle", bytes=True),
    Row("20 idle: start of the last", "density"), Row("20 idle: PSS of each", "density", bytes=True),
    program("sh: 200 x /bin/true", loop("sh", 200), 2), program("bash: 500 x /bin/true", loop("bash", 500), 1.5),
    program("find 20k files", "find /bench/tree -type f"),
    program("find 20k files + stat", "find /bench/tree -type f -size +100c", 1.5),
    program("find 20k files + stat, warm", "find /bench/tree -type f -size +100c", 1.2, warm=True),
    program("du 20k files, warm", "du -s /bench/tree", 1.2, warm=True),
    program("grep -r 20k files", ["sh", "-c", "! grep -r nomatch /bench/tree"]),
    program("git status", "git -C /bench/repo status --short", 1.2, warm=True),
    program("git clone --local", "git clone -q --no-hardlinks /bench/repo /bench/x/clone", 1.3, fresh=True, writes=True),
    program("tar c 20k files", ["sh", "-c", "tar -C /bench -cf - tree | wc -c"]),
    program("tar x 2000 files", "tar -C /bench/x -xf /bench/small.tar", 1.3, fresh=True, writes=True),
    program("cat 256 MiB", "cat /bench/big"),
    program("dd 64 MiB, fsync", "dd if=/dev/zero of=/bench/x/dd bs=64k count=1024 conv=fsync status=none", fresh=True,
            writes=True),
    script("fio randread 4k", 1.2), script("fio write 64k", 1.2, fresh=True, writes=True),
    script("fio randwrite 4k, tmpfs", 1.2),
    program("sqlite: 50k inserts", ["sh", "-c", "sqlite3 /bench/x/db </bench/inserts.sql"], 1.2, fresh=True, writes=True),
    program("sqlite: 100 commits", ["sh", "-c", "sqlite3 /bench/x/db </bench/commits.sql"], 1.2, fresh=True, writes=True),
    program("python3 -c pass", ["python3", "-c", "pass"], 1.3),
    program("python3 imports", ["python3", "-c", "import json, ssl, asyncio"], 1.3),
    program("node -e 0", "node -e 0", 1.2), program("java -version", "java -version"),
    program("gcc hello.c", "gcc -o /bench/x/hello /bench/hello.c"),
    program("gcc -O2 -c large.c", "gcc -O2 -c -o /bench/x/large.o /bench/large.c", 1.05),
    program("make -j2, 40 files", "make -s -j2 -C /bench/project O=/bench/x", 1.2, fresh=True),
    program("sysbench cpu", "sysbench cpu --events=1500 --time=0 run", 1.01),
    program("sysbench memory", "sysbench memory --memory-total-size=2G --time=0 run", 1.01),
    program("sysbench threads", "sysbench threads --threads=4 --thread-locks=2 --events=2000 --time=0 run"),
    program("npm ci --offline, 60 packages", ["sh", "-c", "cp -r /bench/npm/. /bench/x; cd /bench/x; "
                                              "HOME=/bench/x npm ci --offline --silent --no-audit"], fresh=True, writes=True),
    program("esbuild (Go), 300 modules", "esbuild /bench/js/0.js --bundle --minify --log-level=error --outfile=/bench/x/out.js",
            1.1, fresh=True),
    program("ffmpeg", "ffmpeg -v error -f lavfi -i testsrc=d=2:s=320x240 -c:v mpeg4 -f null -", 1.01),
    program("hackbench", "hackbench -g 1 -l 200"),
    program("stress-ng switch", "stress-ng -q --switch 1 --switch-ops 20000"),
    program("stress-ng futex", "stress-ng -q --futex 1 --futex-ops 20000"),
    script("redis SET -c20", 1.25), script("redis GET -c20", 1.25), script("redis GET -c20 -P16", 1.05),
    script("nginx 1 KiB -c16", 1.25), script("nginx 100 KiB -c16"), script("iperf3, a MiB", 1.05),
    script("iperf3 -P4, a MiB", 1.05), script("iperf3 -u, a MiB"),
    script("pgbench -S -c4", 1.25), script("pgbench -c4", 1.25, writes=True),
]

PROJECT = """CFLAGS = -O1
N := $(shell seq 40)
$(O)/all: $(N:%=$(O)/%.o)
	$(CC) -shared -o $@ $^
$(O)/%.o: %.c all.h
	$(CC) $(CFLAGS) -fPIC -c -o $@ $<
"""


def functions(first, count):
    """C of some size, as programs write it: no two functions alike, loops, calls of the ones before."""
    text = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
    for i in range(first, first + count):
        text += "int f%d(int *v, int n) { int s = %d; for (int i = 0; i < n; i++) { if (v[i] %% %d) s += v[i] * %d;" \
                " else s ^= i << %d; }" % (i, i, i % 7 + 2, i + 3, i % 5)
        text += " return s + (n > 1 ? f%d(v + 1, n / 2) : 0); }\n" % (i - 1) if i > first else " return s; }\n"
    return text


def write(path, content):
    with open(path, "wb" if isinstance(content, bytes) else "w") as f:
        f.write(content)


def npm_project(at):
    """A project with 60 packages of 20 files, which npm finds as archives in the project itself."""
    os.makedirs(at + "/packages")
    wanted, locked = {}, {}
    for n in range(60):
        name = "package%d" % n
        archive = "file:packages/%s.tgz" % name
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as tar:
            files = {"package.json": json.dumps({"name": name, "version": "1.0.0"})}
            files.update({"lib/%d.js" % i: functions_js(100 * n + i, 10) for i in range(20)})
            for path, text in files.items():
                info = tarfile.TarInfo("package/" + path)
                info.size = len(text)
                tar.addfile(info, io.BytesIO(text.encode()))
        write("%s/packages/%s.tgz" % (at, name), out.getvalue())
        wanted[name] = archive
        digest = base64.b64encode(hashlib.sha512(out.getvalue()).digest()).decode()
        locked["node_modules/" + name] = {"version": "1.0.0", "resolved": archive, "integrity": "sha512-" + digest}
    project = {"name": "project", "version": "1.0.0", "dependencies": wanted}
    write(at + "/package.json", json.dumps(project))
    write(at + "/package-lock.json", json.dumps({**project, "lockfileVersion": 3, "packages": {"": project, **locked}}))


def functions_js(first, count):
    return "".join("export function f%d(v) { let s = %d; for (const x of v) { if (x %% %d) s += x * %d; else s ^= x; } "
                   "return s; }\n" % (i, i, i % 7 + 2, i % 5 + 1) for i in range(first, first + count))


def modules_js(at, count):
    """Modules that all come from the first, ten from each."""
    os.mkdir(at)
    for n in range(count):
        below = [i for i in range(10 * n + 1, 10 * n + 11) if i < count]
        text = "".join('import * as m%d from "./%d.js";\n' % (i, i) for i in below)
        text += functions_js(1000 * n, 150) + "console.log(f%d, %s);\n" % (1000 * n, ", ".join("m%d" % i for i in below) or "0")
        write("%s/%d.js" % (at, n), text)


def fill(root, micro_program, box):
    """What the rows work on, in /bench of the root filesystem; `box` runs the programs that prepare it."""
    at = os.path.join(root, "bench")
    os.mkdir(at)
    os.mkdir(at + "/x")
    shutil.copy(micro_program, at)
    shutil.copy(os.path.join(HERE, "rows.sh"), at)
    block = os.urandom(1 << 20)
    write(at + "/file1m", block)
    write(at + "/big", block * 256)
    write(at + "/hello.c", '#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n')
    write(at + "/large.c", functions(0, 1500))
    npm_project(at + "/npm")
    modules_js(at + "/js", 300)
    os.mkdir(at + "/project")
    write(at + "/project/Makefile", PROJECT)
    write(at + "/project/all.h", "#include <unistd.h>\n")
    for i in range(1, 41):
        write(at + "/project/%d.c" % i, '#include "all.h"\n' + functions(1000 * i, 10))
    values = ["INSERT INTO t VALUES(%d, '%s');\n" % (i, block[i:i + 10].hex()) for i in range(50000)]
    table = "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT);\n"
    write(at + "/inserts.sql", table + "BEGIN;\n" + "".join(values) + "COMMIT;\n")
    write(at + "/commits.sql", table + "".join(values[:100]))
    for d in range(200):
        os.makedirs("%s/tree/%d/%d" % (at, d % 10, d))
        for i in range(100):
            write("%s/tree/%d/%d/file%d" % (at, d % 10, d, i), block[:i * 4])
    with tarfile.open(at + "/small.tar", "w") as tar:
        for i in range(2000):
            info = tarfile.TarInfo("%d/file%d" % (i % 20, i))
            info.size = 1000
            tar.addfile(info, io.BytesIO(block[:1000]))
    result = box.run(["sh", "/bench/rows.sh", "prepare"])
    if result.status != 0:
        raise RuntimeError("preparing the rows: " + result.stderr.decode(errors="replace")[-400:])
