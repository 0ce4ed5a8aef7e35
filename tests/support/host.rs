//! A host for one test: a private folder, an ordinary user, the program, and base images.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::{env, fs};

use tempfile::TempDir;

use crate::disk;
use crate::tool::Tool;

/// The user and group that tests run as when they are started by root: `nobody` and `nogroup` of Debian.
const ORDINARY: (u32, u32) = (65534, 65534);

/// A private folder with its own home, and an ordinary user to whom it belongs.
///
/// The program and the base images are copied into it, since that user may not reach a checkout in root's home.
#[derive(Debug)]
pub struct Host {
    folder: TempDir,
    root: bool,
}

impl Host {
    /// An empty host with the program: `env!("CARGO_BIN_EXE_vmimg-program")` of the test.
    ///
    /// # Panics
    ///
    /// When the folder or the copy cannot be made.
    #[track_caller]
    pub fn new(program: &str) -> Self {
        // In /tmp, because the path of a Unix socket has at most 107 bytes.
        let folder = tempfile::Builder::new().prefix("vmimg-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let host = Self { folder, root: fs::metadata("/proc/self").unwrap().uid() == 0 };
        host.adopt(host.folder.path());
        for name in ["home", "run", "cache", "machines"] {
            host.folder(name);
        }
        fs::copy(program, host.path("vmimg")).unwrap();
        host
    }

    /// A path in the host's folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a folder of the ordinary user, with those above it, and returns its path.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    #[track_caller]
    pub fn folder(&self, name: &str) -> PathBuf {
        let mut path = self.folder.path().to_owned();
        for part in Path::new(name) {
            path.push(part);
            if !path.exists() {
                fs::create_dir(&path).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
                self.adopt(&path);
            }
        }
        path
    }

    /// Gives a file or folder to the ordinary user.
    fn adopt(&self, path: &Path) {
        if self.root {
            chown(path, Some(ORDINARY.0), Some(ORDINARY.1)).unwrap();
        }
    }

    /// Writes a file of the ordinary user and returns its path.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    #[track_caller]
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        self.adopt(&path);
        path
    }

    /// A tool that runs as the ordinary user in the host's home.
    #[track_caller]
    pub fn tool(&self, name: impl AsRef<Path>) -> Tool {
        let tool = if self.root {
            Tool::new("setpriv")
                .arg(format!("--reuid={}", ORDINARY.0))
                .arg(format!("--regid={}", ORDINARY.1))
                .args(["--clear-groups", "--"])
                .arg(name.as_ref())
        } else {
            Tool::new(name.as_ref())
        };
        tool.current_dir(self.path("home"))
            .env("HOME", self.path("home"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("XDG_CONFIG_HOME", self.path("home/.config"))
            .env("XDG_DATA_HOME", self.path("home/.local/share"))
            .env("VMIMG_ROOT", self.path("machines"))
            .env("COLUMNS", "80")
    }

    /// The program, as the ordinary user.
    #[track_caller]
    pub fn vmimg(&self) -> Tool {
        self.tool(self.path("vmimg"))
    }

    /// A copy of a built image, which the ordinary user can read and not write.
    ///
    /// # Panics
    ///
    /// When it has not been built.
    #[track_caller]
    pub fn image(&self, name: &str) -> PathBuf {
        let built = built_image(name);
        let copy = self.path(format!("{name}.qcow2"));
        fs::copy(&built, &copy).unwrap_or_else(|error| panic!("{} (scripts/image {name} builds it): {error}", built.display()));
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o444)).unwrap();
        copy
    }

    /// A fresh SSH key pair: the path of the private half; the public half is beside it, with `.pub`.
    #[track_caller]
    pub fn key(&self, name: &str) -> PathBuf {
        let key = self.path("home").join(name);
        self.tool("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(&key).run();
        key
    }

    /// The digest of a file of this host.
    #[track_caller]
    pub fn digest(&self, path: impl AsRef<Path>) -> String {
        disk::digest(&self.path(path))
    }
}

/// The folder that cargo builds into: this test lives in `TARGET/PROFILE/deps`.
fn target() -> PathBuf {
    env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned()
}

/// A built image: below `VMIMG_IMAGES`, or else where `scripts/image` puts it.
fn built_image(name: &str) -> PathBuf {
    let images = setting("VMIMG_IMAGES").unwrap_or_else(|| target().join("images"));
    images.join(name).join(format!("{name}.qcow2"))
}

#[expect(clippy::disallowed_methods, reason = "where things were built is this machine's own business")]
fn setting(name: &str) -> Option<PathBuf> {
    env::var_os(name).map(PathBuf::from)
}
