//! A private libvirtd of the ordinary user: `qemu:///session` with its files in the host's folder.

use std::fs;
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::host::Host;
use crate::tool::Tool;

/// The address of the daemon, for virsh and for vmimg.
pub const URI: &str = "qemu:///session";

/// What a daemon without systemd, cgroups and security drivers needs to be told.
const CONFIGURATION: &str = "security_driver = \"none\"\n\
    stdio_handler = \"file\"\n\
    namespaces = []\n\
    cgroup_controllers = []\n\
    remember_owner = 0\n";

/// A running libvirtd. Dropping it destroys its guests and ends it.
#[derive(Debug)]
pub struct Libvirt<'h> {
    host: &'h Host,
    daemon: Child,
}

impl<'h> Libvirt<'h> {
    /// Starts a daemon and waits until it answers.
    ///
    /// # Panics
    ///
    /// When it does not within a minute.
    #[track_caller]
    pub fn start(host: &'h Host) -> Self {
        let folder = host.folder("home/.config/libvirt");
        fs::write(folder.join("qemu.conf"), CONFIGURATION).unwrap();
        let log = host.path("libvirtd.log");
        let daemon = host.tool("libvirtd").log_to(&log).spawn();
        let mut libvirt = Self { host, daemon };
        let start = Instant::now();
        while !libvirt.answers() {
            let ended = libvirt.daemon.try_wait().unwrap();
            assert!(
                ended.is_none() && start.elapsed() < Duration::from_secs(60),
                "libvirtd does not answer ({ended:?}): {}",
                fs::read_to_string(&log).unwrap()
            );
            sleep(Duration::from_millis(100));
        }
        libvirt
    }

    /// virsh, which starts no daemon of its own.
    fn client(&self) -> Tool {
        self.host.tool("virsh").env("LIBVIRT_AUTOSTART", "0")
    }

    fn answers(&self) -> bool {
        self.client().args(["-q", "-c", URI, "version"]).output().status.success()
    }

    /// Runs a command of virsh and returns what it prints.
    #[track_caller]
    pub fn virsh<const N: usize>(&self, arguments: [&str; N]) -> String {
        self.client().args(["-q", "-c", URI]).args(arguments).run()
    }
}

impl Drop for Libvirt<'_> {
    fn drop(&mut self) {
        let list = self.client().args(["-q", "-c", URI, "list", "--name"]).output();
        for name in String::from_utf8_lossy(&list.stdout).split_whitespace() {
            drop(self.client().args(["-q", "-c", URI, "destroy", name]).output());
        }
        drop(self.daemon.kill());
        drop(self.daemon.wait());
    }
}
