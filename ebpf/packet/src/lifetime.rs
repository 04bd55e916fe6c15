//! Idle limits after which a new flow may take the reply tuple of an old one.
//!
//! Entries do not expire by time: the conntrack map evicts the least recently used. These limits
//! apply only if a new flow needs a tuple that another flow holds.

use sluice_abi::proto;

use crate::tcp_state;

const SECOND: u64 = 1_000_000_000;

/// Idle time in nanoseconds after which the tuple of a flow with these TCP states may be reused.
/// `urgent`: several ports were in use, so those of closed connections are reused early.
#[inline(always)]
pub const fn limit_ns(protocol: u8, here: u8, there: u8, urgent: bool) -> u64 {
    match protocol {
        // TIME_WAIT of the peer: 60 s on Linux, which accepts a SYN with newer sequence numbers
        // earlier.
        proto::TCP if tcp_state::closed(here, there) => {
            if urgent {
                2 * SECOND
            } else {
                60 * SECOND
            }
        }
        // Never answered by the peer.
        proto::TCP if here == 0 || there == 0 => 120 * SECOND,
        // One day, as kube-proxy configures netfilter for established connections.
        proto::TCP | proto::SCTP => 86_400 * SECOND,
        proto::UDP => 180 * SECOND,
        proto::ICMP => 30 * SECOND,
        _ => 600 * SECOND,
    }
}

#[cfg(test)]
mod tests {
    use sluice_abi::tcp_state::{FIN, OPEN, RESET, SYN};

    use super::*;

    #[test]
    fn half_closed_connections_keep_the_limit_of_open_ones() {
        assert_eq!(limit_ns(proto::TCP, FIN, OPEN, true), 86_400 * SECOND);
        assert_eq!(limit_ns(proto::TCP, FIN, FIN, false), 60 * SECOND);
        assert_eq!(limit_ns(proto::TCP, SYN, 0, false), 120 * SECOND);
    }

    #[test]
    fn each_protocol_has_its_limit() {
        assert_eq!(limit_ns(proto::TCP, OPEN, OPEN, true), 86_400 * SECOND);
        assert_eq!(limit_ns(proto::TCP, RESET, OPEN, true), 2 * SECOND);
        assert_eq!(limit_ns(proto::SCTP, 0, 0, false), 86_400 * SECOND);
        assert_eq!(limit_ns(proto::UDP, 0, 0, false), 180 * SECOND);
        assert_eq!(limit_ns(proto::ICMP, 0, 0, false), 30 * SECOND);
        assert_eq!(limit_ns(47, 0, 0, false), 600 * SECOND);
    }
}
