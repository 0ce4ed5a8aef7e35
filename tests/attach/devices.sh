must vmimg nbd list --json
said '^\[\]$'
partitioned a.qcow2 64M
nothing_left

# The partitions are there when the command returns, and it says which.
must vmimg nbd connect a.qcow2
printf '/dev/nbd0\n/dev/nbd0p1\n/dev/nbd0p2\n' | cmp - log || fail "other devices"
[ -b /dev/nbd0p2 ] || fail "no node"
[ "$(cat /sys/block/nbd0/size /sys/block/nbd0/nbd0p1/start /sys/block/nbd0/nbd0p1/size | tr '\n' ' ')" = "131072 2048 16384 " ] || fail sizes
must vmimg nbd list
said '/dev/nbd0  64 MiB .* rw    /tmp/a.qcow2$'
must vmimg nbd list --json
said '"pid": '"$(cat /sys/block/nbd0/pid)"
said '"start": 1048576'

# What is in use is refused, and stays as it is.
must vmimg image create -f raw b.raw 1M
not 6 vmimg nbd connect -f raw b.raw /dev/nbd0
said 'is in use'
said 'it serves `/tmp/a.qcow2`'
not 6 vmimg nbd connect a.qcow2 /dev/nbd1
said 'another program uses'
not 2 vmimg nbd connect -f raw b.raw /dev/vda
not 2 vmimg nbd connect --block-size 100 -f raw b.raw
printf x >>b.raw
not 2 vmimg nbd connect -f raw b.raw
said 'is not a number of blocks'
truncate -s 1M b.raw

# Every device at once, and one that the driver had not made.
must vmimg nbd connect -f raw b.raw
said '^/dev/nbd1$'
must vmimg image create -f raw c.raw 1M
must vmimg nbd connect -f raw --block-size 4096 --read-only c.raw
said '^/dev/nbd2$'
[ "$(cat /sys/block/nbd2/queue/logical_block_size /sys/block/nbd2/ro | tr '\n' ' ')" = "4096 1 " ] || fail "not as asked"
must vmimg nbd list
said '/dev/nbd2  .* ro    /tmp/c.raw'
not 1 dd if=/dev/zero of=/dev/nbd2 bs=4096 count=1 conv=fsync
must vmimg nbd disconnect nbd2

# What was written is durable in the image when disconnect returns; what is mounted is refused.
must dd if=/test/vmimg of=/dev/nbd1 bs=1M count=1
must vmimg nbd disconnect /dev/nbd1
head -c 1048576 /test/vmimg | cmp - b.raw || fail "other bytes"
must /bin/mke2fs -q -t ext4 /dev/nbd0p2
must mount /dev/nbd0p2 /mnt
not 6 vmimg nbd disconnect /dev/nbd0
said 'is in use'
must umount /mnt
must vmimg nbd disconnect /dev/nbd0
not 3 vmimg nbd disconnect /dev/nbd0
said 'is not connected'
nothing_left

# A disk behind another server, named from the working folder.
vmimg nbd serve --socket s.sock -f raw b.raw >serving 2>&1 &
until_true [ -S s.sock ]
must vmimg nbd connect -f raw 'nbd+unix:///?socket=s.sock'
head -c 1048576 /test/vmimg | cmp - /dev/nbd0 || fail "other bytes"
must vmimg nbd list
said 'nbd+unix:///?socket=s.sock$'
must vmimg nbd disconnect nbd0
kill -TERM $!
wait $!
nothing_left

# In front, a signal ends it.
vmimg nbd connect --foreground a.qcow2 >log 2>&1 &
until_true grep -q nbd0p2 log
kill -TERM $!
wait $! || fail "it ended with $?"
nothing_left
echo ALL GOOD
