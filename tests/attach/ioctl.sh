# A network of its own does not show the driver's netlink, as in a container: the devices themselves are told.
alone() { unshare -n vmimg nbd "$@"; }
server() { sed -n 's/^Tgid:[^0-9]*//p' "/proc/$(cat /sys/block/nbd0/pid)/status"; }
gone() { [ ! -e /sys/block/nbd0/pid ] && none_lives; }
partitioned a.qcow2 64M
must vmimg image create -f raw b.raw 1M

must alone connect a.qcow2
said '^/dev/nbd0p2$'
[ -b /dev/nbd0p2 ] || fail "no node"
# Only netlink says who serves a device.
[ ! -e /sys/block/nbd0/backend ] || fail "it was netlink"
must vmimg nbd list --json
said "\"pid\": $(server)"
not 6 vmimg nbd connect -f raw b.raw /dev/nbd0
said 'is in use'
not 6 alone connect -f raw b.raw /dev/nbd0
said 'is in use'
must alone connect -f raw --block-size 4096 --read-only b.raw /dev/nbd1
[ "$(cat /sys/block/nbd1/queue/logical_block_size /sys/block/nbd1/ro | tr '\n' ' ')" = "4096 1 " ] || fail "not as asked"
must alone disconnect /dev/nbd1
must /bin/mke2fs -q -t ext4 /dev/nbd0p2
must mount -t ext4 /dev/nbd0p2 /mnt
echo kept >/mnt/file
not 6 alone disconnect nbd0
must umount /mnt
must alone disconnect nbd0
nothing_left
not 3 alone disconnect nbd0

# What is connected one way is disconnected the other way, and has what was written.
must vmimg nbd connect a.qcow2
must mount -t ext4 /dev/nbd0p2 /mnt
[ "$(cat /mnt/file)" = kept ] || fail "the file is lost"
must umount /mnt
must alone disconnect nbd0
nothing_left
must alone connect a.qcow2
must vmimg nbd disconnect nbd0
nothing_left

# As in a container, where processes have other numbers than the kernel's.
must vmimg image create -f qcow2 c.qcow2 8M
must unshare -n -p -f -m --mount-proc sh -c '
  set -e
  vmimg nbd connect c.qcow2
  if vmimg nbd connect -f raw b.raw /dev/nbd0; then exit 1; fi
  head -c 3000000 /dev/urandom >/tmp/random
  dd if=/tmp/random of=/dev/nbd0 bs=4096 conv=notrunc
  vmimg nbd disconnect nbd0
  # Nothing says which of them the server is.
  while pidof vmimg; do usleep 50000; done
  if vmimg nbd disconnect nbd0; then exit 1; fi
  vmimg nbd connect c.qcow2
  head -c 3000000 /dev/nbd0 | cmp - /tmp/random
  vmimg nbd disconnect nbd0
  while pidof vmimg; do usleep 50000; done'
nothing_left

# However the server ends, and while it writes.
n=0
while [ $n -lt $KILLS ]; do
  for signal in TERM INT HUP KILL; do
    must alone connect a.qcow2
    must kill -$signal "$(server)"
    until_true gone
    nothing_left
    must alone connect a.qcow2
    writes
    must kill -$signal "$(server)"
    wait
    until_true gone
    nothing_left
  done
  sound a.qcow2
  n=$((n + 1))
done
# What was written before a server is asked to end is kept.
must alone connect a.qcow2
head -c 3000000 /dev/urandom >random
must dd if=random of=/dev/nbd0p1 bs=4096 conv=notrunc
must kill -TERM "$(server)"
until_true gone
must alone connect a.qcow2
head -c 3000000 /dev/nbd0p1 | cmp - random || fail "what was written is lost"
must alone disconnect nbd0
nothing_left
echo ALL GOOD
