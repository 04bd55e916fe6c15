//! Two TUN devices in two network namespaces, with a thread that copies packets between them: a VPN.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::thread::JoinHandle;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe;

use crate::Namespaces;

/// A device without packet information before each packet.
const FLAGS: libc::c_short = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
/// `TUNSETIFF`.
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;

/// The devices exist until this value is dropped.
#[derive(Debug)]
pub struct Tunnel {
    thread: Option<JoinHandle<()>>,
    stop: Option<std::os::fd::OwnedFd>,
}

impl Tunnel {
    /// Creates a device in each namespace and connects them.
    pub fn between(a: (&Namespaces, &str), b: (&Namespaces, &str)) -> Tunnel {
        let [a, b] = [a, b].map(|(namespaces, name)| namespaces.run(|| open(name)));
        let (stopped, stop) = pipe().unwrap();
        let thread = std::thread::spawn(move || copy([a, b], &stopped));
        Tunnel { thread: Some(thread), stop: Some(stop) }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn open(name: &str) -> File {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .unwrap();
    // SAFETY: all-zero is a valid value of this C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = FLAGS;
    // SAFETY: the descriptor is open, and the request is initialized.
    let created = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &request) };
    assert_eq!(created, 0, "{name}: {}", std::io::Error::last_os_error());
    file
}

/// Copies packets in both directions until the other end of `stopped` is closed.
fn copy(mut devices: [File; 2], stopped: &std::os::fd::OwnedFd) {
    let mut packet = vec![0; 65_536];
    loop {
        let [a, b] = &devices;
        let mut waiting =
            [a.as_fd(), b.as_fd(), stopped.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        if poll(&mut waiting, PollTimeout::NONE).is_err() {
            continue;
        }
        if waiting[2].any() == Some(true) {
            return;
        }
        for (from, to) in [(0, 1), (1, 0)] {
            while let Ok(len) = devices[from].read(&mut packet) {
                // A device that is down drops the packet.
                let _ = devices[to].write(&packet[..len]);
            }
        }
    }
}
