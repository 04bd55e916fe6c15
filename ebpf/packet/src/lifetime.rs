//! When another flow may take over the ports of an idle one.
//!
//! Nothing removes flows on time: the conntrack map evicts the least used. These limits only count
//! when a new flow wants a port that an old one holds.

use sluice_abi::proto;

use crate::tcp_state;

const SECOND: u64 = 1_000_000_000;

/// Idle time in nanoseconds after which a flow with these states is given up. `urgent`: the search
/// for a free port has failed so far, so ports of closed connections are reused early.
#[inline(always)]
pub const fn limit_ns(protocol: u8, here: u8, there: u8, urgent: bool) -> u64 {
    match protocol {
        // TIME_WAIT of the peer: 60 s on Linux; a SYN with newer numbers is let in earlier.
        proto::TCP if tcp_state::closed(here, there) => {
            if urgent {
                2 * SECOND
            } else {
                60 * SECOND
            }
        }
        // Never answered.
        proto::TCP if here == 0 || there == 0 => 120 * SECOND,
        // Upstream's kube-proxy keeps established connections for a day.
        proto::TCP | proto::SCTP => 86_400 * SECOND,
        proto::UDP => 180 * SECOND,
        proto::ICMP => 30 * SECOND,
        _ => 600 * SECOND,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_abi::tcp_state::{FIN, OPEN, SYN};

    #[test]
    fn half_closed_lives_as_long_as_open() {
        assert_eq!(limit_ns(proto::TCP, FIN, OPEN, true), 86_400 * SECOND);
        assert_eq!(limit_ns(proto::TCP, FIN, FIN, false), 60 * SECOND);
        assert_eq!(limit_ns(proto::TCP, SYN, 0, false), 120 * SECOND);
    }
}
