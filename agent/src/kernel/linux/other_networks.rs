//! Traces of other network software on this node: rules of kube-proxy, a CNI configuration that
//! precedes Sluice's, a program on the health port.
//!
//! docs/migration.md describes the remedies. Rules are found by a netlink dump of nf_tables, which
//! also holds the rules of iptables-nft; those of iptables-legacy are not found.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};

use super::cni_files;

/// Message types of nf_tables (include/uapi/linux/netfilter/nf_tables.h): the subsystem in the high
/// byte, NFT_MSG_* in the low byte.
const GET_TABLE: u16 = 10 << 8 | 1;
const GET_CHAIN: u16 = 10 << 8 | 4;
/// Attributes NFTA_TABLE_NAME and NFTA_CHAIN_NAME.
const TABLE_NAME: u16 = 1;
const CHAIN_NAME: u16 = 3;

/// Table of kube-proxy in nftables mode.
const PROXY_TABLE: &str = "kube-proxy";
/// Chain of kube-proxy in iptables and IPVS mode. The kubelet's chains have other names.
const PROXY_CHAIN: &str = "KUBE-SERVICES";
/// Device of kube-proxy in IPVS mode.
const PROXY_DEVICE: &str = "/sys/class/net/kube-ipvs0";

/// Length of a netlink header, and of the header of nf_tables that follows it.
const HEADER: usize = 16;
const NF_HEADER: usize = 4;
/// NLMSG_ERROR and NLMSG_DONE.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Path of the health port at which kube-proxy responds with 404.
const READYZ: &[u8] = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
const TIMEOUT: Duration = Duration::from_secs(2);

/// Problems that the rules of the node and the CNI configurations in `conf_dir` show, each with its
/// remedy.
pub fn problems(conf_dir: Option<&Path>) -> Vec<String> {
    let mut problems = Vec::new();
    // Without nf_tables, or without the privilege, there is nothing to report.
    let proxy = proxy_rules().unwrap_or_default();
    if let Some(rule) = proxy {
        problems.push(format!(
            "kube-proxy has rules on this node ({rule}): remove kube-proxy, then reboot the node, or \
             run `kube-proxy --cleanup` in kube-proxy's image"
        ));
    }
    for file in conf_dir.map(cni_files::preceding_configs).unwrap_or_default() {
        problems.push(format!(
            "{file} precedes {} and is used instead of it: remove the other CNI plugin and its file",
            crate::paths::CNI_CONF_NAME
        ));
    }
    problems
}

/// The problem of a program other than Sluice that serves HTTP at `address`, as kube-proxy does at
/// its health port. Not for the agent, which would wait for itself.
pub fn other_health_server(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).ok()?;
    stream.set_read_timeout(Some(TIMEOUT)).ok()?;
    stream.write_all(READYZ).ok()?;
    let mut head = [0; 64];
    let length = stream.read(&mut head).ok()?;
    let head = String::from_utf8_lossy(head.get(..length)?);
    (head.split_whitespace().nth(1) == Some("404")).then(|| {
        format!(
            "another program serves port {} (kube-proxy does): remove kube-proxy",
            address.port()
        )
    })
}

/// The first rule of kube-proxy that is found.
fn proxy_rules() -> io::Result<Option<String>> {
    if Path::new(PROXY_DEVICE).exists() {
        return Ok(Some("device kube-ipvs0".to_owned()));
    }
    if find(GET_TABLE, TABLE_NAME, PROXY_TABLE)? {
        return Ok(Some(format!("nftables table {PROXY_TABLE}")));
    }
    Ok(find(GET_CHAIN, CHAIN_NAME, PROXY_CHAIN)?.then(|| format!("iptables chain {PROXY_CHAIN}")))
}

/// Whether a dump contains an object whose attribute `kind` is `name`.
fn find(request: u16, kind: u16, name: &str) -> io::Result<bool> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    socket.send(&message(request), 0)?;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        match contains(&datagram, kind, name) {
            Scan::Found => return Ok(true),
            Scan::Done => return Ok(false),
            Scan::Next => {}
        }
    }
}

