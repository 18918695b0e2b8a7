#!/bin/bash
# The command line of sbx as engines use it. SBX: the binary (the tests' double of the sentry knows the few commands used
# here; the real one needs busybox in ROOTFS). Must run as root. Prints one line a check; exit status 1 if one failed.
SBX=${SBX:?}
T=$(mktemp -d /tmp/sbx-cli.XXXXXX)
ROOT=$T/root
N=0
fails=0
trap 'for i in $("$SBX" --root $ROOT list -q 2>/dev/null); do "$SBX" --root $ROOT delete -f $i; done; rm -rf $T' EXIT

sbx() { timeout 20 "$SBX" --root "$ROOT" "$@"; }
ok() { N=$((N + 1)); echo "ok   $1"; }
bad() { fails=$((fails + 1)); echo "FAIL $1: $2"; }
# check NAME WANT-REGEX COMMAND...: regex over output and 'rc=N'
check() {
  local name=$1 want=$2 out; shift 2
  out=$("$@" 2>&1; echo "rc=$?")
  if grep -qE -- "$want" <<<"$out"; then ok "$name"; else bad "$name" "$(tr '\n' '|' <<<"$out" | cut -c1-300)"; fi
}
# bundle NAME ARGS-JSON [JQ-FILTER]
bundle() {
  mkdir -p $T/$1/rootfs
  [ -n "$ROOTFS" ] && { rmdir $T/$1/rootfs; ln -sfn "$ROOTFS" $T/$1/rootfs; }
  rm -f $T/$1/config.json
  (cd $T/$1 && "$SBX" --root $ROOT spec)
  jq ".process.terminal=false | .process.args=$2 | ${3:-.}" $T/$1/config.json >$T/$1/c && mv $T/$1/c $T/$1/config.json
}
leftovers() { # nothing of container $1 may remain
  local left; left=$(find /sys/fs/cgroup -maxdepth 3 -type d -name "$1" 2>/dev/null; ls -d $ROOT/$1 2>/dev/null; pgrep -f "sbx-.*$1" )
  [ -z "$left" ] && ok "no leftovers of $1" || bad "leftovers of $1" "$left"
}
status() { sbx state $1 | jq -r .status; }
wait_status() { for _ in $(seq 100); do [ "$(status $1)" = $2 ] && return 0; sleep 0.05; done; return 1; }

# --- the program itself
check version '^spec: 1' "$SBX" --version
[ "$("$SBX" --version | wc -l)" = 3 ] && ok "version has three lines" || bad "version lines" "$("$SBX" --version)"
check "no arguments: help" 'COMMANDS:' "$SBX"
check "unknown verb" 'rc=3' sbx frobnicate
check "unknown flag" 'flag provided but not defined: -wrong.*|rc=1' sbx state --wrong x
check "missing argument" 'requires exactly 1' sbx state
features() { sbx features | jq -e '.ociVersionMin == "1.0.0" and (.linux.namespaces|length) == 8 and .linux.cgroup.v1 != null' ; }
check features '^true' features
check "global options in = form" 'rc=0' "$SBX" --root=$ROOT --log=$T/list.log --log-format=json list
check "bad log format" 'invalid log-format' "$SBX" --log-format xml list
check "list of nothing" '^ID +PID +STATUS +BUNDLE +CREATED +OWNER' sbx list
check "list json of nothing" '^null' sbx list -f json

# --- run
bundle t '["true"]'
cd $T/t
check "run true" 'rc=0' sbx run t1; leftovers t1
bundle e '["sh","-c","exit 7"]'
check "exit status" 'rc=7' sbx run -b $T/e e1; leftovers e1
bundle h '["echo","hi"]'
check "stdout" '^hi$' sbx run --bundle=$T/h h1
cat_() { echo abc | sbx run -b $T/c c1; }; bundle c '["cat"]'
check "stdin" '^abc$' cat_
bundle nf '["nope"]'
check "not in PATH" 'exec: \\?"nope\\?": executable file not found in \$PATH' sbx run -b $T/nf nf1; leftovers nf1
bundle np '["/nope"]'
check "no such path" 'exec: \\?"/nope\\?": stat /nope: no such file or directory' sbx create -b $T/np np1; leftovers np1
bundle na '["/etc"]'
check "not executable" 'exec: \\?"/etc\\?": permission denied' sbx create -b $T/na na1; leftovers na1
jlog() { sbx --log $T/log.json --log-format json create -b $T/np np2 >/dev/null 2>&1; tail -1 $T/log.json | jq -r '.level+" "+.msg'; }
check "json log" '^error sbx create failed: unable to start container process: exec: "/nope": stat' jlog
check "no bundle" 'No such file or directory' sbx create -b $T/missing x1
check "no config" 'config.json not found' sbx create -b $T x2; leftovers x2
check "bad id" 'invalid container ID format' sbx create -b $T/t 'a/b'
check "no rootfs" 'rootfs .* does not exist' bash -c "mkdir -p $T/nr; jq '.root.path=\"gone\"' $T/t/config.json >$T/nr/config.json; $SBX --root $ROOT create -b $T/nr nr1"; leftovers nr1
check "bind of nothing" 'error mounting .*no such file|No such file' bash -c "mkdir -p $T/nb/rootfs; jq '.mounts+=[{destination:\"/m\",type:\"bind\",source:\"/does/not/exist\",options:[\"bind\"]}]' $T/t/config.json >$T/nb/config.json; $SBX --root $ROOT create -b $T/nb nb1"; leftovers nb1

