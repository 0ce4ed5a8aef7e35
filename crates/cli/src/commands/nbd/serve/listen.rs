//! Where a server listens: a Unix socket, TCP, or what systemd has opened.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use imgcore::nbd::server::Listener;
use imgcore::nbd::wire::PORT;
use rustix::io::FdFlags;
use rustix::net::AddressFamily;
use rustix::net::sockopt;

use crate::context::Context;
use crate::error::{CommandError, ErrorKind};
use crate::place::encoded;

/// Where to listen.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ListenArgs {
    /// Listen on a Unix socket
    #[arg(short = 'k', long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Listen on TCP, as in 127.0.0.1:10809 or [::]:0; port 0 is any free one
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "socket")]
    listen: Option<String>,
}

/// Sockets that are open; the name of one that was made here goes with them.
#[derive(Debug)]
pub(super) struct Sockets {
    listeners: Vec<Listener>,
    made: Option<Made>,
}

/// The name of a socket, and which file it was when it was made.
#[derive(Debug)]
struct Made {
    path: PathBuf,
    identity: (u64, u64),
}

/// Opens the sockets that the arguments mean, or takes those of systemd.
///
/// # Errors
///
/// [`ErrorKind::Refused`] when another server listens there or something else has the name; what the system refuses.
pub(super) fn open(args: &ListenArgs, context: &Context) -> Result<Sockets, CommandError> {
    if let Some(path) = &args.socket {
        return unix(&context.absolute(path));
    }
    if args.listen.is_none()
        && let Some(count) = activated(context)
    {
        return Ok(Sockets { listeners: inherited(count)?, made: None });
    }
    let address = match &args.listen {
        None => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT),
        Some(text) => address(text)?,
    };
    let listener = TcpListener::bind(address).map_err(|error| cannot(&address.to_string(), error))?;
    Ok(Sockets { listeners: vec![Listener::Tcp(listener)], made: None })
}

impl Sockets {
    /// Takes the listeners.
    pub(super) fn take(&mut self) -> Vec<Listener> {
        std::mem::take(&mut self.listeners)
    }

    /// Returns how clients name the export `name`, once for each socket.
    pub(super) fn uris(&self, scheme: &str, name: &str) -> Vec<String> {
        let name = encoded(name.as_bytes());
        let uri = |listener: &Listener| match listener {
            Listener::Tcp(listener) => Some(format!("{scheme}://{}/{name}", listener.local_addr().ok()?)),
            Listener::Unix(listener) => {
                let path = listener.local_addr().ok()?.as_pathname()?.to_owned();
                Some(format!("{scheme}+unix:///{name}?socket={}", encoded(path.as_os_str().as_bytes())))
            }
        };
        self.listeners.iter().filter_map(uri).collect()
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        if let Some(made) = self.made.take()
            && fs::symlink_metadata(&made.path).is_ok_and(|now| (now.dev(), now.ino()) == made.identity)
        {
            // Who removed it before us has done our work.
            let _gone = fs::remove_file(&made.path);
        }
    }
}

fn unix(path: &Path) -> Result<Sockets, CommandError> {
    let shown = path.display().to_string();
    match fs::symlink_metadata(path) {
        Err(_) => {}
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(CommandError::new(ErrorKind::Refused, format!("`{shown}` exists and is no socket")));
        }
        Ok(_) => match UnixStream::connect(path) {
            // Nobody listens: what is left of a server that was killed.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(|error| cannot(&shown, error))?;
            }
            _ => return Err(CommandError::new(ErrorKind::Refused, format!("another server listens on `{shown}`"))),
        },
    }
    let listener = UnixListener::bind(path).map_err(|error| cannot(&shown, error))?;
    let made = fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    let made = made.map(|identity| Made { path: path.to_owned(), identity });
    Ok(Sockets { listeners: vec![Listener::Unix(listener)], made })
}

fn address(text: &str) -> Result<SocketAddr, CommandError> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, PORT));
    }
    let wrong = || CommandError::new(ErrorKind::Usage, format!("`{text}` is not an address and a port"));
    let found = text.to_socket_addrs().map_err(|error| wrong().with_source(error).hint("as in 127.0.0.1:10809"))?;
    found.into_iter().next().ok_or_else(wrong)
}

/// Returns how many sockets systemd has opened for this process, if it has.
///
/// Spec: `sd_listen_fds(3)`.
fn activated(context: &Context) -> Option<i32> {
    let number = |name| context.variable(name)?.to_str()?.parse::<u32>().ok();
    let pid = number("LISTEN_PID")?;
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let count = number("LISTEN_FDS").filter(|count| (1..=MOST_INHERITED).contains(count))?;
    (u32::try_from(own) == Ok(pid)).then(|| i32::try_from(count).unwrap_or(0))
}

/// Takes `count` sockets from descriptor 3 on.
#[expect(unsafe_code, reason = "systemd hands sockets over as numbers of descriptors")]
fn inherited(count: i32) -> Result<Vec<Listener>, CommandError> {
    let mut listeners = Vec::new();
    for number in FIRST_INHERITED..FIRST_INHERITED.saturating_add(count) {
        let wrong = || CommandError::new(ErrorKind::Usage, format!("descriptor {number} of LISTEN_FDS is no listening socket"));
        // SAFETY: it is borrowed for one call, which fails when it is not open.
        let here = unsafe { BorrowedFd::borrow_raw(number) };
        rustix::io::fcntl_setfd(here, FdFlags::CLOEXEC).map_err(|_| wrong())?;
        // SAFETY: LISTEN_PID says that this open descriptor was made for this process; nothing else here has taken it over.
        let socket = unsafe { OwnedFd::from_raw_fd(number) };
        if !sockopt::socket_acceptconn(&socket).is_ok_and(|listens| listens) {
            return Err(wrong());
        }
        listeners.push(match sockopt::socket_domain(&socket) {
            Ok(AddressFamily::UNIX) => Listener::Unix(socket.into()),
            Ok(AddressFamily::INET | AddressFamily::INET6) => Listener::Tcp(socket.into()),
            _ => return Err(wrong()),
        });
    }
    Ok(listeners)
}

fn cannot(place: &str, error: io::Error) -> CommandError {
    let kind = if error.kind() == io::ErrorKind::AddrInUse { ErrorKind::Refused } else { ErrorKind::Storage };
    CommandError::new(kind, format!("cannot listen on `{place}`")).with_source(error)
}

/// The first descriptor that systemd hands over.
const FIRST_INHERITED: i32 = 3;

/// Sockets that are taken from systemd.
const MOST_INHERITED: u32 = 64;

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn addresses_have_a_port_or_get_the_usual_one() {
        let read = |text| address(text).map(|address| address.to_string());
        assert_eq!(read("127.0.0.1").unwrap(), "127.0.0.1:10809");
        assert_eq!(read("[::1]:5").unwrap(), "[::1]:5");
        assert_eq!(read("::1").unwrap(), "[::1]:10809");
        assert!(read("127.0.0.1:x").is_err());
    }
}
