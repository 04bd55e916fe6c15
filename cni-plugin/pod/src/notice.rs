//! What a call of the CNI binary reports to the agent: one datagram, sent without waiting.
//!
//! The agent may be absent, or its socket full: the datagram is lost then, and the agent finds a change
//! of the leases by comparing. So nothing depends on a datagram, and its content is a hint.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Longest datagram in bytes. Container ids are much shorter.
pub const NOTICE_MAX: usize = 1024;

/// A verb of the CNI specification that is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum NoticeVerb {
    /// ADD.
    Add,
    /// DEL.
    Del,
    /// CHECK.
    Check,
    /// GC.
    Gc,
    /// STATUS.
    Status,
}

/// A call that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notice {
    /// The verb.
    pub verb: NoticeVerb,
    /// Code of its error; 0 for success.
    pub code: u32,
    /// Duration of the call, without the start of its process.
    pub microseconds: u64,
    /// Container id; absent for GC and STATUS.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub container_id: String,
    /// `K8S_POD_UID`, if the runtime passed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// Index of the lease that ADD made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// Generation of that lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
}

impl NoticeVerb {
    /// Its name in the specification.
    pub fn name(self) -> &'static str {
        match self {
            NoticeVerb::Add => "ADD",
            NoticeVerb::Del => "DEL",
            NoticeVerb::Check => "CHECK",
            NoticeVerb::Gc => "GC",
            NoticeVerb::Status => "STATUS",
        }
    }

    /// Whether the verb can change the leases.
    pub fn changes_leases(self) -> bool {
        matches!(self, NoticeVerb::Add | NoticeVerb::Del | NoticeVerb::Gc)
    }
}

impl Notice {
    /// Parses a datagram.
    ///
    /// # Errors
    /// It is not the JSON of a notice.
    pub fn parse(datagram: &[u8]) -> serde_json::Result<Notice> {
        serde_json::from_slice(datagram)
    }

    /// Sends the notice to the agent of this state folder.
    ///
    /// # Errors
    /// No agent runs, or its socket is full; the notice is too long.
    pub fn send(&self, state_dir: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec(self)?;
        if bytes.len() > NOTICE_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to(&bytes, notice_socket(state_dir)).map(|_| ())
    }
}

/// The agent's socket, beside the folder of the leases: `/run/sluice/cni.sock`.
pub fn notice_socket(state_dir: &Path) -> PathBuf {
    state_dir.with_extension("sock")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn notice() -> Notice {
        Notice {
            verb: NoticeVerb::Add,
            code: 0,
            microseconds: 1500,
            container_id: "c1".into(),
            pod_uid: Some("7c2e".into()),
            index: Some(7),
            generation: Some(9),
        }
    }

    #[test]
    fn a_notice_arrives_as_it_was_sent_and_never_waits() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("cni");
        notice().send(&state).unwrap_err();
        let socket = UnixDatagram::bind(dir.path().join("cni.sock")).unwrap();
        notice().send(&state).unwrap();
        let mut buffer = [0; NOTICE_MAX];
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(Notice::parse(&buffer[..length]).unwrap(), notice());
        // No program reads: the queue of the socket fills, and the call still returns.
        let full = (0..100_000).map(|_| notice().send(&state)).find_map(Result::err).unwrap();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let long = Notice { container_id: "c".repeat(NOTICE_MAX), ..notice() };
        assert_eq!(long.send(&state).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_later_version_may_add_fields() {
        let text = br#"{"verb":"DEL","code":0,"microseconds":1,"later":[1]}"#;
        assert_eq!(Notice::parse(text).unwrap().verb, NoticeVerb::Del);
        assert!(Notice::parse(b"{}").is_err() && Notice::parse(b"").is_err());
    }
}
