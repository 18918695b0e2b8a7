"""What people do with containerd's own client. run [options in O] ID COMMAND...; ctr: the client."""

CASES = [
    ("run", "O=(--rm); run a echo hi; run a sh -c 'exit 7'; echo $?; run a /nonexistent | sed 's/.*: exec/exec/'", {"quick": True}),
    ("environment", "O=(--rm --env A=b --cwd /tmp --user 1000:1000); run a sh -c 'echo $A; pwd; id'; O=(--rm --read-only); run a touch /x"),
    ("detached", r"""
O=(-d); run d sh -c 'trap "exit 5" TERM; while :; do sleep 0.1; done'; ctr task ls | awk '{print $1, $3}'; ctr task exec --exec-id e d echo ex
ctr task exec --exec-id e d sh -c 'exit 9'; echo $?; ctr task ps d | wc -l; ctr task pause d; ctr task ls | awk '{print $1, $3}'; ctr task resume d
ctr task exec --exec-id e2 d ps -e | grep -c sleep; sleep 0.3; ctr task kill d; wait_for sh -c "$CTR task ls | grep STOPPED"; ctr task rm d 2>/dev/null; echo $?; ctr c rm d; ctr c ls -q
"""),
    ("metrics", "O=(-d); run m sleep 100; ctr task metrics m | grep -cE 'memory.usage|pids.current|cpuacct|cpu.usage|memory'"),
    ("mounts", "t=$(mktemp -d); echo x >$t/f; O=(--rm --mount type=bind,src=$t,dst=/m,options=rbind:ro); run b sh -c 'cat /m/f; touch /m/g'; rm -r $t"),
    ("limits", "O=(--rm --memory-limit 50000000); run l tail /dev/zero; echo $?"),
    # Two containers that share a network, as pods do.
    ("pod", r"""
O=(-d); run pause sleep 100; pid=$(ctr task ls | awk '$1 == "pause" {print $2}')
O=(-d --with-ns network:/proc/$pid/ns/net --with-ns ipc:/proc/$pid/ns/ipc); run web python3 -m http.server 8080; O=(--rm --with-ns network:/proc/$pid/ns/net)
wait_for ctr task exec --exec-id w web curl -sf http://127.0.0.1:8080/; run client curl -s -o /dev/null -w '%{http_code}\n' http://127.0.0.1:8080/
"""),
    ("terminal", "pty $CTR run --rm -t --runtime io.containerd.runc.v2 --runc-binary $BINARY --rootfs $ROOT t /usr/bin/tty", {"must": "/dev/"}),
    ("checkpoint", "O=(-d); run c sleep 100; ctr task checkpoint --image-path /tmp/none c >/dev/null 2>&1; echo $((!!$?)); ctr task exec --exec-id e c echo alive"),
]