# --- create, start, kill, delete
bundle s '["sleep","30"]'
# The container holds the streams it is given: a pipe of $(...) would not end.
sbx create -b $T/s --pid-file $T/pid s1 >$T/out 2>&1 </dev/null; out=$(cat $T/out); [ -z "$out" ] && ok "create is silent" || bad "create is silent" "$out"
[ "$(cat $T/pid)" = "$(sbx state s1 | jq .pid)" ] && ok "pid file" || bad "pid file" "$(cat $T/pid)"
grep -q '/s1$' /proc/$(cat $T/pid)/cgroup && ok "init is in the container's cgroup" || bad "cgroup of init" "$(cat /proc/$(cat $T/pid)/cgroup)"
check "created" '^created' status s1
check "id is taken" 'container with given ID already exists' sbx create -b $T/s s1
check "created again: still there" '^created' status s1
check "start" 'rc=0' sbx start s1
check "running" '^running' status s1
check "start twice" 'cannot start an already running container' sbx start s1
check "delete of a running container" 'not stopped' sbx delete s1
check "list" 's1 +[0-9]+ +running' sbx list
check "ps json" '^\[[0-9]+(,[0-9]+)*\]$' sbx ps --format json s1
check "ps table" 'sleep 30' sbx ps s1
check "debug" 'rc=0' sbx debug s1
check "events --stats" '"type":"stats"' sbx events --stats s1
check pause 'rc=0' sbx pause s1
check paused '^paused' status s1
check "exec in a paused container" 'cannot exec in a paused container' sbx exec s1 true
check resume 'rc=0' sbx resume s1
check resumed '^running' status s1
check "resume twice" 'not paused' sbx resume s1
check "exec" 'rc=0' sbx exec s1 true
check "exec status" 'rc=7' sbx exec s1 sh -c 'exit 7'
check "exec output" '^x y$' sbx exec s1 echo x y
check "exec of nothing: 255" 'rc=255' sbx exec s1 nope
check "exec of nothing: words" 'exec failed: unable to start container process: exec: .*nope.*executable file not found in \$PATH' sbx exec s1 nope
check "exec without command" 'process args cannot be empty' sbx exec s1
check "exec bad user" 'parsing .* failed' sbx exec --user bob s1 true
detached() { sbx exec --detach --pid-file $T/xp s1 sleep 0.3 </dev/null >/dev/null 2>&1 || return 1; local p; p=$(cat $T/xp); grep -q '/s1$' /proc/$p/cgroup && echo in-cgroup; ls /proc/$p/fd | wc -l; sleep 0.6; [ -d /proc/$p ] && ! grep -q '^State:.Z' /proc/$p/status && echo alive; true; }
check "detached exec's stand-in is in the cgroup" 'in-cgroup' detached
check "update" 'rc=0' bash -c "echo '{\"memory\":{\"limit\":67108864},\"pids\":{\"limit\":50}}' | $SBX --root $ROOT update --resources - s1"
check "memory limit is set" '^67108864' bash -c 'cat /sys/fs/cgroup/memory/s1/memory.limit_in_bytes /sys/fs/cgroup/s1/memory.max 2>/dev/null'
check "update by flag" 'rc=0' sbx update --memory=128m s1
check "update: bad field" 'memory.limit' bash -c "echo '{\"memory\":{\"limit\":\"x\"}}' | $SBX --root $ROOT update -r - s1"
check "kill unknown signal" 'unknown signal' sbx kill s1 NOPE
check "kill 15" 'rc=0' sbx kill s1 15
check "stopped" 'rc=0' wait_status s1 stopped
check "kill of a stopped container" 'container not running' sbx kill s1 9
check "kill --all of a stopped container" 'rc=0' sbx kill --all s1 9
check "exec in a stopped container" 'cannot exec in a stopped container' sbx exec s1 true
check "delete" 'rc=0' sbx delete s1; leftovers s1
check "delete unknown" 'container does not exist' sbx delete s1
check "delete --force unknown" 'rc=0' sbx delete --force s1
check "state unknown: 1" 'rc=1' sbx state s1
check "kill unknown" 'container does not exist' sbx kill s1
check "kill -9 then delete --force" 'rc=0' bash -c "$SBX --root $ROOT run -d -b $T/s s2 </dev/null >/dev/null 2>&1; kill -9 \$($SBX --root $ROOT state s2 | jq .pid); $SBX --root $ROOT delete --force s2"; leftovers s2
check "delete --force of a running container" 'rc=0' bash -c "$SBX --root $ROOT run -d -b $T/s s3 </dev/null >/dev/null 2>&1; $SBX --root $ROOT delete --force s3"; leftovers s3
check "delete --force of a paused container" 'rc=0' bash -c "$SBX --root $ROOT run -d -b $T/s s4 </dev/null >/dev/null 2>&1; $SBX --root $ROOT pause s4; $SBX --root $ROOT delete --force s4"; leftovers s4
check "SIGKILL while paused" 'rc=0' bash -c "$SBX --root $ROOT run -d -b $T/s s5 </dev/null >/dev/null 2>&1; $SBX --root $ROOT pause s5; $SBX --root $ROOT kill s5 KILL; sleep 0.3; $SBX --root $ROOT delete s5"; leftovers s5
check "run passes SIGTERM on" 'rc=143' bash -c "$SBX --root $ROOT run -b $T/s s6 & p=\$!; sleep 0.5; kill -TERM \$p; wait \$p"; leftovers s6

