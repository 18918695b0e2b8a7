"""Real servers in a container, real clients outside and inside: right answers, and no hang when they are killed in the
middle. How fast is the benches' business (bench/), not theirs.
"""

CASES = [
    ("nginx", r"""
t=$(mktemp -d); cat >$t/n.conf <<'X'
worker_processes 3; pid /tmp/n.pid; error_log stderr; events { worker_connections 600; }
http { access_log off; server { listen 80 backlog=1024; location / { root /w; } } }
X
bg --name cn -p 127.0.0.1:18180:80 -v $t:/c $I sh -c 'mkdir /w; chmod 755 /w; head -c 1024 /dev/zero >/w/k; seq 300000 >/w/big; exec nginx -c /c/n.conf -g "daemon off;"'
wait_for curl -sf http://127.0.0.1:18180/k; curl -s http://127.0.0.1:18180/big | sha256sum; curl -s -r 100-199 http://127.0.0.1:18180/big | sha256sum
wrk -t2 -c100 -d${LOAD:-10} http://127.0.0.1:18180/k | grep -cE 'Non-2xx|Socket errors'; docker exec cn curl -s http://127.0.0.1/big | sha256sum
(timeout 20 wrk -t1 -c50 -d8 http://127.0.0.1:18180/k >/dev/null; echo client $?) & sleep 2; docker kill cn >/dev/null; docker wait cn; wait; rm -r $t
""", {"timeout": 120}),
    ("redis", r"""
bg --name cr -p 127.0.0.1:18379:6379 $I redis-server --protected-mode no --save '' --appendonly no; wait_for redis-cli -p 18379 ping
redis-benchmark -p 18379 -c 100 -n 60000 -q -t set,get,incr,lpush,lrange_100 2>&1 | tr '\r' '\n' | grep -c 'requests per second, p50'; redis-cli -p 18379 get counter:__rand_int__
redis-benchmark -p 18379 -c 20 -P 16 -n 100000 -q -t get 2>&1 | tr '\r' '\n' | grep -c 'requests per second, p50'; docker exec cr redis-cli dbsize
redis-cli -p 18379 set big "$(head -c 60000 /dev/zero | tr '\0' x)"; redis-cli -p 18379 strlen big; redis-cli -p 18379 shutdown nosave; docker wait cr
""", {"timeout": 120}),
    ("postgres", r"""
bg --name cp -p 127.0.0.1:18432:5432 $I sh -c 'mkdir -p /pg /run/postgresql; chown postgres /pg /run/postgresql; exec setpriv --reuid postgres --regid postgres --clear-groups sh -c "
  export PATH=/usr/lib/postgresql/15/bin:\$PATH; initdb -A trust -D /pg >/dev/null; echo host all all 0.0.0.0/0 trust >>/pg/pg_hba.conf; exec postgres -D /pg -c listen_addresses=\"*\""'
wait_for psql -h 127.0.0.1 -p 18432 -U postgres -c 'select 1'; psql -h 127.0.0.1 -p 18432 -U postgres -Atc "create table t(a int, b text); insert into t select i, md5(i::text) from generate_series(1, 20000) i; select count(*), md5(string_agg(b, '' order by a)) from t"
docker exec -u postgres -e T=${LOAD:-5} -e C=${CLIENTS:-8} cp sh -c 'cd /; pgbench -i -q -s 2 postgres >/dev/null 2>&1; pgbench -c $C -j 2 -T $T postgres 2>/dev/null | grep -E "failed|clients"; ipcs -m | grep -c 0600 || ipcs -m | grep -c 600'
docker kill -s INT cp >/dev/null; docker wait cp
""", {"timeout": 150}),
    ("http-server", r"""
bg --name ch -p 127.0.0.1:18181:80 $I sh -c 'mkdir /w; cd /w; seq 100000 >f; exec python3 -m http.server 80'; wait_for curl -sf http://127.0.0.1:18181/f
for i in 1 2 3 4 5 6 7 8; do curl -s http://127.0.0.1:18181/f | sha256sum & done; wait; curl -s -o /dev/null -w '%{http_code}\n' http://127.0.0.1:18181/none
"""),
    ("node", r"""
bg --name cj -p 127.0.0.1:18182:80 $I node -e 'const h=require("http");let n=0;h.createServer((q,r)=>{let b="";q.on("data",d=>b+=d);q.on("end",()=>{n++;r.end(q.method+" "+b.length+"\n")})}).listen(80)'
wait_for curl -sf http://127.0.0.1:18182/; head -c 3000000 /dev/zero | curl -s --data-binary @- http://127.0.0.1:18182/; wrk -t1 -c100 -d${LOAD:-5} http://127.0.0.1:18182/ | grep -cE 'Non-2xx|Socket errors'; docker stop -t 1 cj
"""),
    # A server written in Go.
    ("caddy", r"""
bg --name cg -p 127.0.0.1:18183:80 $I sh -c 'mkdir /w; seq 300000 >/w/big; head -c 1024 /dev/zero >/w/k; exec caddy file-server --root /w --listen :80'
wait_for curl -sf http://127.0.0.1:18183/k; curl -s http://127.0.0.1:18183/big | sha256sum; curl -s -r 100-199 http://127.0.0.1:18183/big | sha256sum
wrk -t2 -c100 -d${LOAD:-5} http://127.0.0.1:18183/k | grep -cE 'Non-2xx|Socket errors'; docker exec cg curl -s http://127.0.0.1/big | sha256sum
(timeout 20 wrk -t1 -c50 -d8 http://127.0.0.1:18183/k >/dev/null; echo client $?) & sleep 2; docker kill cg >/dev/null; docker wait cg; wait
""", {"timeout": 90}),
    ("ssh", r"""
t=$(mktemp -d); ssh-keygen -q -t ed25519 -N '' -f $t/k; bg --name cs -p 127.0.0.1:18122:22 -v $t/k.pub:/k.pub:ro $I sh -c 'mkdir -p /run/sshd /root/.ssh; cp /k.pub /root/.ssh/authorized_keys; chown -R 0 /root/.ssh; chmod 700 /root/.ssh; ssh-keygen -A >/dev/null; exec /usr/sbin/sshd -D'
S="-q -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -i $t/k"; wait_for ssh $S -p 18122 root@127.0.0.1 true
ssh $S -p 18122 root@127.0.0.1 'id -u; echo out; exit 5'; echo $?; ssh $S -tt -p 18122 root@127.0.0.1 'tty; stty size' </dev/null | tr -d '\r'
seq 200000 >$t/f; scp $S -P 18122 $t/f root@127.0.0.1:/tmp/f; ssh $S -p 18122 root@127.0.0.1 'sha256sum /tmp/f'; docker exec cs sha256sum /tmp/f; rm -r $t
"""),
    ("iperf3", r"""
bg --name ci -p 127.0.0.1:15201:5201 -p 127.0.0.1:15201:5201/udp $I iperf3 -s; sleep 1
a=$(docker inspect -f '{{.NetworkSettings.IPAddress}}' ci)
for o in '' -R '-P 4' '-u -b 50M' '-u -b 50M -R'; do iperf3 -c $a -t 2 $o >/tmp/ip.$$; echo $?; done; grep -c receiver /tmp/ip.$$; rm /tmp/ip.$$
iperf3 -s -1 -p 15999 >/dev/null & sleep 0.5; docker exec ci iperf3 -c 172.29.199.1 -p 15999 -t 2 >/dev/null; echo $?; wait
"""),
]
