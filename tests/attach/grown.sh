# Each image has a file system that ends before the image does: Linux grows it while it is mounted.
for image in /test/fs*.qcow2; do
  dmesg -c >/dev/null
  must vmimg nbd connect $image /dev/nbd0
  must e2fsck -fn /dev/nbd0
  must mount -t ext4 /dev/nbd0 /mnt
  before=$(df -k /mnt | awk 'END { print $2 }')
  if resize2fs /dev/nbd0 >log 2>&1; then
    [ "$(df -k /mnt | awk 'END { print $2 }')" -gt $((before + 8000)) ] || fail "$image has not grown"
  elif dmesg | grep -q "wants too many credits"; then
    # Linux adds no group whose transaction is larger than the journal takes at once, whoever made the file system.
    echo "KEPT $image: $(tail -n 1 log)"
  else
    # Linux has no way to find room for descriptors where none is reserved for them.
    grep -q "does not support online resizing\|reserved gdt blocks\|Operation not supported" log || fail "$image"
    echo "KEPT $image: $(tail -n 1 log)"
  fi
  must dd if=/dev/zero of=/mnt/new bs=1M count=9
  [ "$(cat /mnt/hostname)" = web1 ] || fail "$image has another file"
  must umount /mnt
  if dmesg | grep -q "can't update backup for group"; then
    # Linux 6.1 turns this one into a file system with meta_bg and spoils it, whoever made it: nothing of ours can be judged by it.
    dmesg | grep -q "Converting file system to meta_bg" || fail "$image: Linux cannot write its copies"
    echo "SPOILT $image"
    must vmimg nbd disconnect nbd0
    rm $image
    continue
  fi
  must e2fsck -fn /dev/nbd0
  must vmimg nbd disconnect nbd0
  rm $image
done
nothing_left
echo ALL GOOD
