//! The time and the readiness of sockets, in the precision that the kernel has.

use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// CLOCK_MONOTONIC in nanoseconds: the same clock in all containers of a machine.
pub fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is that of a valid `timespec`, which the call writes.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    assert_eq!(result, 0, "CLOCK_MONOTONIC: {}", std::io::Error::last_os_error());
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Waits until the socket has a datagram or an error, at most `timeout`. A timeout of the socket itself
/// has the precision of the kernel's ticks, several milliseconds.
pub fn wait_readable(socket: &UdpSocket, timeout: Duration) {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_nsec: timeout.subsec_nanos() as libc::c_long,
    };
    // SAFETY: the pointers are those of one `pollfd` and one `timespec`, which outlive the call; no
    // signal mask is passed. A signal ends the wait early, which callers allow for.
    unsafe { libc::ppoll(&raw mut poll, 1, &raw const timeout, std::ptr::null()) };
}
