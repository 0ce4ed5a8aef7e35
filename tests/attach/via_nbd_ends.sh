echo '[{"op": "write", "path": "/etc/hosts", "src": "/bin/busybox"}, {"op": "write", "path": "/etc/motd", "src": "/bin/busybox"}]' >plan.json
gone() { [ -z "$(ls /sys/block/nbd*/pid 2>/dev/null)" ] && none_lives; }
# Hundredths of a second since some time.
now() { sed 's/ .*//; s/[.]//' /proc/uptime; }
# Begins a change, and returns when so many hundredths of its usual time are over.
begin() {
  vmimg disk inject --via nbd --manifest plan.json a.qcow2 >log 2>&1 &
  usleep $((whole * 100 * $1))
}
drafts() { ls -A /tmp | grep '^\.'; }

# Killed at any time: the image is the old one, or the new one when it had come that far.
n=0
for kind in xfs btrfs; do
  rm -f a.qcow2
  guest a.qcow2 $kind
  cp a.qcow2 old.qcow2
  begun=$(now)
  must vmimg disk inject --via nbd --manifest plan.json a.qcow2
  whole=$(($(now) - begun))
  cp old.qcow2 a.qcow2
  while [ $n -lt $((KILLS * 4)) ]; do
    begin $((10 + n * 27 % 100))
    kill -KILL $!
    wait $!
    until_true gone
    nothing_left
    if ! cmp -s a.qcow2 old.qcow2; then
      must vmimg disk get --via nbd a.qcow2 /etc new
      cmp /bin/busybox new/hosts && cmp /bin/busybox new/motd || fail "half a plan"
      rm -r new
      cp old.qcow2 a.qcow2
    fi
    # What a process that was killed leaves behind is a copy that nobody has seen.
    drafts | while read -r draft; do rm "$draft"; done
    n=$((n + 1))
  done
  n=0

  # Asked to end: it takes everything back.
  for time in 30 75; do
    begin $time
    kill -TERM $!
    wait $!
    until_true gone
    nothing_left
    [ -z "$(drafts)" ] || fail "a draft is left: $(drafts)"
    cmp -s a.qcow2 old.qcow2 || must vmimg disk cat --via nbd a.qcow2 /etc/motd
    cp old.qcow2 a.qcow2
  done

  # The server is killed while the kernel works with it, and then its keeper.
  for time in 40 80; do
    begin $time
    [ ! -e /sys/block/nbd0/pid ] || kill -KILL "$(cat /sys/block/nbd0/pid)"
    wait $!
    until_true gone
    nothing_left
    [ -z "$(drafts)" ] || fail "a draft is left: $(drafts)"
    cmp -s a.qcow2 old.qcow2 || must vmimg disk cat --via nbd a.qcow2 /etc/motd
    cp old.qcow2 a.qcow2
  done
  must vmimg disk inject --via nbd --manifest plan.json a.qcow2
  must vmimg disk cat --via nbd a.qcow2 /etc/motd
  nothing_left
  echo "$kind is good"
done
echo ALL GOOD
