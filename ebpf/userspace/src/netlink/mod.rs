//! Blocking rtnetlink: one request and its responses; and notifications about changes.
//!
//! A socket stays in the network namespace in which it was opened: a thread that opens one inside a
//! pod can leave the pod and still configure it.

mod error;
mod notification;
mod response;

use std::io;
use std::os::fd::AsRawFd;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

pub use error::{KernelError, NetlinkError};
pub use notification::{Notification, Notifications, parse_notifications};
pub use response::{Responses, parse_responses};

/// Attempts at a dump that races with changes: while a node starts its pods, devices appear by the
/// hundred.
const DUMP_ATTEMPTS: usize = 50;

/// An rtnetlink socket.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// The socket cannot be opened or bound.
    pub fn open() -> Result<Netlink, NetlinkError> {
        let fail = |e: io::Error| NetlinkError::new("open a netlink socket", e);
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(fail)?;
        socket.bind_auto().map_err(fail)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(fail)?;
        // Both options only improve responses; requests work without them.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Netlink { socket, sequence: 0 })
    }

    /// Cookie of the network namespace of the socket, by which socket programs recognise it; `None` if
    /// the kernel has none (before Linux 5.14).
    pub fn netns_cookie(&self) -> Option<u64> {
        /// `SO_NETNS_COOKIE` (include/uapi/asm-generic/socket.h).
        const SO_NETNS_COOKIE: libc::c_int = 71;

        let mut cookie = 0u64;
        let mut len = size_of::<u64>() as libc::socklen_t;
        // SAFETY: the descriptor is open; the value is writable and has the given length.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_NETNS_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut len,
            )
        };
        (result == 0 && cookie != 0).then_some(cookie)
    }

    /// Sends a request that creates, changes or deletes an object, with `flags` in addition to
    /// REQUEST and ACK. `operation` describes the operation in errors.
    ///
    /// # Errors
    /// The socket fails, or the kernel rejects the request.
    pub fn change(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        operation: &str,
    ) -> Result<(), NetlinkError> {
        self.exchange(message, flags | NLM_F_ACK, operation).map(|_| ())
    }

    /// Requests one object.
    ///
    /// # Errors
    /// The socket fails, or the kernel rejects the request; see [`NetlinkError::is_absent`] for an
    /// object that does not exist.
    pub fn get(
        &mut self,
        message: RouteNetlinkMessage,
        operation: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.exchange(message, NLM_F_ACK, operation).map(Option::unwrap_or_default)
    }

    /// Requests all objects of a kind. A dump that the kernel marks as interrupted can lack objects
    /// and is requested again: callers delete what a dump does not contain.
    ///
    /// # Errors
    /// The socket fails, or the kernel rejects the request; EINTR if every attempt was interrupted.
    pub fn dump(
        &mut self,
        message: RouteNetlinkMessage,
        operation: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        complete_dump(operation, || self.exchange(message.clone(), NLM_F_DUMP, operation))
    }

    /// Sends a request and returns its objects; `None` if the dump was interrupted.
    fn exchange(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        operation: &str,
    ) -> Result<Option<Vec<RouteNetlinkMessage>>, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(|e| NetlinkError::new(operation, e))?;
        response::collect(self.sequence, || {
            self.socket.recv_from_full().map(|(datagram, _)| datagram)
        })
        .map_err(|e| NetlinkError::new(operation, e))
    }
}

/// Repeats a dump until it is not interrupted.
fn complete_dump<T>(
    operation: &str,
    mut attempt: impl FnMut() -> Result<Option<T>, NetlinkError>,
) -> Result<T, NetlinkError> {
    for _ in 0..DUMP_ATTEMPTS {
        if let Some(objects) = attempt()? {
            return Ok(objects);
        }
    }
    Err(NetlinkError::new(operation, io::Error::from_raw_os_error(libc::EINTR)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn an_interrupted_dump_is_repeated() {
        let mut attempts = 0;
        let objects = complete_dump("list links", || {
            attempts += 1;
            Ok((attempts == DUMP_ATTEMPTS).then_some(attempts))
        });
        assert_eq!(objects.unwrap(), DUMP_ATTEMPTS);
        let error = complete_dump::<()>("list links", || Ok(None)).unwrap_err();
        assert_eq!(error.errno(), libc::EINTR);
    }

    #[test]
    fn a_failed_dump_is_not_repeated() {
        let mut attempts = 0;
        let error = complete_dump::<()>("list links", || {
            attempts += 1;
            Err(NetlinkError::new("list links", io::Error::from_raw_os_error(libc::EPERM)))
        });
        assert_eq!((error.unwrap_err().errno(), attempts), (libc::EPERM, 1));
    }

    #[test]
    fn errors_are_classified_by_their_number() {
        let error = |errno| NetlinkError::new("delete route", io::Error::from_raw_os_error(errno));
        for errno in [libc::ENODEV, libc::ENOENT, libc::ESRCH, libc::EADDRNOTAVAIL, libc::ENXIO] {
            assert!(error(errno).is_absent() && !error(errno).is_present(), "{errno}");
        }
        assert!(error(libc::EEXIST).is_present() && !error(libc::EEXIST).is_absent());
        assert!(!error(libc::EPERM).is_absent() && !error(libc::EPERM).is_present());
    }
}
