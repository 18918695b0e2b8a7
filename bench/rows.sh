#!/bin/sh
# rows.sh ROW: runs in the container; a server, what loads it, and one line `name nanoseconds operations` at the end.
# rows.sh prepare: once, natively, makes the data that is too slow to make in every container.
set -eu
cd /bench
port=7001

# Waits until a command works: a server is ready when it answers.
wait_for() {
  for _ in $(seq 200); do
    if "$@" >/dev/null 2>&1; then return; fi
    sleep 0.05
  done
  echo "rows.sh: not ready in 10 s: $*" >&2
  exit 1
}

# rate NAME OPERATIONS_PER_SECOND OPERATIONS
rate() { awk -v n="$1" -v r="$2" -v o="$3" 'BEGIN { if (r <= 0) exit 1; gsub(" ", "-", n); printf "%s %.2f %d\n", n, 1e9 / r, o }'; }

redis() { # redis COMMAND REQUESTS OPTIONS...
  command=$1 requests=$2
  shift 2
  redis-server --port $port --save '' --appendonly no --daemonize yes >/dev/null
  wait_for redis-cli -p $port ping
  csv=$(redis-benchmark -p $port -q --csv -c 20 -n "$requests" -t "$command" "$@")
  redis-cli -p $port shutdown nosave 2>/dev/null || true
  rate redis "$(echo "$csv" | tail -n 1 | cut -d, -f2 | tr -d '"')" "$requests"
}

web() { # web FILE
  cat >/tmp/nginx.conf <<END
worker_processes 1;
pid /tmp/nginx.pid;
error_log stderr crit;
events { worker_connections 256; }
http { access_log off; server { listen 127.0.0.1:$port; root /bench/www; } }
END
  nginx -c /tmp/nginx.conf
  wait_for bash -c ": </dev/tcp/127.0.0.1/$port"
  said=$(wrk -t1 -c16 -d2s "http://127.0.0.1:$port/$1")
  nginx -c /tmp/nginx.conf -s stop
  if echo "$said" | grep -q "Non-2xx\|Socket errors"; then
    echo "$said" >&2
    exit 1
  fi
  rate nginx "$(echo "$said" | awk '/Requests\/sec/ { print $2 }')" "$(echo "$said" | awk '/requests in/ { print $1 }')"
}

postgres() { # postgres OPTIONS...
  mkdir -p /run/postgresql
  chown postgres /run/postgresql
  as() { setpriv --reuid postgres --regid postgres --clear-groups "$@"; }
  PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
  cd /
  as pg_ctl -D /bench/pg -o "-k /run/postgresql -c listen_addresses=" -l /bench/pg/log -w start >/dev/null
  said=$(as pgbench -c 4 -j 1 -T 2 "$@" postgres 2>/dev/null)
  as pg_ctl -D /bench/pg -m fast -w stop >/dev/null
  rate pgbench "$(echo "$said" | awk '/^tps/ { print $3 }')" "$(echo "$said" | awk '/actually processed/ { print $NF }' | cut -d/ -f1)"
}

disk() { # disk OPTIONS...
  fio --name=row --minimal --ioengine=psync --runtime=1 --time_based --thread "$@" >/tmp/fio
  # Terse format 3: reads in fields 7 to 8 (bandwidth, operations a second), writes in 48 to 49.
  operations=$(awk -F';' '{ print ($8 > 0) ? $8 : $49 }' /tmp/fio)
  rate fio "$operations" "$operations"
}

# What arrives, by iperf3.
throughput() { # throughput OPTIONS...
  iperf3 -s -1 -D -p $port -B 127.0.0.1
  sleep 0.3
  iperf3 -c 127.0.0.1 -p $port -t 1 --json "$@" >/tmp/iperf3
  arrived=$(awk -F: '/"sum_received"/ { s = 1 } s && /"bits_per_second"/ { print $2 / 8 / 1048576; exit }' /tmp/iperf3)
  rate iperf3 "$arrived" "$arrived"
}

case $1 in
prepare)
  mkdir www pg
  head -c 1024 file1m >www/1k
  head -c 102400 file1m >www/100k
  cp -r tree repo
  cd repo
  export GIT_AUTHOR_NAME=bench GIT_AUTHOR_EMAIL=bench@localhost GIT_COMMITTER_NAME=bench GIT_COMMITTER_EMAIL=bench@localhost
  git init -q .
  git add .
  git commit -q -m files
  git gc -q
  chown postgres /bench/pg
  cd /
  setpriv --reuid postgres --regid postgres --clear-groups sh -c '
    PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
    mkdir /tmp/pgsock
    initdb -A trust -D /bench/pg
    pg_ctl -D /bench/pg -o "-k /tmp/pgsock -c listen_addresses=" -w start
    pgbench -h /tmp/pgsock -i -q -s 2 postgres
    pg_ctl -D /bench/pg -w stop' >/dev/null
  ;;
"redis SET -c20") redis set 50000 ;;
"redis GET -c20") redis get 50000 ;;
"redis GET -c20 -P16") redis get 500000 -P 16 ;;
"nginx 1 KiB -c16") web 1k ;;
"nginx 100 KiB -c16") web 100k ;;
"iperf3, a MiB") throughput ;;
"iperf3 -P4, a MiB") throughput -P 4 ;;
"iperf3 -u, a MiB") throughput -u -b 0 ;;
"pgbench -S -c4") postgres -S ;;
"pgbench -c4") postgres ;;
"fio randread 4k") disk --rw=randread --bs=4k --size=256m --filename=/bench/big --readonly ;;
"fio randwrite 4k, tmpfs") disk --rw=randwrite --bs=4k --size=32m --directory=/dev/shm ;;
"fio write 64k") disk --rw=write --bs=64k --size=64m --directory=/bench/x ;;
*)
  echo "rows.sh: no row $1" >&2
  exit 2
  ;;
esac
