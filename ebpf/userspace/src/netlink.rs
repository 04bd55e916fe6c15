//! Blocking rtnetlink: one request, its answers, the kernel's own words when it refuses.
//!
//! A socket belongs to the network namespace in which it was opened, for ever: whoever opened it
//! inside a pod can go home and still talk to the pod.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// How often a dump that changes raced with is read again before giving up: while a node starts
/// its pods, devices come by the hundred.
const DUMP_ATTEMPTS: usize = 50;

/// A refused or failed request: what was being done to which object, and the kernel's word.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct NetlinkError {
    /// For people: "create veth slc0123456789a".
    pub doing: String,
    /// The kernel's error, with its extended message where it gave one.
    #[source]
    pub source: KernelError,
}

/// The number and the extended message of an answer.
#[derive(Debug)]
pub struct KernelError {
    errno: i32,
    io: io::Error,
    words: Option<String>,
}

impl std::fmt::Display for KernelError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.words {
            Some(words) => write!(f, "{} (kernel: {words})", self.io),
            None => write!(f, "{}", self.io),
        }
    }
}

impl std::error::Error for KernelError {}

impl From<io::Error> for KernelError {
    fn from(io: io::Error) -> KernelError {
        KernelError { errno: io.raw_os_error().unwrap_or(0), io, words: None }
    }
}

impl NetlinkError {
    fn new(doing: &str, source: impl Into<KernelError>) -> NetlinkError {
        NetlinkError { doing: doing.to_owned(), source: source.into() }
    }

    /// The kernel's error number, 0 if it was not the kernel that failed.
    pub fn errno(&self) -> i32 {
        self.source.errno
    }

    /// Whether the object is not there (no such device, address, route, neighbour).
    pub fn is_absent(&self) -> bool {
        matches!(
            self.errno(),
            libc::ENODEV | libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENXIO
        )
    }

    /// Whether the object was there already.
    pub fn is_present(&self) -> bool {
        self.errno() == libc::EEXIST
    }
}

/// A rtnetlink socket.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// If the kernel gives none.
    pub fn open() -> Result<Netlink, NetlinkError> {
        let fail = |e: io::Error| NetlinkError::new("open a netlink socket", e);
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(fail)?;
        socket.bind_auto().map_err(fail)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(fail)?;
        // Both only make answers better; a kernel without them still works.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Netlink { socket, sequence: 0 })
    }

    /// Sends a request that changes something; `flags` beyond REQUEST and ACK.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn change(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        doing: &str,
    ) -> Result<(), NetlinkError> {
        self.exchange(message, flags | NLM_F_ACK, doing).map(|_| ())
    }

    /// Asks for one object.
    ///
    /// # Errors
    /// The kernel's refusal; ENODEV and the like where there is no such object.
    pub fn get(
        &mut self,
        message: RouteNetlinkMessage,
        doing: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.exchange(message, NLM_F_ACK, doing).map(|(answers, _)| answers)
    }

    /// Asks for all objects of a kind. A dump that the kernel marks as interrupted (something
    /// changed while it was read) is read again: nobody may delete on the word of such a dump.
    ///
    /// # Errors
    /// The kernel's refusal; EINTR if every attempt was interrupted.
    pub fn dump(
        &mut self,
        message: RouteNetlinkMessage,
        doing: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            let (answers, whole) = self.exchange(message.clone(), NLM_F_DUMP, doing)?;
            if whole {
                return Ok(answers);
            }
        }
        Err(NetlinkError::new(doing, io::Error::from_raw_os_error(libc::EINTR)))
    }

    fn exchange(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        doing: &str,
    ) -> Result<(Vec<RouteNetlinkMessage>, bool), NetlinkError> {
        let fail = |e: io::Error| NetlinkError::new(doing, e);
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(fail)?;

        let (mut answers, mut whole) = (Vec::new(), true);
        loop {
            let (datagram, _) = self.socket.recv_from_full().map_err(fail)?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let length = NetlinkBuffer::new_checked(rest)
                    .map_err(|e| fail(io::Error::new(io::ErrorKind::InvalidData, e)))?
                    .length() as usize;
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest);
                let end = length.next_multiple_of(4).clamp(4, rest.len());
                let raw = &rest[..length.min(rest.len())];
                rest = &rest[end..];
                // One object that we cannot read (a newer kernel's) must not hide the others.
                let Ok(answer) = answer else { continue };
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                whole &= answer.header.flags & NLM_F_DUMP_INTR == 0;
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok((answers, whole)),
                    NetlinkPayload::Error(e) => match e.code {
                        None => return Ok((answers, whole)),
                        Some(code) => {
                            let errno = code.get().abs();
                            return Err(NetlinkError {
                                doing: doing.to_owned(),
                                source: KernelError {
                                    errno,
                                    io: io::Error::from_raw_os_error(errno),
                                    words: extended(raw, &bytes),
                                },
                            });
                        }
                    },
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    _ => {}
                }
            }
        }
    }
}

/// The text that newer kernels add to a refusal (NLMSGERR_ATTR_MSG), which stands after the
/// request that the answer repeats.
fn extended(answer: &[u8], request: &[u8]) -> Option<String> {
    const HEADER: usize = 16;
    const ATTR_MSG: u16 = 1;
    let flags = u16::from_ne_bytes(answer.get(6..8)?.try_into().ok()?);
    let capped = flags & netlink_packet_core::NLM_F_CAPPED != 0;
    let repeated = if capped { HEADER } else { request.len().next_multiple_of(4) };
    let mut rest = answer.get(HEADER + 4 + repeated..)?;
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let kind = u16::from_ne_bytes([rest[2], rest[3]]) & 0x3fff;
        let value = rest.get(4..length)?;
        if kind == ATTR_MSG {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}