/// A dump request for the objects of every family.
fn message(kind: u16) -> Vec<u8> {
    let length = (HEADER + NF_HEADER) as u32;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    // Sequence number, port, and the header of nf_tables: any family, version 0, resource 0.
    bytes.extend([0; 8 + NF_HEADER]);
    bytes
}

/// Result of one datagram of a dump.
#[derive(Debug, PartialEq, Eq)]
enum Scan {
    Found,
    /// The dump ended, or the kernel refused it.
    Done,
    Next,
}

fn contains(mut datagram: &[u8], kind: u16, name: &str) -> Scan {
    while let Some((message, rest)) = split(datagram, |head| read_u32(head, 0)) {
        match read_u16(message, 4) {
            Some(ERROR | DONE) | None => return Scan::Done,
            Some(_) => {}
        }
        let mut attributes = message.get(HEADER + NF_HEADER..).unwrap_or_default();
        while let Some((attribute, rest)) =
            split(attributes, |head| read_u16(head, 0).map(u32::from))
        {
            let value = attribute.get(4..).unwrap_or_default();
            if read_u16(attribute, 2) == Some(kind)
                && value.strip_suffix(&[0]) == Some(name.as_bytes())
            {
                return Scan::Found;
            }
            attributes = rest;
        }
        datagram = rest;
    }
    if datagram.is_empty() { Scan::Next } else { Scan::Done }
}

/// Splits off the first element, whose length includes its header and excludes padding to 4 bytes.
fn split(bytes: &[u8], length: impl Fn(&[u8]) -> Option<u32>) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(length(bytes)?).ok()?;
    if length < 4 {
        return None;
    }
    let element = bytes.get(..length)?;
    Some((element, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A message of a dump with one attribute.
    fn object(message_kind: u16, kind: u16, text: &str) -> Vec<u8> {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        let mut attribute = ((value.len() + 4) as u16).to_ne_bytes().to_vec();
        attribute.extend(kind.to_ne_bytes());
        attribute.extend(value);
        attribute.resize(attribute.len().next_multiple_of(4), 0);
        let mut bytes = message(message_kind);
        bytes.extend(attribute);
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes
    }

    #[test]
    fn object_is_found_by_name_and_attribute() {
        let mut datagram = object(10 << 8, 1, "filter");
        datagram.extend(object(10 << 8, 1, "kube-proxy"));
        assert_eq!(contains(&datagram, 1, "kube-proxy"), Scan::Found);
        assert_eq!(contains(&datagram, 3, "kube-proxy"), Scan::Next);
        assert_eq!(contains(&datagram, 1, "kube"), Scan::Next);
        datagram.extend(object(DONE, 1, "kube-proxy"));
        assert_eq!(contains(&datagram, 1, "kube"), Scan::Done);
    }

    #[test]
    fn truncated_datagram_ends_the_scan() {
        let datagram = object(10 << 8, 1, "kube-proxy");
        for length in 1..datagram.len() {
            assert_eq!(contains(&datagram[..length], 1, "kube-proxy"), Scan::Done, "{length}");
        }
        assert_eq!(contains(&[0; 16], 1, "x"), Scan::Done);
    }

    #[test]
    fn preceding_configuration_is_a_problem_with_its_remedy() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("05-other.conflist"), "").unwrap();
        let problems = problems(Some(dir.path()));
        let text = problems.iter().find(|p| p.contains("05-other.conflist")).unwrap();
        assert!(text.contains("remove the other CNI plugin"), "{text}");
    }

    #[test]
    fn server_without_readyz_is_another_program() {
        for (response, other) in [("404 Not Found", true), ("200 OK", false), ("503 No", false)] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 512];
                let _ = stream.read(&mut request).unwrap();
                stream.write_all(format!("HTTP/1.1 {response}\r\n\r\n").as_bytes()).unwrap();
            });
            assert_eq!(other_health_server(address).is_some(), other, "{response}");
            server.join().unwrap();
        }
    }
}