# --- hooks
cat >$T/hook.sh <<'H'
#!/bin/sh
s=$(cat); echo "$1 $(echo "$s" | jq -r '.status+" "+.id') $2" >> $3
H
chmod +x $T/hook.sh
hook() { echo "[{path:\"$T/hook.sh\",args:[\"hook\",\"$1\",\"x\",\"$T/hooks.log\"],env:[\"PATH=$PATH\"]}]"; }
bundle k '["true"]' ".hooks={prestart:$(hook prestart),createRuntime:$(hook createRuntime),createContainer:$(hook createContainer),poststart:$(hook poststart),poststop:$(hook poststop)}"
rm -f $T/hooks.log
check "run with hooks" 'rc=0' sbx run -b $T/k k1
want='prestart creating k1 x createRuntime creating k1 x createContainer creating k1 x poststart running k1 x poststop stopped k1 x'
got=$(tr '\n' ' ' <$T/hooks.log); [ "$got" = "$want " ] && ok "hooks in order with state" || bad "hooks" "$got"
bundle kf '["true"]' '.hooks={createRuntime:[{path:"/bin/false"}]}'
check "failing hook" 'error running createRuntime hook #0: exit status 1' sbx run -b $T/kf kf1; leftovers kf1
bundle kt '["true"]' '.hooks={prestart:[{path:"/bin/sleep",args:["sleep","9"],timeout:1}]}'
check "hook timeout" 'hook ran past specified timeout' sbx run -b $T/kt kt1; leftovers kt1

# --- limits and namespaces
bundle l '["sleep","9"]' '.linux.resources={memory:{limit:67108864},pids:{limit:20},cpu:{shares:512,quota:50000,period:100000}} | .linux.cgroupsPath="/sbxtest/l1"'
check "limits: create" 'rc=0' bash -c "$SBX --root $ROOT create -b $T/l l1 </dev/null >/dev/null 2>&1"
if [ -d /sys/fs/cgroup/memory ]; then
  check "memory.limit" '^67108864' cat /sys/fs/cgroup/memory/sbxtest/l1/memory.limit_in_bytes
  check "pids.limit on the guest" '^36$' cat /sys/fs/cgroup/pids/sbxtest/l1/guest/pids.max
  check "cpu.shares" '^512' cat /sys/fs/cgroup/cpu/sbxtest/l1/cpu.shares
  check "cpu.quota" '^50000' cat /sys/fs/cgroup/cpu/sbxtest/l1/cpu.cfs_quota_us
