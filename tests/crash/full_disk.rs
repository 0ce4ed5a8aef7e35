use std::fs;
use std::path::Path;

use vmimg_tests::host::Host;
use vmimg_tests::tool::Tool;

use crate::PROGRAM;

/// A file system in memory, mounted in a namespace of its own: everything that `script` does ends with it.
fn in_small_tmpfs(host: &Host, kib: u32, script: &str) -> String {
    let mount = host.path("small");
    fs::create_dir(&mount).unwrap();
    let whole =
        format!("mount -t tmpfs -o size={kib}k,mode=1777 tmpfs '{mount}' && cd '{mount}' && {script}", mount = mount.display());
    Tool::new("unshare").args(["--mount", "--map-root-user", "--user", "--", "sh", "-c"]).arg(whole).run()
}

#[test]
fn a_full_disk_is_an_error_that_says_so_and_leaves_nothing() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/demo/demo.qcow2");
    for kib in [4, 64, 128, 256] {
        let host = Host::new(PROGRAM);
        let base = host.file("base.qcow2", fs::read(&demo).unwrap());
        let script = format!(
            "set +e; VMIMG_ROOT=$PWD/root '{vmimg}' prepare web1 --image '{base}' --size 1G --config-drive >out 2>/dev/shm/vmimg-err.$$; \
             echo \"code $?\"; cat /dev/shm/vmimg-err.$$; rm -f /dev/shm/vmimg-err.$$; echo left; ls -A root 2>/dev/null || true",
            vmimg = host.path("vmimg").display(),
            base = base.display(),
        );
        let said = in_small_tmpfs(&host, kib, &script);
        let (report, left) = said.split_once("left\n").unwrap();
        assert!(report.contains("code 7"), "{kib} KiB: {said}");
        assert!(report.to_lowercase().contains("no space left"), "{kib} KiB: {said}");
        assert_eq!(left.trim(), "", "{kib} KiB: something was left behind");
    }
}
