//! Whether KVM really runs guests here, found out by running one.
//!
//! That `/dev/kvm` can be opened, and even that a virtual machine can be made with it, says little: nested and paravirtual
//! hosts exist where the machine is made and its guest then hangs. So a tiny guest has to boot from a disk, be woken by
//! three timer interrupts, turn on paging, see a write through a second mapping, and say so, in the time of a blink.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::folders;
use crate::context::Context;
use crate::domain::Accelerator;
use crate::error::{CommandError, ErrorKind};
use crate::files::{hex, read_text};
use crate::tool::Tool;

/// What executes guests on this host, and why not the better one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// The accelerator to use.
    pub accelerator: Accelerator,
    /// Why it is not KVM, when it is not.
    pub reason: Option<&'static str>,
}

/// Returns [`Accelerator::Kvm`] when a guest of `program`, a QEMU, really runs with it.
///
/// A trial's verdict is kept in the cache folder until the host restarts or QEMU changes.
///
/// # Errors
///
/// [`ErrorKind::Interrupted`]; whatever else goes wrong is a reason against KVM.
pub fn verdict(context: &Context, program: &str) -> Result<Verdict, CommandError> {
    if OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(against("/dev/kvm cannot be opened by this user"));
    }
    let Some(key) = key(context, program)? else { return Ok(against("QEMU does not run")) };
    let kept = folders::cache(context).map(|folder| folder.join(format!("kvm-{key}")));
    if let Some(works) = kept.as_deref().and_then(recall) {
        return Ok(of_trial(works));
    }
    let works = trial(context, program, "kvm", TRIAL_LIMIT)?;
    if let Some(path) = kept {
        // What is not kept is tried again.
        let _kept = keep(&path, works);
    }
    Ok(of_trial(works))
}

fn of_trial(works: bool) -> Verdict {
    if works {
        Verdict { accelerator: Accelerator::Kvm, reason: None }
    } else {
        against("a trial guest did not run to its end with KVM")
    }
}

fn against(reason: &'static str) -> Verdict {
    Verdict { accelerator: Accelerator::Qemu, reason: Some(reason) }
}

/// Returns a name for this start of the host and this version of QEMU.
fn key(context: &Context, program: &str) -> Result<Option<String>, CommandError> {
    let version = Tool::new(context, program).arg("--version").timeout(Duration::from_secs(10)).output(context);
    let version = match version {
        Ok(output) if output.status.success() => output.stdout,
        Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
        _ => return Ok(None),
    };
    let boot = fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digest = Sha256::new().chain_update(boot).chain_update(version).chain_update(BOOT_SECTOR).finalize();
    Ok(Some(hex(digest.iter().take(8))))
}

fn recall(path: &Path) -> Option<bool> {
    match read_text(path, 16).ok()?.as_str() {
        "works\n" => Some(true),
        "fails\n" => Some(false),
        _ => None,
    }
}

fn keep(path: &Path, works: bool) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    std::io::Write::write_all(&mut file, if works { b"works\n" } else { b"fails\n" })?;
    file.persist(path)?;
    Ok(())
}

