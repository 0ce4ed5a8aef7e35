use std::fs;
use std::path::Path;

use vmimg_tests::host::Host;
use vmimg_tests::mount::Mounted;
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
