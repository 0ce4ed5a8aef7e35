use std::fs;
use std::path::Path;

use vmimg_tests::host::Host;
use vmimg_tests::mount::Mounted;
use vmimg_tests::sandbox::Sandbox;
use vmimg_tests::tool::Tool;

use crate::PROGRAM;

#[test]
fn a_full_disk_is_an_error_that_says_so_and_leaves_nothing() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/demo/demo.qcow2");
    for kib in [4, 64, 128, 256] {
        let host = Host::new(PROGRAM);
        let base = host.file("base.qcow2", fs::read(&demo).unwrap());
        let script = format!(
            "VMIMG_ROOT=$PWD/root '{vmimg}' prepare web1 --image '{base}' --size 1G --config-drive >out 2>/dev/shm/vmimg-err.$$; \
             echo \"code $?\"; cat /dev/shm/vmimg-err.$$; rm -f /dev/shm/vmimg-err.$$; echo left; ls -A root 2>/dev/null || true",
            vmimg = host.path("vmimg").display(),
            base = base.display(),
        );
        let small = Mounted::memory(kib);
        let said = Tool::new("sh").args(["-c", &script]).current_dir(small.path("")).run();
        let (report, left) = said.split_once("left\n").unwrap();
        assert!(report.contains("code 7"), "{kib} KiB: {said}");
        assert!(report.to_lowercase().contains("no space left"), "{kib} KiB: {said}");
        assert_eq!(left.trim(), "", "{kib} KiB: something was left behind");
    }
}

#[test]
fn a_copy_out_of_a_guest_that_does_not_fit_leaves_nothing() {
    let sandbox = Sandbox::new(PROGRAM);
    fs::create_dir_all(sandbox.path("tree/deep")).unwrap();
    sandbox.file("tree/small", "x");
    sandbox.file("tree/deep/big", vec![7; 3 << 20]);
    sandbox.done("disk mkfs --from tree ext4 disk.raw 16M");
    let small = Mounted::memory(2 << 10);
    let copy = |line: &str| sandbox.run(&line.replace("SMALL", small.path("").to_str().unwrap()));
    let failed = copy("disk get disk.raw / SMALLcopy");
    assert_eq!(failed.status, 7, "{failed}");
    assert_eq!(copy("disk get disk.raw /deep/big SMALLbig").status, 7);
    assert_eq!(fs::read_dir(small.path("")).unwrap().count(), 0);
    assert_eq!(copy("disk get disk.raw /small SMALLsmall").status, 0);
    assert_eq!(copy("disk get disk.raw /small SMALLsmall").status, 6);
}
