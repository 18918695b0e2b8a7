"""What people do with podman as root. $P: podman with its options, $I: the image."""

CASES = [
    ("run", "run $I echo hi; run $I sh -c 'exit 7'; echo $?; echo in | run -i $I cat; run $I /nonexistent 2>&1 | sed 's/.*failed: unable/unable/'; echo ${PIPESTATUS[0]}", {"must": "hi"}),
    ("terminal", "pty \"$P run --rm -it $I sh -c 'tty; sleep 0.5'\""),
    ("identity", "run -u 1000:1001 -e A=b -w /tmp -h there $I sh -c 'id; echo $A; pwd; hostname'; run $I grep CapEff /proc/self/status"),
    ("files", "t=$(mktemp -d); run -v $t:/m $I sh -c 'echo b >/m/f'; cat $t/f; run -v $t:/m:ro $I touch /m/g; run --read-only $I touch /x; run -v v:/v $I sh -c 'echo k >/v/f'; run -v v:/v $I cat /v/f; rm -r $t"),
    ("exec", "bg --name x $I sleep 100; podman exec x echo ex; podman exec x sh -c 'exit 9'; echo $?; podman exec -u 1000 -e E=v -w /tmp x sh -c 'id -u; echo $E $PWD'; echo in | podman exec -i x cat; pty $P exec -it x tty; podman stop -t 0 x; podman inspect -f '{{.State.ExitCode}}' x"),
    ("life-cycle", "bg --name l $I sh -c 'trap \"exit 3\" TERM; echo up; while :; do sleep 0.1; done'; wait_for sh -c \"$P logs l | grep up\"; podman pause l; podman inspect -f '{{.State.Status}}' l; podman unpause l; podman kill -s TERM l; podman wait l; podman logs l; podman start l; podman rm -f -t 0 l"),
    ("resources", "podman run --name o --memory 48m --memory-swap 48m $I tail /dev/zero; echo $?; podman inspect -f '{{.State.OOMKilled}}' o; run --pids-limit 12 $I sh -c 'i=0; while [ $i -lt 40 ]; do sleep 1 & i=$((i+1)); done; wait' | grep -c 'an.*t fork'"),
    ("port", "bg --name w -p 127.0.0.1:18090:80 $I python3 -m http.server 80; wait_for curl -sf http://127.0.0.1:18090/; curl -s -o /dev/null -w '%{http_code}\\n' http://127.0.0.1:18090/"),
    ("pod", "podman pod create --name pd >/dev/null; bg --pod pd --name web $I python3 -m http.server 8080; wait_for podman exec web curl -sf http://127.0.0.1:8080/; run --pod pd $I curl -s -o /dev/null -w '%{http_code}\\n' http://127.0.0.1:8080/; podman pod ps --format '{{.Name}} {{.NumberOfContainers}}'"),
    ("pod-of-processes", "podman pod create --name pp --share pid,net >/dev/null; bg --pod pp --name one $I sleep 1000; run --pod pp $I sh -c 'ps -e | grep -c sleep'; podman exec one sh -c 'ps -e | grep -c sleep'; podman pod stop -t 0 pp >/dev/null 2>&1; podman inspect -f '{{.State.Status}}' one"),
    # podman joins the mount namespace of the container's process for these: the sentry's is empty.
    ("top", "bg --name t $I sleep 100; podman top t args", {"known": "the sentry's mount namespace is empty"}),
    ("copy", "bg --name c $I sleep 100; echo x >/tmp/pf.$$; podman cp /tmp/pf.$$ c:/tmp/f; podman exec c cat /tmp/f; rm /tmp/pf.$$", {"known": "the sentry's mount namespace is empty"}),
    ("diff-and-commit", "bg --name c $I sleep 100; podman exec c touch /new; podman diff c | grep new; podman commit -q c pc:1 >/dev/null; run localhost/pc:1 ls /new; podman rmi -f pc:1 >/dev/null"),
]

# The same without root: what needs a cgroup is left out, as none is delegated.
ROOTLESS = [case for case in CASES if case[0] in ("run", "terminal", "identity", "files", "exec", "life-cycle", "port", "pod", "diff-and-commit")] + [
    ("who", "run $I sh -c 'id; touch /f; stat -c %u:%g /f; cat /proc/sys/kernel/hostname | wc -c'; run --userns=keep-id $I id -u"),
    ("owner", "t=$(mktemp -d -p $HOME); run -v $t:/m $I sh -c 'touch /m/root; chown 1000:1000 /m; su -s /bin/sh nobody -c id'; podman unshare stat -c '%u:%g' $t/root; podman unshare rm -rf $t"),
    ("network", "run $I ip -o -4 address show dev tap0 | awk '{print $4}'; run --network none $I ip -o link | wc -l; run $I sh -c 'sleep 0.3; getent hosts host.containers.internal | wc -l'"),
]
