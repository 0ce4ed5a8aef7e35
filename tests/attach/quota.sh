# Linux counts what users, groups and projects have, we go on from what it wrote, and it goes on from what we wrote.
cat >plan.json <<'JSON'
[{"op": "write", "path": "/k/1000/ours", "src": "file", "uid": 1000, "gid": 2000},
 {"op": "write", "path": "/n/a", "src": "file", "uid": 123456, "gid": 5},
 {"op": "write", "path": "/n/b", "src": "file", "uid": 4000000000, "gid": 4000000000},
 {"op": "append", "path": "/k/7/f", "src": "file"},
 {"op": "mkdir", "path": "/k/70000", "uid": 8, "gid": 8},
 {"op": "remove", "path": "/k/5"}]
JSON
dd if=/dev/urandom of=file bs=1k count=130 2>/dev/null
count=0
for options in "-O quota,project" "-b 1024 -O quota,^extent,^64bit" "-O quota,project -E quotatype=prjquota -b 2048"; do
  rm -f a.qcow2
  must vmimg image create -f qcow2 a.qcow2 80M
  must vmimg nbd connect a.qcow2 /dev/nbd0
  must /bin/mke2fs -q -t ext4 $options /dev/nbd0
  must mount -t ext4 /dev/nbd0 /mnt
  for id in 5 7 1000 70000 3000000000 $(seq 2000 2060); do
    must mkdir -p /mnt/k/$id
    must dd if=/dev/zero of=/mnt/k/$id/f bs=1k count=$((id % 50 + 1))
    must chown -R $id:$((id % 9)) /mnt/k/$id
  done
  must umount /mnt
  must e2fsck -fn /dev/nbd0
  must vmimg nbd disconnect nbd0

  must vmimg disk inject --manifest plan.json a.qcow2
  must vmimg nbd connect a.qcow2 /dev/nbd0
  must e2fsck -fn /dev/nbd0

  must mount -t ext4 /dev/nbd0 /mnt
  must rm -r /mnt/k/1000 /mnt/k/2011
  must chown -R 4000000001 /mnt/n
  must cp -r /mnt/k /mnt/again
  must cmp file /mnt/n/b
  must umount /mnt
  must e2fsck -fn /dev/nbd0
  must vmimg nbd disconnect nbd0
  ! dmesg | grep -i 'EXT4-fs error\|EXT4-fs warning\|quota error\|VFS: Quota' || fail "Linux complains"
  count=$((count + 1))
done
nothing_left
[ $count = 3 ] && echo ALL GOOD
