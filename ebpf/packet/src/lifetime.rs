//! How long a flow lives without packets.
//!
//! One table for programs and agent: programs treat an expired entry as absent and reuse it, the
//! agent removes it. Where kube-proxy configures netfilter, the limits are the same; others follow
//! netfilter's defaults.

use sluice_abi::{Direction, FlowEntry, flow_flags, proto, ticks};

use crate::tcp_state;

const MINUTE: u32 = 60;
const HOUR: u32 = 60 * MINUTE;

/// Seconds that an unanswered flow lives, except for TCP.
pub const UNREPLIED: u32 = 30;
/// Seconds that an answered UDP flow lives that has lasted for more than two ticks.
pub const UDP_STREAM: u32 = 120;
/// Seconds that a TCP connection lives: one day, as kube-proxy configures netfilter.
pub const TCP_OPEN: u32 = 24 * HOUR;
/// Seconds that a TCP connection lives that one side has closed, as kube-proxy configures netfilter.
pub const TCP_HALF_CLOSED: u32 = HOUR;
/// Seconds that a closed TCP connection lives: TIME_WAIT on Linux.
pub const TCP_CLOSED: u32 = MINUTE;
/// Seconds that a TCP connection lives that one side has not answered.
pub const TCP_UNREPLIED: u32 = 2 * MINUTE;
/// Seconds that an SCTP association lives: several heartbeat intervals (RFC 9260 section 8.3).
pub const SCTP: u32 = 5 * MINUTE;
/// Seconds that an answered flow of another protocol lives.
pub const OTHER: u32 = 10 * MINUTE;
/// Ticks after which the source port of an answered UDP exchange or a closed TCP connection is used
/// again if others are taken.
const PORT_REUSE: u32 = ticks(3);
/// Ticks without packets after which a SYN or INIT of an established connection whose backend was removed starts
/// a new one. Clients repeat a SYN for longer than that.
pub const SYN_MOVES: u32 = ticks(3);
/// Ticks of replies from which a UDP flow is a stream.
pub const STREAM_AFTER: u16 = 2;

/// Ticks without packets after which a flow is expired.
#[inline(always)]
pub fn limit(entry: &FlowEntry) -> u32 {
    let replied = entry.is_replied();
    match entry.tuple.proto {
        proto::TCP => tcp(entry),
        proto::UDP if entry.flags & flow_flags::STREAM != 0 => ticks(UDP_STREAM),
        proto::UDP | proto::ICMP => ticks(UNREPLIED),
        proto::SCTP if replied => ticks(SCTP),
        _ if replied => ticks(OTHER),
        _ => ticks(UNREPLIED),
    }
}

#[inline(always)]
fn tcp(entry: &FlowEntry) -> u32 {
    let [client, server] = entry.tcp;
    if tcp_state::closed(client, server) {
        ticks(TCP_CLOSED)
    } else if client == 0 || server == 0 {
        ticks(TCP_UNREPLIED)
    } else if tcp_state::half_closed(client, server) {
        ticks(TCP_HALF_CLOSED)
    } else {
        ticks(TCP_OPEN)
    }
}

/// Ticks since the last packet. The time of another CPU can be one tick ahead of `now`.
#[inline(always)]
pub const fn idle(entry: &FlowEntry, now: u32) -> u32 {
    let ticks = now.wrapping_sub(entry.seen);
    if ticks > u32::MAX / 2 { 0 } else { ticks }
}

/// Whether a flow is expired at the tick `now`.
#[inline(always)]
pub fn is_expired(entry: &FlowEntry, now: u32) -> bool {
    idle(entry, now) > limit(entry)
}

/// How hard a search for a source port has been so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Scarcity {
    /// The first attempts.
    None = 0,
    /// Several ports were taken.
    Ports = 1,
    /// Many ports were taken.
    Severe = 2,
}

impl Scarcity {
    /// The scarcity with a number; [`Scarcity::None`] for numbers that this version does not define.
    #[inline(always)]
    pub const fn from_number(n: u32) -> Scarcity {
        match n {
            1 => Scarcity::Ports,
            2 => Scarcity::Severe,
            _ => Scarcity::None,
        }
    }
}

/// Whether a new flow may take the tuple of this one: it is expired. If ports are scarce, also an
/// answered UDP exchange or a closed TCP connection without packets for some seconds; if they are
/// severely scarce, also a UDP stream that is idle for longer than an unanswered flow lives. A client
/// that sends requests to one server from each of its ports in turn turns its flows into streams.
#[inline(always)]
pub fn is_reusable(entry: &FlowEntry, now: u32, scarcity: Scarcity) -> bool {
    let idle = idle(entry, now);
    let is_stream = entry.flags & flow_flags::STREAM != 0;
    let (ended, is_datagrams) = match entry.tuple.proto {
        proto::TCP => {
            let client = entry.tcp[Direction::Forward as usize];
            (tcp_state::closed(client, entry.tcp[Direction::Reply as usize]), false)
        }
        proto::UDP => (entry.is_replied() && !is_stream, true),
        _ => (false, false),
    };
    idle > limit(entry)
        || (scarcity >= Scarcity::Ports && ended && idle > PORT_REUSE)
        || (scarcity >= Scarcity::Severe && is_datagrams && idle > ticks(UNREPLIED))
}

