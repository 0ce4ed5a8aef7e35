use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, sendto, socket_with};

use super::message::{Answer, Attributes, Message, next};
use super::{Connect, Device, Error};

/// A socket of generic netlink, by which the kernel is told of devices.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    /// The number of the family `nbd`.
    family: u16,
}

impl Netlink {
    /// Finds the kernel's nbd driver: none where it is not loaded, in a network namespace of a container, or without netlink.
    pub(super) fn open() -> Result<Self, Error> {
        let doing = || "reach the kernel by netlink".to_owned();
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::GENERIC));
        let socket = socket.map_err(|error| match error {
            Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT => Error::NoDriver,
            error => Error::system(doing())(error.into()),
        })?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE)).map_err(|error| Error::system(doing())(error.into()))?;
        let mut kernel = Self { socket, family: 0 };
        let question = Message::new(CONTROLLER, GET_FAMILY).text(FAMILY_NAME, b"nbd").finish();
        let mut family = None;
        match kernel.ask(&question, |attributes| family = attributes.u16(FAMILY_ID)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::NoDriver),
            Err(error) => return Err(Error::system(doing())(error)),
        }
        kernel.family = family.ok_or(Error::Answer("it names no family"))?;
        Ok(kernel)
    }

    /// As [`Kernel::connect`](super::Kernel::connect), of a disk that fits.
    pub(super) fn connect(&self, device: Device, socket: BorrowedFd<'_>, disk: &Connect<'_>) -> Result<(), Error> {
        let number = u32::try_from(socket.as_raw_fd()).map_err(|_| Error::Answer("a socket has a negative number"))?;
        let identifier = disk.identifier.get(..MAX_IDENTIFIER).unwrap_or(disk.identifier);
        let question = Message::new(self.family, CONNECT)
            .u32(INDEX, device.index())
            .u64(SIZE_BYTES, disk.size)
            .u64(BLOCK_SIZE_BYTES, disk.block_size)
            .u64(TIMEOUT, disk.timeout.map_or(0, |time| time.as_secs().max(1)))
            .u64(SERVER_FLAGS, u64::from(disk.flags))
            .u64(DEAD_CONN_TIMEOUT, disk.dead_timeout.as_secs())
            .nest(SOCKETS, |list| list.nest(SOCK_ITEM, |item| item.u32(SOCK_FD, number)))
            .text(BACKEND_IDENTIFIER, identifier)
            .finish();
        self.ask(&question, |_| {}).map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::BUSY) => Error::InUse(device.path()),
            _ => Error::system(format!("connect `{}`", device.path().display()))(error),
        })
    }

    /// As [`Kernel::disconnect`](super::Kernel::disconnect).
    pub(super) fn disconnect(&self, device: Device) -> Result<(), Error> {
        let question = Message::new(self.family, DISCONNECT).u32(INDEX, device.index()).finish();
        self.ask(&question, |_| {}).map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::INVAL | Errno::NXIO) => Error::NotConnected(device.path()),
            _ => Error::system(format!("disconnect `{}`", device.path().display()))(error),
        })
    }

    /// Sends a request, and hands over the attributes of the answer until its end.
    fn ask(&self, question: &[u8], mut answer: impl FnMut(Attributes<'_>)) -> io::Result<()> {
        let sent = sendto(self.socket.as_fd(), question, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        if sent != question.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let mut buf = vec![0; BUFFER];
        loop {
            let received = match recv(self.socket.as_fd(), buf.as_mut_slice(), RecvFlags::empty()) {
                Err(Errno::INTR) => continue,
                other => other?.0,
            };
            let mut rest = buf.get(..received).unwrap_or_default();
            if rest.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            while let Some((message, next)) = next(rest) {
                match message {
                    Answer::Done(0) => return Ok(()),
                    Answer::Done(error) => return Err(io::Error::from_raw_os_error(error.saturating_neg())),
                    Answer::Attributes(attributes) => answer(attributes),
                    Answer::Other => {}
                }
                rest = next;
            }
        }
    }
}

/// `GENL_ID_CTRL`.
const CONTROLLER: u16 = 16;

/// `CTRL_CMD_GETFAMILY`.
const GET_FAMILY: u8 = 3;

/// `CTRL_ATTR_FAMILY_ID` and `CTRL_ATTR_FAMILY_NAME`.
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// `NBD_CMD_CONNECT` and `NBD_CMD_DISCONNECT`.
const CONNECT: u8 = 1;
const DISCONNECT: u8 = 2;

/// `NBD_ATTR_…`.
const INDEX: u16 = 1;
const SIZE_BYTES: u16 = 2;
const BLOCK_SIZE_BYTES: u16 = 3;
const TIMEOUT: u16 = 4;
const SERVER_FLAGS: u16 = 5;
const SOCKETS: u16 = 7;
const DEAD_CONN_TIMEOUT: u16 = 8;
const BACKEND_IDENTIFIER: u16 = 10;

/// `NBD_SOCK_ITEM` and `NBD_SOCK_FD`.
const SOCK_ITEM: u16 = 1;
const SOCK_FD: u16 = 1;

/// Bytes of an answer, more than the kernel sends at once.
const BUFFER: usize = 32 << 10;

/// Bytes of an identifier: sysfs shows a page.
const MAX_IDENTIFIER: usize = 4000;

/// How long the kernel may take to answer; it has the answer when it has the question.
const PATIENCE: Duration = Duration::from_secs(30);