fi
check "limits: delete" 'rc=0' sbx delete --force l1; leftovers l1
rmdir /sys/fs/cgroup/*/sbxtest 2>/dev/null
bundle ln '["true"]' '.linux.namespaces |= map(if .type=="network" then .path="/proc/self/ns/net" else . end)'
check "network namespace by path" 'rc=0' sbx run -b $T/ln ln1
bundle lm '["true"]' '.linux.namespaces |= map(if .type=="network" then .path="/nonexistent" else . end)'
check "bad namespace path" 'linux.namespaces\[[0-9]\].path: /nonexistent' sbx run -b $T/lm lm1; leftovers lm1
bundle lu '["true"]' '.linux.namespaces += [{type:"user"}] | .linux.uidMappings=[{containerID:0,hostID:100000,size:65536}] | .linux.gidMappings=[{containerID:0,hostID:100000,size:65536}]'
check "user namespace" 'rc=0' sbx run -b $T/lu lu1; leftovers lu1
check "sysctl net" 'rc=0' bash -c "mkdir -p $T/sy/rootfs; jq '.linux.sysctl={\"net.ipv4.ip_forward\":\"1\"}' $T/t/config.json >$T/sy/config.json; $SBX --root $ROOT run -b $T/sy sy1"
check "systemd path without systemd" 'systemd not running' "$SBX" --root $ROOT --systemd-cgroup run -b $T/t sd1; leftovers sd1

# --- terminals
bundle tt '["sleep","9"]' '.process.terminal=true'
check "terminal needs a socket" 'cannot allocate tty' sbx create -b $T/tt tt1; leftovers tt1
if command -v python3 >/dev/null; then
  cat >$T/recv.py <<'P'
import socket, sys, array, os
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(1); open(sys.argv[1] + ".ready", "w")
c, _ = s.accept(); m, a, _, _ = c.recvmsg(200, socket.CMSG_LEN(4))
fd = array.array("i"); fd.frombytes(a[0][2][:4]); print(m.decode(), os.isatty(fd[0]))
P
  console() { rm -f $T/con*; python3 $T/recv.py $T/con & local p=$!; while [ ! -e $T/con.ready ]; do sleep 0.02; done; sbx create -b $T/tt --console-socket $T/con tt2 </dev/null; wait $p; }
  check "console socket" '^/dev/pts/[0-9]+ True' console
  sbx delete -f tt2; leftovers tt2
fi
bundle te '["echo","tty"]' '.process.terminal=true'
check "run on a terminal" 'tty' script -qec "$SBX --root $ROOT run -b $T/te te1" /dev/null

# --- descriptors
check "no leak of descriptor 3" 'clean' bash -c "exec 3</etc/passwd; $SBX --root $ROOT create -b $T/s f1 </dev/null >/dev/null 2>&1; p=\$($SBX --root $ROOT state f1 | jq .pid); ls -l /proc/\$p/fd | grep -q /etc/passwd || echo clean; $SBX --root $ROOT delete -f f1"
check "concurrent creates of one id" '^1$' bash -c "for i in 1 2 3 4; do ($SBX --root $ROOT create -b $T/s cc1 </dev/null >/dev/null 2>&1 && echo won) & done | wc -l"
sbx delete -f cc1; leftovers cc1

# --- install
printf '{\n  "debug": true,\n  "runtimes": {"other": {"path": "/x"}}\n}\n' >$T/daemon.json
check "install --docker" 'runtime "sbx" is /' sbx install --docker --config $T/daemon.json
check "install keeps the rest" '^debug,runtimes other,sbx$' jq -r '[(keys_unsorted | join(",")), (.runtimes | keys_unsorted | join(","))] | join(" ")' $T/daemon.json
check "install twice" 'is there already' sbx install --docker --config $T/daemon.json
check "install with arguments" 'rc=0' sbx install --docker --config $T/new/daemon.json --name sbx-debug --runtime-arg=--debug
check "runtimeArgs" '^\["--debug"\]' jq -c '.runtimes["sbx-debug"].runtimeArgs' $T/new/daemon.json
check uninstall 'removed' sbx uninstall --docker --config $T/daemon.json
check "uninstall keeps the rest" '^other$' jq -r '.runtimes | keys | join(",")' $T/daemon.json
echo '{bad' >$T/daemon.json
check "install refuses what is not JSON" 'daemon.json is not JSON' sbx install --docker --config $T/daemon.json
check "and leaves it" '^\{bad' cat $T/daemon.json

echo "$N passed, $fails failed"
[ $fails = 0 ]