/// Runs the trial guest with QEMU's accelerator `accelerator` and returns whether it came to its end within `limit`.
fn trial(context: &Context, program: &str, accelerator: &str, limit: Duration) -> Result<bool, CommandError> {
    let Ok(disk) = trial_disk() else { return Ok(false) };
    let file = json!({"driver": "file", "filename": disk.path().to_string_lossy()});
    let node = json!({"driver": "raw", "node-name": "trial", "file": file});
    let tool = Tool::new(context, program)
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "pc", "-cpu", "max", "-m", "16"])
        .args(["-accel", accelerator])
        .args(["-blockdev", &node.to_string(), "-device", "ide-hd,drive=trial,bootindex=1"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"])
        .timeout(limit);
    match tool.output(context) {
        Ok(output) => Ok(output.status.code() == Some(SUCCESS)),
        Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
        Err(_) => Ok(false),
    }
}

fn trial_disk() -> std::io::Result<tempfile::NamedTempFile> {
    let mut sector = [0; 512];
    for (to, from) in sector.iter_mut().zip(BOOT_SECTOR) {
        *to = *from;
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let mut disk = tempfile::Builder::new().prefix("vmimg-trial-").tempfile_in(PathBuf::from("/tmp"))?;
    std::io::Write::write_all(&mut disk, &sector)?;
    Ok(disk)
}

/// A translating QEMU takes a quarter of this, and a host whose KVM is that much slower is better off without.
const TRIAL_LIMIT: Duration = Duration::from_secs(2);

/// What QEMU exits with when the guest writes 0x2a to the debug port: twice that and one.
const SUCCESS: i32 = 0x55;

/// The trial guest: 16-bit code at 0x7c00, then 32-bit code with paging.
const BOOT_SECTOR: &[u8] = &[
    // cli; xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 0x7c00; sti
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, 0xfb,
    // mov cx, 3; again: hlt; loop again; cli: three interrupts of the BIOS's timer
    0xb9, 0x03, 0x00, 0xf4, 0xe2, 0xfd, 0xfa,
    // mov dword [0x8000], 0x83; mov dword [0x8004], 0x83: a page directory that maps the first 4 MiB twice
    0x66, 0xc7, 0x06, 0x00, 0x80, 0x83, 0x00, 0x00, 0x00, 0x66, 0xc7, 0x06, 0x04, 0x80, 0x83, 0x00, 0x00, 0x00,
    // mov eax, 0x8000; mov cr3, eax; mov eax, cr4; or al, 0x10; mov cr4, eax: large pages
    0x66, 0xb8, 0x00, 0x80, 0x00, 0x00, 0x0f, 0x22, 0xd8, 0x0f, 0x20, 0xe0, 0x0c, 0x10, 0x0f, 0x22, 0xe0,
    // lgdt [0x7c88]; mov eax, cr0; or eax, 0x80000001; mov cr0, eax; jmp 0x08:0x7c4b: protected mode, paging
    0x0f, 0x01, 0x16, 0x88, 0x7c, 0x0f, 0x20, 0xc0, 0x66, 0x0d, 0x01, 0x00, 0x00, 0x80, 0x0f, 0x22, 0xc0, 0xea, 0x4b, 0x7c,
    0x08, 0x00,
    // 32-bit: mov ax, 0x10; mov ds, ax; mov dword [0x409000], 0x4b564d21: a write through the second mapping
    0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8, 0xc7, 0x05, 0x00, 0x90, 0x40, 0x00, 0x21, 0x4d, 0x56, 0x4b,
    // mov al, 1; cmp dword [0x9000], 0x4b564d21; jne said; mov al, 0x2a; said: out 0xf4, al; stop: hlt; jmp stop
    0xb0, 0x01, 0x81, 0x3d, 0x00, 0x90, 0x00, 0x00, 0x21, 0x4d, 0x56, 0x4b, 0x75, 0x02, 0xb0, 0x2a, 0xe6, 0xf4, 0xf4, 0xeb,
    0xfd, // The segments: none, code, data, each of 4 GiB
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0x00, 0x00, 0x00, 0x9a, 0xcf, 0x00, 0xff, 0xff, 0x00, 0x00,
    0x00, 0x92, 0xcf, 0x00, // What lgdt reads: the table's last byte, and that it is at 0x7c70
    0x17, 0x00, 0x70, 0x7c, 0x00, 0x00,
];

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::{BOOT_SECTOR, keep, recall, trial};
    use crate::context::Context;

    /// For a machine that is busy with other tests.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn context() -> Context {
        Context::detached(PathBuf::from("/"), Box::new(std::io::sink()), Box::new(std::io::sink()))
            .with_variable("PATH", "/usr/bin:/bin")
    }

    #[test]
    fn the_trial_guest_runs_where_guests_run() {
        assert!(BOOT_SECTOR.len() <= 510);
        assert!(trial(&context(), "qemu-system-x86_64", "tcg", PATIENCE).unwrap());
    }

    #[test]
    fn a_trial_that_cannot_start_or_never_ends_is_a_failure() {
        assert!(!trial(&context(), "/nonexistent/qemu", "tcg", PATIENCE).unwrap());
        assert!(!trial(&context(), "false", "tcg", PATIENCE).unwrap());
        assert!(!trial(&context(), "qemu-system-x86_64", "tcg", Duration::ZERO).unwrap());
    }

    #[test]
    fn a_verdict_is_kept_and_a_torn_one_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/kvm");
        for works in [true, false] {
            keep(&path, works).unwrap();
            assert_eq!(recall(&path), Some(works));
        }
        std::fs::write(&path, "work").unwrap();
        assert_eq!(recall(&path), None);
    }
}
