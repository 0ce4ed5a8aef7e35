partitioned a.qcow2 64M

n=0
while [ $n -lt "$ROUNDS" ]; do
  must vmimg nbd connect a.qcow2
  said '^/dev/nbd0p2$'
  must vmimg nbd disconnect nbd0
  nothing_left
  n=$((n + 1))
done

# However the server ends: asked to, killed, killed while it writes, with its keeper gone before.
gone() { [ ! -e /sys/block/nbd0/pid ] && none_lives; }
server() { cat /sys/block/nbd0/pid; }
keeper() { live | grep -vx "$(server)"; }
n=0
while [ $n -lt $KILLS ]; do
  for signal in TERM INT HUP KILL; do
    must vmimg nbd connect a.qcow2
    must kill -$signal "$(server)"
    until_true gone
    nothing_left
  done

  must vmimg nbd connect a.qcow2
  writes
  must kill -KILL "$(server)"
  wait
  until_true gone
  nothing_left
  sound a.qcow2

  # A keeper that is killed has a successor.
  must vmimg nbd connect a.qcow2
  first=$(keeper)
  kill -KILL "$first"
  another() { [ -n "$(keeper)" ] && [ "$(keeper)" != "$first" ]; }
  until_true another
  must head -c 4096 /dev/nbd0
  must kill -KILL "$(server)"
  until_true gone
  nothing_left
  n=$((n + 1))
done

# Killed at any time while it connects.
n=0
while [ $n -lt $((KILLS * 4)) ]; do
  vmimg nbd connect --foreground a.qcow2 >log 2>&1 &
  usleep $((n * 7000 % 400000))
  kill -KILL $!
  wait $!
  until_true gone
  nothing_left
  n=$((n + 1))
done

# With both gone at once the device says what it was, and disconnect frees it.
must vmimg nbd connect a.qcow2
kill -KILL "$(keeper)" "$(server)"
until_true none_lives
if [ -e /sys/block/nbd0/pid ]; then
  must vmimg nbd disconnect --force nbd0
fi
[ ! -e /sys/block/nbd0/pid ] || fail "a device is left"
echo ALL GOOD
