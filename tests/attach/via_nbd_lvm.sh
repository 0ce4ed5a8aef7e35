# A root on XFS in two segments of a logical volume, /home on ext4 beside it.
cp /test/lvm.qcow2 a.qcow2
echo 'of the guest' >motd
must vmimg nbd connect --partition vg-0/root a.qcow2
[ "$(cat /sys/block/nbd0/size)" = 655360 ] || fail "another size"
must mkfs.xfs -q /dev/nbd0
must mount -t xfs /dev/nbd0 /mnt
must mkdir -p /mnt/etc /mnt/usr /mnt/home
echo 'ID=test' >/mnt/etc/os-release
echo '/dev/vg-0/home /home ext4' >/mnt/etc/fstab
must dd if=/dev/urandom of=/mnt/large bs=1M count=120
md5sum </mnt/large >sum
must umount /mnt
must vmimg nbd disconnect nbd0
must vmimg nbd connect --partition vg-0/home a.qcow2
must /bin/mke2fs -q -t ext4 /dev/nbd0
must vmimg nbd disconnect nbd0
nothing_left

# Without the kernel, XFS is refused, and ext4 on the group is read all the same.
not 5 vmimg disk cat --partition vg-0/root a.qcow2 /etc/fstab
must vmimg disk put --partition vg-0/home a.qcow2 motd /motd
must vmimg disk inspect a.qcow2
said '^logical volume vg-0/root: XFS, which is not supported'

# The root is found, read, and changed.
must vmimg disk ls --via nbd a.qcow2 /etc
said '^os-release$'
must vmimg disk put --via nbd a.qcow2 motd /etc/motd
must vmimg disk cat --via nbd a.qcow2 /etc/motd
said '^of the guest$'
not 6 vmimg disk put --via nbd a.qcow2 motd /home/motd
said '`--partition vg-0/home`'
must vmimg disk put --via nbd --partition vg-0/home a.qcow2 motd /kernel
must vmimg disk cat --partition vg-0/home a.qcow2 /kernel
not 5 vmimg disk grow --via nbd a.qcow2
said 'vg-0/root is not made larger'
nothing_left

# While it works, what the kernel sees is the volume alone, beside any group of its own.
mkfifo input
vmimg nbd connect --foreground --attend --partition vg-0/root a.qcow2 <input >said 2>&1 &
exec 3>input
until_true grep -q nbd0 said
[ "$(cat /sys/block/nbd0/size)" = 655360 ] || fail "another size"
! dd if=/dev/nbd0 bs=512 count=8 2>/dev/null | grep -q LABELONE || fail "the kernel sees a physical volume"
[ -z "$(ls -d /sys/block/nbd0/nbd0p* 2>/dev/null)" ] || fail "the kernel sees partitions"
must xfs_repair -n /dev/nbd0
must mount -t xfs -o ro /dev/nbd0 /mnt
cmp motd /mnt/etc/motd && [ "$(md5sum </mnt/large)" = "$(cat sum)" ] || fail "other files"
must umount /mnt
exec 3>&-
wait $! || fail "it ended with $?"
nothing_left
must vmimg image check -q a.qcow2
echo ALL GOOD
