//! The guest of `images/kernel`, and how a test runs something in it.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vmimg_tests::tool::Tool;

/// A guest that is about to run.
pub(crate) struct Guest {
    folder: TempDir,
}

impl Guest {
    /// Puts the program, with the libraries that it needs, beside what the guest starts from.
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("vmimg-attach-").tempdir().unwrap();
        let tree = folder.path().join("tree");
        for below in ["test", "usr/lib/x86_64-linux-gnu", "usr/lib64"] {
            fs::create_dir_all(tree.join(below)).unwrap();
        }
        let program = env!("CARGO_BIN_EXE_vmimg-program");
        Tool::new("strip").arg("-o").arg(tree.join("test/vmimg")).arg(program).run();
        for line in Tool::new("ldd").arg(program).run().lines() {
            let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')).map(Path::new) else { continue };
            let name = path.file_name().unwrap();
            let below = if name.to_str().unwrap().starts_with("ld-linux") { "usr/lib64" } else { "usr/lib/x86_64-linux-gnu" };
            fs::copy(path, tree.join(below).join(name)).unwrap();
        }
        Self { folder }
    }

    /// Where a file of the test lies, for the guest in `/test`.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("tree/test").join(name)
    }

    /// Runs a script of the guest's shell and returns what it said; it must end well. `VMIMG_ATTACH_ROUNDS` is its `$ROUNDS`.
    pub(crate) fn run(self, common: &str, script: &str) -> String {
        let rounds = rounds();
        let script = format!("ROUNDS={rounds}\n{common}\n{script}");
        let at = |name: &str| self.folder.path().join(name);
        fs::write(at("tree/test/run"), script).unwrap();
        let added = Tool::new("sh").current_dir(at("tree")).args(["-c", "find . | cpio -o -H newc --quiet"]).output();
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        // The kernel unpacks one archive behind the other; the second begins at a multiple of four bytes.
        let mut disk = fs::read(image("initrd.img")).unwrap();
        disk.resize(disk.len().next_multiple_of(4), 0);
        disk.extend(added.stdout);
        fs::write(at("initrd"), disk).unwrap();
        let limit = 1500_u32.saturating_add(rounds.saturating_mul(80)).to_string();
        let qemu = Tool::new("timeout").args([
            "--foreground",
            &limit,
            "qemu-system-x86_64",
            "-machine",
            "q35",
            "-accel",
            "tcg,thread=multi",
        ]);
        let qemu = qemu.args(["-cpu", "max", "-smp", "2", "-m", "768", "-nodefaults", "-no-user-config", "-no-reboot"]);
        // On a busy machine, the kernel takes a timer that is late for one that is broken.
        let qemu =
            qemu.args(["-display", "none", "-serial", "stdio", "-append", "console=ttyS0 panic=-1 quiet no_timer_check"]);
        let output = qemu.arg("-kernel").arg(image("vmlinuz")).arg("-initrd").arg(at("initrd")).output();
        let said = String::from_utf8_lossy(&output.stdout).replace('\r', "");
        assert!(said.contains("VMIMG-STATUS 0\n"), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
        said
    }
}

/// A file that `scripts/image kernel` has built.
fn image(name: &str) -> PathBuf {
    // The program lies in the folder of its profile, and that in the folder for everything that is built.
    let target = Path::new(env!("CARGO_BIN_EXE_vmimg-program")).parent().unwrap().parent().unwrap();
    let path = target.join("images/kernel").join(name);
    assert!(path.exists(), "`scripts/image kernel` builds {}", path.display());
    path
}

/// How often what may go wrong rarely is done: `VMIMG_ATTACH_ROUNDS` says so, for more than a test has time for.
#[expect(clippy::disallowed_methods, reason = "how long a test may take is asked of the environment")]
fn rounds() -> u32 {
    std::env::var("VMIMG_ATTACH_ROUNDS").map_or(2, |text| text.parse().unwrap())
}
