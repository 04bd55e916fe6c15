//! Closes connected UDP sockets by their cookies.
//!
//! A connected UDP socket is translated once, in connect(2). When its backend leaves the Service, or its
//! frontend leads to another one, the program is not informed; destroying the socket makes recv(2) fail with
//! ECONNABORTED, and a resolver or client library connects again. Unconnected sockets are translated at each
//! send.
//!
//! The kernel lists the sockets of a network namespace with peer and cookie. A socket is destroyed if both are
//! those of the entry in `UDP_SOCKETS`: one that was disconnected, or whose connect(2) failed after the
//! translation, is left alone.

mod diag;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns};
use sluice_core::dump;

use self::diag::{Diag, Family, SocketId};
use crate::kernel::{ClosedSockets, UdpSockets};

/// The thread that closes sockets: it changes its network namespace, and a list of sockets can take
/// milliseconds.
#[derive(Debug, Default)]
pub struct Closer {
    running: Option<JoinHandle<ClosedSockets>>,
}

impl Closer {
    /// Starts to close these sockets, in the present network namespace and in `namespaces`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(&mut self, sockets: UdpSockets, namespaces: BTreeSet<PathBuf>) -> io::Result<()> {
        let work = move || close_in_all(&sockets, &namespaces);
        self.running = Some(thread::Builder::new().name("close-sockets".to_owned()).spawn(work)?);
        Ok(())
    }

    /// What was closed; `None` while the thread runs.
    pub fn result(&mut self) -> Option<ClosedSockets> {
        let Some(thread) = self.running.take_if(|thread| thread.is_finished()) else {
            return self.running.is_none().then(ClosedSockets::default);
        };
        Some(thread.join().unwrap_or_else(|_panic| {
            ClosedSockets::failed("the thread that closes sockets has panicked".to_owned())
        }))
    }
}

fn close_in_all(sockets: &UdpSockets, namespaces: &BTreeSet<PathBuf>) -> ClosedSockets {
    let mut closed = ClosedSockets::default();
    close_here("the node", sockets, &mut closed);
    for path in namespaces {
        match enter(path) {
            Ok(()) => close_here(&path.display().to_string(), sockets, &mut closed),
            // The pod ended meanwhile, together with its sockets.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => closed.failures.push(format!("enter {}: {e}", path.display())),
        }
    }
    closed
}

/// Enters a namespace and stays in it: only for a thread that ends soon.
fn enter(namespace: &Path) -> io::Result<()> {
    Ok(setns(File::open(namespace)?, CloneFlags::CLONE_NEWNET)?)
}

/// Closes sockets in the namespace of this thread.
fn close_here(namespace: &str, sockets: &UdpSockets, closed: &mut ClosedSockets) {
    for family in [Family::V4, Family::V6] {
        let listed = Diag::open().and_then(|mut diag| Ok((diag.connected(family)?, diag)));
        match listed {
            Ok((listed, mut diag)) => {
                close_each(namespace, &listed, sockets, closed, |id| diag.destroy(family, id));
            }
            Err(e) => closed.failures.push(format!("list the UDP sockets of {namespace}: {e}")),
        }
    }
}

