"""The real programs: (name, shell script or argv, options). Each is run natively and under sbx, from an empty /tmp/t.

Scripts print what must be equal; what must differ (process ids, times, host numbers) they leave out or replace.
"""

TREE = r"""
mk() { for d in $(seq 100); do mkdir d$d; for f in $(seq 100); do echo "$d.$f" >d$d/f$f; done; done; }
"""

CASES = [
    ("bash-pipelines", r"""
seq 1 2000 | grep 7 | sort -rn | head -n 5 | tr '\n' ' '; echo
printf 'b\na\nc\n' | sort | tee copy | wc -l; cat copy
false | true; echo "${PIPESTATUS[@]}"
set -o pipefail; false | true; echo $?
for i in 1 2 3; do echo $i; done | while read x; do echo "<$x>"; done
yes | head -n 3; echo "${PIPESTATUS[@]}"
"""),
    ("bash-here-documents", r"""
name=world
cat <<END
hello $name $((6 * 7)) $(echo nested)
END
cat <<'END'
no $expansion
END
cat <<-END
	tabs stripped
	END
tr a-z A-Z <<<"here string"
"""),
    ("bash-subshells", r"""
x=1; (x=2; cd /; echo "$x $PWD"); echo "$x $PWD"
echo $( (echo a; exit 3) ); (exit 7); echo $?
{ echo group; } >out; cat out
f() { local y=5; echo $((y * 2)); return 4; }; f; echo $?
diff <(seq 3) <(seq 4); echo $?
cat <(echo one) <(echo two) > >(sort -r); wait; sleep 0.2
coproc CAT { cat; }; echo via coproc >&"${CAT[1]}"; read -r line <&"${CAT[0]}"; echo "$line"
"""),
    ("bash-traps", r"""
trap 'echo got USR1' USR1; kill -USR1 $$; trap 'echo on exit' EXIT
(trap 'echo inner TERM; exit 5' TERM; kill -TERM $BASHPID; sleep 5); echo $?
trap 'echo err' ERR; false; trap - ERR
(ulimit -c 0; kill -SEGV $BASHPID); echo $?
timeout 0.2 sleep 5; echo $?
timeout -s KILL 0.2 sleep 5; echo $?
"""),
    ("bash-background-jobs", r"""
sleep 0.1 & a=$!; sleep 0.2 & b=$!; wait $a; echo $?; wait $b; echo $?
(exit 9) & wait $!; echo $?
for i in 1 2 3 4; do (echo line $i >part$i) & done; wait; cat part1 part2 part3 part4
sleep 10 & kill $!; wait $! 2>/dev/null; echo $?
set -m; sleep 10 & kill -STOP %1; sleep 0.2; jobs | sed 's/ *sleep/ sleep/'; kill -CONT %1; kill %1; wait %1 2>/dev/null; echo $?
"""),
    ("shell-loop", "i=0; while [ $i -lt 100 ]; do /bin/true; i=$((i+1)); done; echo $i"),
    # What programs are made of is kept at hand for the next; so it has to change when they do.
    ("programs-replaced", r"""
run() { for i in 1 2 3 4 5 6 7 8; do "$@" >/dev/null 2>&1; done; "$@" 2>/dev/null; echo "$1: $?"; }
cp /bin/true p; run ./p; cp /bin/false q; mv q p; run ./p; cat /bin/true >p; run ./p; rm p; run ./p
cp /bin/echo p; run ./p hello; chmod 700 p; run setpriv --reuid 65534 --clear-groups ./p hello; run ./p hello
lib() { echo "int value(void) { return $1; }" | gcc -shared -fPIC -x c -o $2 -; }
cat >main.c <<'END'
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
int value(void);
int main(int argc, char **argv) {
  unsigned long lowest = 0, base = getauxval(AT_BASE), pair[2], seen = 0;
  char line[512], name[256];
  FILE *maps = fopen("/proc/self/maps", "r"), *auxv = fopen("/proc/self/auxv", "r");
  while (fgets(line, sizeof(line), maps))
    if (lowest == 0 && sscanf(line, "%*s %*s %*s %*s %*s %255s", name) == 1 && strstr(name, "/ld")) sscanf(line, "%lx", &lowest);
  while (fread(pair, sizeof(pair), 1, auxv) == 1)
    if (pair[0] == AT_BASE) seen = pair[1];
  printf("%d %d %d\n", value(), base == lowest, base == seen);
  if (argc > 1) printf("%lx\n", base);
  return 0;
}
END
mkdir lib; lib 1 lib/liba.so; gcc -o main main.c -Llib -la -Wl,-rpath,$PWD/lib; run ./main
lib 2 new.so; mv new.so lib/liba.so; run ./main; lib 3 new.so; cat new.so >lib/liba.so; run ./main
cp $(readlink -f /lib64/ld-linux-x86-64.so.2) ld-own.so; gcc -o other main.c -Llib -la -Wl,-rpath,$PWD/lib -Wl,--dynamic-linker=$PWD/ld-own.so
run ./other; run ./main; for i in 1 2 3 4 5 6; do ./other; ./main; busybox true; done
run /lib64/ld-linux-x86-64.so.2 ./other; rm ld-own.so; run ./other; run ./main
for i in $(seq 12); do ./main base | tail -n 1; done | sort -u | wc -l
chmod 600 lib/liba.so; run setpriv --reuid 65534 --clear-groups ./main; chmod 644 lib/liba.so; run setpriv --reuid 65534 --clear-groups ./main
"""),
    ("coreutils-tree", TREE + r"""
mk; find . -type f | wc -l; find . -name 'f9*' -size -2 | sort | head -n 5
ls -lR --time-style=+ . | sort | sha256sum
du -s --apparent-size . >/dev/null && echo du; cp -a . /tmp/t-copy; diff -r . /tmp/t-copy && echo same
mv /tmp/t-copy/d1 /tmp/t-copy/moved; ls /tmp/t-copy | wc -l
find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum
rm -r /tmp/t-copy; ls /tmp | grep -c t-copy
chmod -R go-r d2; stat -c '%a %s %F %h' d2 d2/f1; ln d3/f1 hard; stat -c %h hard
""", {"timeout": 300}),
    # One file after the other in the order of the directory, with changes ahead of the reader. The files are of a lower
    # layer; the second run (under sbx) takes others, as those of the first have been copied up. Nothing has opened them
    # before: what they hold the package manager knows.
    ("files-in-order", r"""
python3 - <<'END'
import glob, hashlib, mmap, os
second = os.path.exists("/var/tmp/first")
open("/var/tmp/first", "w").close()
sums = {}
for package in glob.glob("/var/lib/dpkg/info/*python3.11*.md5sums"):
    for line in open(package):
        value, name = line.split()
        sums[name] = value
def walk(top, changes_names):
    with os.scandir(top) as found:
        order = [e.path for e in found if e.is_file(follow_symlinks=False)]
    checks = {}
    def is_sum(path):
        return lambda data: hashlib.md5(data).hexdigest() == sums[path[1:]]
    wrong = 0
    for i, path in enumerate(order):
        check = checks.get(path, is_sum(path))
        with open(path, "rb") as f:
            if os.fstat(f.fileno()).st_size:
                with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                    wrong += not check(mapped[:])
            wrong += not check(f.read())
        if i + 9 >= len(order) or i % 10 != 3:
            continue
        a, b, c, d = order[i + 1:i + 5]
        with open(a, "ab") as f:
            f.write(b"appended")
        checks[a] = lambda data, a=a: data.endswith(b"appended") and is_sum(a)(data[:-8])
        os.truncate(b, 3)
        checks[b] = lambda data: len(data) <= 3
        os.chmod(c, 0o600)
        with open(c, "r+b") as f:
            f.write(b"over")
        checks[c] = lambda data: data[:4] == b"over"
        os.setxattr(d, "user.a", b"b")
        fd = os.open(d, os.O_WRONLY)
        os.pwrite(fd, b"x", 0)
        os.close(fd)
        checks[d] = lambda data: data[:1] == b"x"
        if not changes_names:  # each such change ends what was opened ahead
            continue
        a, b, c, d = order[i + 5:i + 9]
        with open("new", "wb") as f:
            f.write(b"new %d" % i)
        os.rename("new", a)
        checks[a] = lambda data, i=i: data == b"new %d" % i
        os.unlink(b)
        with open(b, "wb") as f:
            f.write(b"again")
        checks[b] = lambda data: data == b"again"
        os.rename(c, "aside")
        os.rename(d, c)
        os.rename("aside", d)
        checks[c], checks[d] = is_sum(d), is_sum(c)
    print(wrong, len(order) > 15)
lib = "/usr/lib/python3.11/"
walk(lib + ("encodings" if second else "asyncio"), False)
walk(lib + ("email" if second else "multiprocessing"), True)
END
"""),
    ("tar", TREE + r"""
mk; tar cf all.tar d*; tar tf all.tar | wc -l; mkdir out; tar -C out -xf all.tar; diff -r d5 out/d5 && echo same
tar czf all.tgz d1; gzip -t all.tgz && echo gzip
""", {"timeout": 300}),
    ("text-tools", r"""
seq 1 5000 | sha256sum; seq 5000 | shuf --random-source=<(yes) | sort -n | md5sum; seq 100 | split -l 10 - part; ls part* | wc -l
seq 10 | sed -n '2,4p;s/7/seven/p'; seq 20 | awk '{s+=$1} END {print s}'; head -c 1000000 /dev/zero | wc -c
dd if=/dev/zero of=f bs=64k count=16 2>/dev/null; stat -c %s f; truncate -s 10 f; od -c f | head -n 2; comm -12 <(seq 5) <(seq 3 8)
date -d @0 -u +%F; printf '%s\n' a b | paste -sd,; echo hello | rev; basename /x/y.z .z; realpath .; id -un; env | grep ^HOME
"""),
    ("dpkg", r"""
mkdir -p pkg/DEBIAN pkg/usr/share/localpkg; echo data >pkg/usr/share/localpkg/file
printf 'Package: localpkg\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: a test\n' >pkg/DEBIAN/control
printf '#!/bin/sh\necho postinst $1\n' >pkg/DEBIAN/postinst; chmod 755 pkg/DEBIAN/postinst
dpkg-deb --root-owner-group -b pkg localpkg.deb >/dev/null && echo built
dpkg -i localpkg.deb 2>&1 | grep -v 'Reading database'; dpkg -s localpkg | grep Status; cat /usr/share/localpkg/file
dpkg -r localpkg 2>&1 | grep -v 'Reading database'; ls /usr/share/localpkg 2>/dev/null | wc -l
apt-get install -y ./localpkg.deb >apt.log 2>&1; echo $?; dpkg -s localpkg | grep Status; dpkg -P localpkg >/dev/null; echo $?
""", {"timeout": 300}),
    ("perl", r"""
perl -e 'my %h = map { $_ => $_ ** 2 } 1..5; print join(",", map { "$_=$h{$_}" } sort keys %h), "\n";'
perl -e 'pipe(R, W); if (my $p = fork) { close W; print "from child: ", <R>; waitpid $p, 0; print $? >> 8, "\n" } else { print W "hi\n"; exit 6 }'
perl -MFile::Find -e 'find(sub { $n++ }, "/usr/share/perl5"); print $n > 10 ? "ok\n" : "few\n"'
perl -e '$SIG{ALRM} = sub { print "alarm\n"; exit }; alarm 1; sleep 5'
"""),
    ("python-threads", r"""
cat >t.py <<'END'
import threading, queue
q = queue.Queue(); out = []
def work():
    while (n := q.get()) is not None:
        out.append(n * n)
ts = [threading.Thread(target=work) for _ in range(8)]
[t.start() for t in ts]; [q.put(i) for i in range(1000)]; [q.put(None) for _ in ts]; [t.join() for t in ts]
print(sum(out), len(out))
END
python3 t.py
"""),
    ("python-subprocess", r"""
cat >t.py <<'END'
import subprocess, os, signal, tempfile, pathlib
print(subprocess.run(["sh", "-c", "cat; exit 3"], input=b"in", capture_output=True))
print(sum(int(subprocess.check_output(["echo", str(i)])) for i in range(30)))
p = subprocess.Popen(["sleep", "10"]); p.send_signal(signal.SIGTERM); print(p.wait())
try: subprocess.run(["sleep", "5"], timeout=0.2)
except subprocess.TimeoutExpired: print("timeout")
try: subprocess.run(["/absent"])
except FileNotFoundError as e: print(e)
with tempfile.TemporaryDirectory() as d: pathlib.Path(d, "x").write_text("y"); print(os.listdir(d))
END
python3 t.py
"""),
    ("python-multiprocessing", r"""
cat >t.py <<'END'
import multiprocessing as mp
def f(x): return x * x
def g(q, l):
    with l: q.put("child")
if __name__ == "__main__":
    with mp.Pool(3) as p: print(sum(p.map(f, range(200))))
    q, l = mp.Queue(), mp.Lock(); p = mp.Process(target=g, args=(q, l)); p.start(); print(q.get()); p.join(); print(p.exitcode)
    v = mp.Value("i", 0); print(v.value)
END
python3 t.py
"""),
    ("python-asyncio", r"""
cat >t.py <<'END'
import asyncio, socket
async def main():
    r = await asyncio.gather(*(asyncio.sleep(0.01, i) for i in range(50))); print(sum(r))
    p = await asyncio.create_subprocess_exec("echo", "sub", stdout=asyncio.subprocess.PIPE); print((await p.communicate())[0])
    async def echo(r, w): w.write((await r.readline()).upper()); await w.drain(); w.close()
    s = await asyncio.start_unix_server(echo, "sock"); r, w = await asyncio.open_unix_connection("sock")
    w.write(b"over a socket\n"); print(await r.readline()); w.close(); s.close()
    print(await asyncio.to_thread(lambda: "thread"))
asyncio.run(main())
END
python3 t.py
"""),
    ("python-network", r"""
cat >n.py <<'E'
import asyncio, hashlib, http.server, socket, threading, urllib.request
class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *a): pass
open("page", "wb").write(bytes(range(256)) * 2000)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = "http://127.0.0.1:%d/page" % server.server_port
def fetch(out, i): out[i] = hashlib.sha256(urllib.request.urlopen(url).read()).hexdigest()
out = [None] * 40
threads = [threading.Thread(target=fetch, args=(out, i)) for i in range(40)]
[t.start() for t in threads]; [t.join() for t in threads]
print(len(out), set(out))
try: urllib.request.urlopen(url + "no")
except Exception as e: print(e)
async def main():
    async def serve(r, w):
        while line := await r.readline(): w.write(line.upper()); await w.drain()
        w.close()
    s = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = s.sockets[0].getsockname()[1]
    async def client(i):
        r, w = await asyncio.open_connection("127.0.0.1", port)
        got = 0
        for k in range(50):
            w.write(b"client %d line %d\n" % (i, k)); got += len(await r.readline())
        w.close(); return got
    print(sum(await asyncio.gather(*(client(i) for i in range(30)))))
    loop = asyncio.get_running_loop()
    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, t): self.t = t
        def datagram_received(self, d, a): self.t.sendto(d[::-1], a)
    t, _ = await loop.create_datagram_endpoint(Echo, ("127.0.0.1", 0))
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.setblocking(False)
    u.connect(t.get_extra_info("sockname")); u.send(b"abc"); print(await loop.sock_recv(u, 9))
asyncio.run(main())
try: socket.create_connection(("127.0.0.1", 1))
except OSError as e: print(e)
print(socket.getaddrinfo("localhost", 80, socket.AF_INET, socket.SOCK_STREAM), [n for _, n in socket.if_nameindex()])
E
python3 n.py
"""),
    # In a network namespace of the sandbox's own. Natively nobody can say which of the host's ports are taken.
    ("low-ports", r"""
python3 -c '
import os, socket
s = socket.socket(); s.bind(("0.0.0.0", 80)); s.listen(); print(s.getsockname())
socket.create_connection(("127.0.0.1", 80)).close()
os.setuid(1000)
try: socket.socket().bind(("0.0.0.0", 81))
except PermissionError as e: print(e)
'
""", {"native": False, "expect": b"('0.0.0.0', 80)\n[Errno 13] Permission denied\n"}),
    ("python-sqlite3", r"""
python3 -c '
import sqlite3
c = sqlite3.connect("x.db"); c.execute("create table t(a, b)")
with c: c.executemany("insert into t values(?, ?)", ((i, str(i)) for i in range(5000)))
try:
    with c: c.execute("delete from t"); raise KeyError
except KeyError: pass
print(c.execute("select count(*), sum(a) from t").fetchone()); c.execute("pragma journal_mode=wal"); c.close()'
"""),
    ("sqlite3-transactions", r"""
sqlite3 x.db 'create table t(a integer primary key, b text); begin; insert into t(b) select hex(randomblob(8)) from (with recursive n(x) as (select 1 union all select x+1 from n where x<2000) select x from n); commit; select count(*) from t;'
sqlite3 x.db 'begin; delete from t; rollback; select count(*), max(a) from t; pragma integrity_check;'
for i in 1 2 3 4; do sqlite3 -cmd '.timeout 10000' x.db "begin immediate; update t set b='w$i' where a=$i; commit;" & done; wait
sqlite3 x.db 'select b from t where a<5 order by a; pragma journal_mode=wal; insert into t(b) values(1); select count(*) from t'
"""),
    ("gcc", r"""
printf '#include <stdio.h>\n#include <math.h>\nint main(int c, char**v){printf("%%d %%.3f %%s\\n", c, sqrt(2), v[1]);return 3;}\n' >m.c
gcc -O2 -Wall -o m m.c -lm && ./m x; echo $?; gcc -c -g m.c && objdump -f m.o | grep format; echo 'int main(' >bad.c; gcc bad.c 2>&1 | grep -c error
gcc -static -o ms m.c -lm && ./ms y; echo $?
"""),
    ("make-project", "cp -r /opt/project/. . && make -s -j2 && ./calc '2*(3+4)-10/5' '7%' 'max(3,9)^2'; make -s -j2 check; make -s clean; ls"),
    ("git", r"""
export GIT_AUTHOR_DATE='2001-01-01T00:00:00Z' GIT_COMMITTER_DATE='2001-01-01T00:00:00Z'
git config --global user.name t; git config --global user.email t@example.org; git config --global init.defaultBranch main
git init -q r; cd r; for i in $(seq 30); do echo $i >f$i; git add f$i; git commit -q -m "commit $i"; done
git log --oneline | sha256sum; git checkout -q -b b HEAD~5; echo x >f1; git commit -qam x; git merge -q -m merge main; git log --oneline | wc -l
git gc -q; git fsck --strict; git count-objects -v | grep -E 'packs|in-pack'; git status --short; git clone -q . ../c; git -C ../c log --oneline | head -n 2
""", {"timeout": 300}),
    ("busybox-ash", r"""
cat >s.sh <<'END'
i=0; while [ $i -lt 30 ]; do i=$((i+1)); /bin/busybox true; done; echo $i
echo a b c | /bin/busybox awk '{print $2}'; /bin/busybox seq 5 | /bin/busybox tac | /bin/busybox xargs
trap 'echo bye' EXIT; x=$(/bin/busybox expr 3 + 4); echo $x; (exit 4); echo $?
/bin/busybox find /etc -name passwd; /bin/busybox sha1sum </etc/hostname; /bin/busybox vi --help 2>&1 | /bin/busybox head -n 0
END
/bin/busybox ash s.sh
"""),
    ("go-static", r"""
echo '{"a":[1,2,{"b":3}]}' | gojq -c '.a[2].b, (.a|length)'; seq 2000 | gojq -s add
printf 'if true;then\necho   x\nfi\n' | shfmt; file -b $(command -v shfmt) | grep -o 'statically linked'; echo '{' | gojq . ; echo $?
"""),
    ("musl", r"""
printf '#include <stdio.h>\n#include <pthread.h>\n#include <unistd.h>\n#include <sys/wait.h>\nstatic void*f(void*p){return p;}\nint main(void){pthread_t t;void*r;pthread_create(&t,0,f,(void*)5);pthread_join(t,&r);if(!fork())_exit(7);int s;wait(&s);printf("%%d %%d\\n",(int)(long)r,WEXITSTATUS(s));}\n' >m.c
musl-gcc -static -o ms m.c && ./ms; musl-gcc -o md m.c && ./md; file -b md | grep -o ld-musl
"""),
    ("proc-tools", r"""
ps -o comm= -p $$; ps ax -o comm= | sort -u | grep -x -e ps -e sort -e bash; pgrep -c bash >/dev/null; echo $?; cat /proc/self/comm; free >/dev/null; echo $?
uptime >/dev/null; echo $?; nproc >/dev/null; echo $?; head -n1 /proc/meminfo | cut -d: -f1; ls -d /proc/self/fd; readlink /proc/self/cwd; tr '\0' ' ' </proc/self/cmdline; echo
df / >/dev/null; echo $?; hostname; cat /proc/sys/kernel/ostype; grep -c processor /proc/cpuinfo >/dev/null; echo $?
"""),
    ("vim-and-less", r"""
printf 'one\ntwo\n' >f; vim.tiny -es -u NONE -c '%s/two/2/' -c wq f; cat f; less f | cat; file f
"""),
    ("strace", r"""
cat >t.sh <<'E'
echo hello; (exit 3); cat </etc/hostname >/dev/null; kill -USR1 $$
E
strace -f -qq -o out -e trace=execve,exit_group,write,kill bash -c 'trap "echo caught" USR1; . ./t.sh'; echo $?
sed -E 's/^[0-9]+ +//; s/0x[0-9a-f]+/PTR/g; s/[0-9]+ vars/N vars/; s/(si_pid=|kill\()[0-9]+/\1PID/; s/--- SIGCHLD.*/--- SIGCHLD/; s/ +/ /g' out | grep -v unfinished | sort | uniq -c
strace -c -o count true; grep -c execve count; sleep 100 & strace -p $! -e trace=none 2>err & sleep 0.3; kill %1; wait %2; echo $?; grep -oE 'attached|killed by SIGTERM' err
"""),
    ("sanitizers", r"""
cat >a.c <<'E'
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
static int shared;
static void* f(void* p) { return p ? malloc(33) : (shared++, p); }
int main(int n, char** v) {
  pthread_t a, b;
  if (n > 1 && v[1][0] == 'r') { pthread_create(&a, 0, f, 0); pthread_create(&b, 0, f, 0); pthread_join(a, 0); pthread_join(b, 0); }
  if (n > 1 && v[1][0] == 'l') { pthread_create(&a, 0, f, &a); pthread_join(a, 0); }
  char* p = malloc(10);
  if (n > 1 && v[1][0] == 'o') p[n + 8] = 1;
  int big = 2147483647; if (n > 1 && v[1][0] == 'u') big += n;
  printf("%d\n", big > 0); free(p); return 0;
}
E
for s in address thread undefined leak; do gcc -g -O0 -fsanitize=$s -o $s a.c -pthread; for how in '' r l o u; do ./$s $how >out 2>err; echo $s $how $?; grep -oE 'heap-buffer-overflow|data race|signed integer overflow|detected memory leaks|[0-9]+ byte\(s\) leaked' err | sort -u; done; done
"""),
]
