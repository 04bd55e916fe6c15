//! Open flows: their packets in both directions.

use std::net::IpAddr;

use packet_tests::{Action, Datapath, NODE, Packet, tuple};
use sluice_abi::{DropReason, FlowKey, proto};

use super::super::world::{From, Probe, World, first_packet, reason_of, send};
use super::super::{ACK, SYN_ACK};

/// A flow whose first packets have passed.
#[derive(Clone, Debug)]
pub struct OpenFlow {
    /// The flow.
    pub probe: Probe,
    forward: Packet,
    reply: Packet,
    /// The key of its entry; ICMP has no ports.
    key: Option<FlowKey>,
    /// The hook of the replies.
    reply_hook: From,
}

impl OpenFlow {
    /// Sends the first packets of a flow: a request, a reply and, for TCP, the third segment. Returns the flow, if
    /// it reaches its other end, and the reason for which the first packet is dropped.
    pub fn start(
        datapath: &Datapath,
        world: &World,
        probe: Probe,
        sport: u16,
    ) -> (Option<OpenFlow>, Option<DropReason>) {
        let first = first_packet(probe.flow, sport);
        let run = send(datapath, probe.hook, &first);
        let reason = reason_of(&run);
        if run.action == Action::Drop {
            return (None, reason);
        }
        let delivered = run.packet();
        let server = IpAddr::from(delivered.dst);
        let reply_hook = match world.leases.iter().any(|lease| lease.address == server) {
            true => From::Pod,
            false if delivered.dst == NODE => From::Node,
            false => From::Netdev,
        };
        let forward = match first.proto {
            proto::TCP => Packet::tcp((first.src, sport), (first.dst, first.dport()), ACK, b"x"),
            _ => first,
        };
        let key = (delivered.proto != proto::ICMP).then(|| {
            let (from, to) = (delivered.src, delivered.dst);
            let ends = ((from, delivered.sport()), (to, delivered.dport()));
            tuple(delivered.proto, ends.0, ends.1).sorted()
        });
        let mut open =
            OpenFlow { probe, forward, reply: answer(&delivered, SYN_ACK), key, reply_hook };
        let answered = open.send(datapath, true);
        open.reply = answer(&delivered, ACK);
        // Between two writes, the rest may be dropped: it is a flow nevertheless.
        if answered.is_none() {
            open.send(datapath, false);
        }
        (Some(open), None)
    }

    /// The epoch at which it was judged, if its entry is known.
    pub fn judged(&self, datapath: &Datapath) -> Option<u32> {
        Some(datapath.entry(&self.key?)?.judged)
    }

    /// Sends a packet of the flow. Returns the reason for which it is dropped.
    pub fn send(&self, datapath: &Datapath, is_reply: bool) -> Option<DropReason> {
        let (hook, packet) = match is_reply {
            true => (self.reply_hook, &self.reply),
            false => (self.probe.hook, &self.forward),
        };
        let run = send(datapath, hook, packet);
        let reason = reason_of(&run);
        assert!(reason.is_some() || run.action != Action::Drop, "{:?}: {packet:?}", run.counters);
        reason
    }
}

/// The reply to a packet as it was delivered.
fn answer(to: &Packet, flags: u8) -> Packet {
    if to.proto == proto::ICMP {
        let id = u16::from_be_bytes([to.body[4], to.body[5]]);
        return Packet::echo(to.dst, to.src, 0, id, b"x");
    }
    let ends = ((to.dst, to.dport()), (to.src, to.sport()));
    match to.proto {
        proto::TCP => Packet::tcp(ends.0, ends.1, flags, b""),
        proto::UDP => Packet::udp(ends.0, ends.1, b"x"),
        _ => Packet::sctp(ends.0, ends.1, &[2, 0, 0, 4]),
    }
}