/// Whether an answered flow that began at the low 16 bits of a tick is a stream at `now`.
#[inline(always)]
pub const fn is_stream(since: u16, now: u32) -> bool {
    (now as u16).wrapping_sub(since) > STREAM_AFTER
}

#[cfg(test)]
mod tests {
    use sluice_abi::FlowKey;
    use sluice_abi::tcp_state::{FIN, OPEN, RESET, SYN};

    use super::*;

    fn entry(proto: u8, tcp: [u8; 2], flags: u8) -> FlowEntry {
        let tuple = FlowKey { proto, ..FlowKey::default() };
        FlowEntry { tuple, tcp, flags, seen: 1000, ..FlowEntry::default() }
    }

    #[test]
    fn each_state_has_its_limit() {
        let (replied, stream) = (flow_flags::REPLIED, flow_flags::REPLIED | flow_flags::STREAM);
        for (proto, tcp, flags, seconds) in [
            (proto::TCP, [OPEN, OPEN], replied, TCP_OPEN),
            (proto::TCP, [SYN, 0], 0, TCP_UNREPLIED),
            (proto::TCP, [0, OPEN], 0, TCP_UNREPLIED),
            (proto::TCP, [FIN, OPEN], replied, TCP_HALF_CLOSED),
            (proto::TCP, [OPEN, FIN], replied, TCP_HALF_CLOSED),
            (proto::TCP, [FIN, FIN], replied, TCP_CLOSED),
            (proto::TCP, [OPEN, RESET], replied, TCP_CLOSED),
            (proto::UDP, [0, 0], 0, UNREPLIED),
            (proto::UDP, [0, 0], replied, UNREPLIED),
            (proto::UDP, [0, 0], stream, UDP_STREAM),
            (proto::ICMP, [0, 0], replied, UNREPLIED),
            (proto::SCTP, [0, 0], 0, UNREPLIED),
            (proto::SCTP, [0, 0], replied, SCTP),
            (47, [0, 0], 0, UNREPLIED),
            (47, [0, 0], replied, OTHER),
        ] {
            let entry = entry(proto, tcp, flags);
            assert_eq!(limit(&entry), ticks(seconds), "{proto} {tcp:?} {flags}");
            assert!(!is_expired(&entry, 1000 + ticks(seconds)));
            assert!(is_expired(&entry, 1001 + ticks(seconds)));
            assert!(is_reusable(&entry, 1001 + ticks(seconds), Scarcity::None));
            assert!(!is_expired(&entry, 999), "seen by another CPU in the next tick");
        }
    }

    #[test]
    fn only_ended_flows_are_reused_early_and_only_if_ports_are_scarce() {
        let (replied, stream) = (flow_flags::REPLIED, flow_flags::REPLIED | flow_flags::STREAM);
        for (proto, tcp, flags, early) in [
            (proto::TCP, [OPEN, OPEN], replied, false),
            (proto::TCP, [FIN, OPEN], replied, false),
            (proto::TCP, [FIN, FIN], replied, true),
            (proto::TCP, [RESET, 0], 0, true),
            (proto::UDP, [0, 0], 0, false),
            (proto::UDP, [0, 0], replied, true),
            (proto::UDP, [0, 0], stream, false),
            (proto::SCTP, [0, 0], replied, false),
        ] {
            let entry = entry(proto, tcp, flags);
            for scarcity in [Scarcity::Ports, Scarcity::Severe] {
                let reusable = |now| is_reusable(&entry, now, scarcity);
                assert_eq!(reusable(1001 + PORT_REUSE), early, "{proto} {tcp:?}");
                assert!(!reusable(1000 + PORT_REUSE));
            }
            assert!(!is_reusable(&entry, 1001 + PORT_REUSE, Scarcity::None));
        }
    }

    #[test]
    fn idle_streams_are_reused_only_if_ports_are_severely_scarce() {
        let stream = flow_flags::REPLIED | flow_flags::STREAM;
        let later = 1001 + ticks(UNREPLIED);
        let datagrams = entry(proto::UDP, [0, 0], stream);
        assert!(is_reusable(&datagrams, later, Scarcity::Severe));
        assert!(!is_reusable(&datagrams, later - 1, Scarcity::Severe));
        assert!(!is_reusable(&datagrams, later, Scarcity::Ports));
        for (proto, tcp) in [(proto::TCP, [OPEN, OPEN]), (proto::SCTP, [0, 0]), (47, [0, 0])] {
            assert!(!is_reusable(&entry(proto, tcp, stream), later, Scarcity::Severe), "{proto}");
        }
    }

    #[test]
    fn scarcity_survives_its_number() {
        for scarcity in [Scarcity::None, Scarcity::Ports, Scarcity::Severe] {
            assert_eq!(Scarcity::from_number(scarcity as u32), scarcity);
        }
        assert_eq!(Scarcity::from_number(3), Scarcity::None);
    }

    #[test]
    fn flow_is_a_stream_after_two_ticks_also_when_the_low_bits_start_again() {
        for (since, now, stream) in
            [(7, 7, false), (7, 9, false), (7, 10, true), (u16::MAX, 0x1_0001, false)]
        {
            assert_eq!(is_stream(since, now), stream, "{since} {now}");
        }
        assert!(is_stream(u16::MAX, 0x1_0002));
    }
}
