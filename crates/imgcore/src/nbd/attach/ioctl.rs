//! The calls that connected devices before netlink did, and do where it is not to be had.
//!
//! One of them returns when the device ends, and the device ends when who calls it is killed: a thread waits there, and takes no
//! signal that only asks for an end. It has no file but the device's open: of a process that is killed, files are closed when no
//! thread has them any more, and this one may wait for a request to leave through a socket whose other end is this process'.

use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, NoArg, Opcode, ioctl, opcode};

use super::{Connect, Device, Error};

/// The devices that this process has connected.
#[derive(Debug, Default)]
pub(super) struct Ioctl {
    waiting: Mutex<Vec<(Device, JoinHandle<()>)>>,
}

impl Ioctl {
    /// As [`Kernel::connect`](super::Kernel::connect), of a disk that fits.
    pub(super) fn connect(&self, device: Device, socket: BorrowedFd<'_>, disk: &Connect<'_>) -> Result<(), Error> {
        let cannot = || Error::system(format!("connect `{}`", device.path().display()));
        if device.is_connected() {
            return Err(Error::InUse(device.path()));
        }
        // What is wrong with the node is said in so many words here.
        drop(device.node()?);
        let settings = Settings {
            block_size: usize::try_from(disk.block_size).unwrap_or(usize::MAX),
            blocks: usize::try_from(disk.size.checked_div(disk.block_size).unwrap_or_default()).unwrap_or(usize::MAX),
            flags: disk.flags.into(),
            seconds: disk.timeout.map_or(0, |time| usize::try_from(time.as_secs().max(1)).unwrap_or(usize::MAX)),
        };
        let (say, said) = channel();
        let number = socket.as_raw_fd();
        let work = move || {
            // The socket is open as long as the caller waits for the beginning.
            let ended = leave_files(number).and_then(|socket| wait(device, socket, &settings));
            if let Err(error) = ended {
                // Who waited for the beginning may be gone.
                let _late = say.send(error);
            }
        };
        let builder = thread::Builder::new().name("nbd device".to_owned());
        let thread = without_signals(|| builder.spawn(work)).map_err(cannot())?;
        match begun(&said, device, disk.size) {
            Ok(()) => {
                self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push((device, thread));
                Ok(())
            }
            Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => Err(Error::InUse(device.path())),
            Err(error) => Err(cannot()(error)),
        }
    }

    /// As [`Kernel::disconnect`](super::Kernel::disconnect).
    pub(super) fn disconnect(&self, device: Device) -> Result<(), Error> {
        if !device.is_connected() {
            return Err(Error::NotConnected(device.path()));
        }
        let node = device.node()?;
        let done = call::<DISCONNECT>(&node).and_then(|()| call::<CLEAR_SOCK>(&node));
        done.map_err(|error| Error::system(format!("disconnect `{}`", device.path().display()))(error.into()))?;
        drop(node);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, thread) in waiting.extract_if(.., |(waits, _)| *waits == device) {
            // It has nothing to say.
            let _ended = thread.join();
        }
        Ok(())
    }
}

/// What a device is told before it begins.
struct Settings {
    block_size: usize,
    blocks: usize,
    flags: usize,
    seconds: usize,
}

/// Connects the device and waits for its end.
fn wait(device: Device, socket: OwnedFd, settings: &Settings) -> io::Result<()> {
    let node = device.node().map_err(io::Error::other)?;
    let number = usize::try_from(socket.as_raw_fd()).unwrap_or(usize::MAX);
    // A device that has another server refuses this one, and keeps its settings.
    set::<SET_SOCK>(&node, number)?;
    // The kernel has a socket of its own now.
    drop(socket);
    let ended = set::<SET_BLKSIZE>(&node, settings.block_size)
        .and_then(|()| set::<SET_SIZE_BLOCKS>(&node, settings.blocks))
        .and_then(|()| set::<SET_FLAGS>(&node, settings.flags))
        .and_then(|()| set::<SET_TIMEOUT>(&node, settings.seconds))
        .and_then(|()| call::<DO_IT>(&node));
    // Without it the device would keep its socket until its last user closes it.
    let _ended = call::<CLEAR_SOCK>(&node);
    Ok(ended?)
}

/// Waits until the device has its size; the kernel says nothing of that.
fn begun(said: &Receiver<io::Error>, device: Device, size: u64) -> io::Result<()> {
    loop {
        match said.recv_timeout(GLANCE) {
            Ok(error) => return Err(error),
            Err(RecvTimeoutError::Disconnected) => return Err(io::ErrorKind::ConnectionAborted.into()),
            Err(RecvTimeoutError::Timeout) if device.is_connected() && device.size() == size => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

fn set<const CALL: Opcode>(node: &File, value: usize) -> Result<(), Errno> {
    // SAFETY: the calls that `set` is used with take a number, and touch no memory of the process.
    #[expect(unsafe_code, reason = "rustix knows no safe form of nbd's calls")]
    unsafe {
        ioctl(node.as_fd(), IntegerSetter::<CALL>::new_usize(value))
    }
}

fn call<const CALL: Opcode>(node: &File) -> Result<(), Errno> {
    // SAFETY: the calls that `call` is used with take nothing, and touch no memory of the process.
    #[expect(unsafe_code, reason = "rustix knows no safe form of nbd's calls")]
    unsafe {
        ioctl(node.as_fd(), NoArg::<CALL>::new())
    }
}

/// Gives this thread open files of its own, of which the one of number `kept` alone stays open.
fn leave_files(kept: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call touches no memory.
    #[expect(unsafe_code, reason = "rustix and libc know no safe form")]
    let left = unsafe { libc::unshare(libc::CLONE_FILES) };
    if left != 0 {
        return Err(io::Error::last_os_error());
    }
    let names = fs::read_dir("/proc/thread-self/fd")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let numbers: Vec<RawFd> = names.collect();
    for number in numbers.into_iter().filter(|number| *number != kept) {
        // SAFETY: the number is one of this thread's own table, in which nothing else uses it.
        #[expect(unsafe_code, reason = "libc knows no safe form")]
        unsafe {
            libc::close(number);
        }
    }
    // SAFETY: in this thread's own table, nothing else owns it.
    #[expect(unsafe_code, reason = "the table is another one than that of whoever opened it")]
    Ok(unsafe { OwnedFd::from_raw_fd(kept) })
}

/// Does `work`, of which a thread inherits that no signal but those that nobody can block reaches it: other threads take them.
fn without_signals<T>(work: impl FnOnce() -> T) -> T {
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: the calls write a whole set each, and the second reads the one that the first has filled.
    #[expect(unsafe_code, reason = "libc knows no safe form")]
    let before = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        before.assume_init()
    };
    let done = work();
    // SAFETY: the set is the one of before.
    #[expect(unsafe_code, reason = "libc knows no safe form")]
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
    }
    done
}

/// `NBD_SET_SOCK` and the others of `linux/nbd.h`.
const SET_SOCK: Opcode = opcode::none(0xAB, 0);
const SET_BLKSIZE: Opcode = opcode::none(0xAB, 1);
const DO_IT: Opcode = opcode::none(0xAB, 3);
const CLEAR_SOCK: Opcode = opcode::none(0xAB, 4);
const SET_SIZE_BLOCKS: Opcode = opcode::none(0xAB, 7);
const DISCONNECT: Opcode = opcode::none(0xAB, 8);
const SET_TIMEOUT: Opcode = opcode::none(0xAB, 9);
const SET_FLAGS: Opcode = opcode::none(0xAB, 10);

/// How often a device is looked at that is about to begin.
const GLANCE: Duration = Duration::from_millis(2);