/// Destroys the listed sockets that are among `sockets`. A failure does not keep it from the others.
fn close_each(
    namespace: &str,
    listed: &[SocketId],
    sockets: &UdpSockets,
    closed: &mut ClosedSockets,
    mut destroy: impl FnMut(&SocketId) -> io::Result<()>,
) {
    for id in listed {
        let Some(socket) = sockets.get(&id.cookie()) else { continue };
        if id.peer() != (socket.backend, socket.backend_port) {
            continue;
        }
        match destroy(id) {
            Ok(()) => closed.sockets += 1,
            // Closed meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            // Without CONFIG_INET_DIAG_DESTROY.
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => closed.unsupported += 1,
            Err(e) => {
                let frontend = dump::socket_address(socket.frontend, socket.frontend_port);
                let failure = format!("close a UDP socket of {namespace} to {frontend}: {e}");
                closed.failures.push(failure);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};

    use sluice_abi::{Addr, PortBe};

    use super::*;

    fn entry(peer: SocketAddr) -> sluice_abi::UdpSocket {
        let SocketAddr::V4(peer) = peer else { unreachable!() };
        sluice_abi::UdpSocket {
            backend: Addr::v4(peer.ip().octets()),
            backend_port: PortBe::new(peer.port()),
            frontend: Addr::v4([10, 96, 0, 10]),
            frontend_port: PortBe::new(53),
            ..sluice_abi::UdpSocket::default()
        }
    }

    /// Sockets of this process, and what the kernel lists of them.
    fn connected(count: usize) -> (UdpSocket, Vec<UdpSocket>, Vec<SocketId>) {
        let backend = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = backend.local_addr().unwrap();
        let clients: Vec<_> = (0..count)
            .map(|_| {
                let client = UdpSocket::bind("127.0.0.1:0").unwrap();
                client.connect(to).unwrap();
                client
            })
            .collect();
        let mut listed = Diag::open().unwrap().connected(Family::V4).unwrap();
        listed.retain(|id| id.peer().1 == PortBe::new(to.port()));
        assert_eq!(listed.len(), count);
        (backend, clients, listed)
    }

    /// Closes with a kernel that answers in this order.
    fn close(
        listed: &[SocketId],
        sockets: &UdpSockets,
        answers: &[Option<i32>],
    ) -> (Vec<u64>, ClosedSockets) {
        let (mut tried, mut closed) = (Vec::new(), ClosedSockets::default());
        close_each("a pod", listed, sockets, &mut closed, |id| {
            tried.push(id.cookie());
            match answers.get(tried.len() - 1).copied().flatten() {
                Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                None => Ok(()),
            }
        });
        (tried, closed)
    }

    #[test]
    fn socket_is_closed_by_its_cookie_if_its_peer_is_the_backend() {
        let (backend, _clients, listed) = connected(3);
        let to = backend.local_addr().unwrap();
        let other: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let sockets: UdpSockets =
            [(listed[1].cookie(), entry(to)), (listed[2].cookie(), entry(other))].into();
        let (tried, closed) = close(&listed, &sockets, &[]);
        assert_eq!(tried, [listed[1].cookie()]);
        assert_eq!(closed, ClosedSockets { sockets: 1, ..ClosedSockets::default() });
    }

    #[test]
    fn failure_of_one_socket_does_not_keep_the_others_open() {
        let (backend, _clients, listed) = connected(3);
        let to = backend.local_addr().unwrap();
        let sockets: UdpSockets = listed.iter().map(|id| (id.cookie(), entry(to))).collect();
        for (errno, unsupported, failures) in [
            (libc::EPERM, 0, 1),
            (libc::EOPNOTSUPP, 1, 0),
            // It was closed by its program.
            (libc::ENOENT, 0, 0),
        ] {
            let (tried, closed) = close(&listed, &sockets, &[None, Some(errno)]);
            assert_eq!(tried.len(), 3);
            let found = (closed.sockets, closed.unsupported, closed.failures.len());
            assert_eq!(found, (2, unsupported, failures), "{:?}", closed.failures);
        }
        let (_, closed) = close(&listed, &sockets, &[Some(libc::EPERM)]);
        let failure = &closed.failures[0];
        assert!(failure.starts_with("close a UDP socket of a pod to 10.96.0.10:53: "), "{failure}");
    }

    #[test]
    fn cookie_is_that_of_getsockopt() {
        use std::os::fd::AsRawFd;
        let (_backend, clients, listed) = connected(2);
        let mut cookies: Vec<u64> = Vec::new();
        for client in &clients {
            let (mut cookie, mut len) = (0u64, size_of::<u64>() as libc::socklen_t);
            // SAFETY: the kernel writes up to `len` bytes to `cookie`.
            let result = unsafe {
                libc::getsockopt(
                    client.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_COOKIE,
                    (&raw mut cookie).cast(),
                    &raw mut len,
                )
            };
            assert_eq!(result, 0);
            cookies.push(cookie);
        }
        let mut found: Vec<u64> = listed.iter().map(SocketId::cookie).collect();
        cookies.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, cookies);
    }

    #[test]
    fn namespace_of_a_pod_that_ended_is_no_failure() {
        let mut closer = Closer::default();
        assert_eq!(closer.result(), Some(ClosedSockets::default()));
        closer.start(UdpSockets::new(), ["/nonexistent/netns".into()].into()).unwrap();
        let closed = loop {
            match closer.result() {
                Some(closed) => break closed,
                None => thread::yield_now(),
            }
        };
        assert_eq!(closed, ClosedSockets::default());
    }
}
