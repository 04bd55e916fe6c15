//! Packets between two writes of a change, and after it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use packet_tests::random::Random;
use sluice_core::generate;
use sluice_core::oracle::NewFlow;

use super::super::world::{Denied, From, Probe, World};
use super::failure::Failure;
use super::flow::OpenFlow;
use super::{Node, OPEN, Tally};

/// Whether one end denies a flow before, and the other one after a change.
fn crosses(before: Denied, after: Denied) -> bool {
    let [before, after] = [before, after].map(|d| (d.egress.is_some(), d.ingress.is_some()));
    matches!((before, after), ((true, false), (false, true)) | ((false, true), (true, false)))
}

impl Node<'_> {
    /// The indices of the pods of the node at the ends of a flow.
    fn ends(&self, probe: Probe) -> impl Iterator<Item = u32> {
        let ends = [probe.flow.source, probe.flow.destination];
        let pods = self.world.leases.iter().filter(move |lease| ends.contains(&lease.address));
        pods.map(|lease| u32::from(lease.index))
    }

    /// The flows between pods of the node that [`crosses`].
    pub fn crossing(&self, before: &World) -> Vec<Probe> {
        let mut probes = Vec::new();
        let addresses = || self.world.leases.iter().map(|l| l.address).filter(IpAddr::is_ipv4);
        for source in addresses() {
            for destination in addresses().filter(|address| *address != source) {
                let of_any_protocol = generate::policy_probes().into_iter();
                for (protocol, port) in of_any_protocol.filter(|of| of.0 != generate::GRE) {
                    let flow = NewFlow { source, destination, protocol, port, own_node: false };
                    if crosses(before.denied(flow), self.world.denied(flow)) {
                        probes.push(Probe { hook: From::Pod, flow });
                    }
                }
            }
        }
        probes
    }

    /// Whether a pod of the node is closed to other pods for one of the crossing flows.
    fn is_closed(&self, server: IpAddr, crossing: &[Probe]) -> bool {
        let lease = self.world.leases.iter().find(|lease| lease.address == server);
        lease.is_some_and(|lease| self.maps.closes_ingress(lease.index.into()))
            && crossing.iter().any(|probe| probe.flow.destination == server)
    }

    fn next_port(&mut self) -> u16 {
        self.sport = if self.sport == 60_000 { 1024 } else { self.sport + 1 };
        self.sport
    }

    /// A flow to try: a random one, or that of a failure which is sought again.
    fn probe(&self, random: &mut Random) -> Option<Probe> {
        match self.only {
            Some(probe) => Some(probe).filter(|probe| self.world.has_probe(*probe)),
            None => self.world.probe(random),
        }
    }

    /// Sends packets of a new flow and of the open ones between two writes of one change.
    pub fn between(
        &mut self,
        (before, is_one): (&World, bool),
        (rewritten, crossing): (&BTreeSet<u32>, &[Probe]),
        random: &mut Random,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        let sport = self.next_port();
        let (mut judged, mut new) = (Vec::new(), None);
        // Most are of a pod whose row changes.
        let probes: Vec<Probe> = (0..8).filter_map(|_| self.probe(random)).collect();
        let concerns = |probe: &Probe| self.ends(*probe).any(|index| rewritten.contains(&index));
        let draws_crossing = self.only.is_none() && !crossing.is_empty();
        let of_both = draws_crossing.then(|| random.pick(crossing));
        let probe = probes.iter().find(|probe| concerns(probe)).or(probes.first());
        let probe = of_both.or(probe);
        if let Some(&probe) = probe {
            let (open, reason) = OpenFlow::start(self.maps.datapath, &self.world, probe, sport);
            judged.push((probe, reason));
            new = open;
        }
        if !self.flows.is_empty() {
            let some: Vec<&OpenFlow> = (0..4).map(|_| random.pick(&self.flows)).collect();
            let open = some.iter().find(|open| concerns(&open.probe)).unwrap_or(&some[0]);
            let first = random.below(2) == 0;
            judged.extend(
                [first, !first].map(|reply| (open.probe, open.send(self.maps.datapath, reply))),
            );
        }
        self.flows.extend(new.filter(|_| self.flows.len() < 2 * OPEN));
        for (probe, reason) in judged {
            let (then, now) = (before.denied(probe.flow), self.world.denied(probe.flow));
            let was = then.reason().is_none();
            if was != now.reason().is_none() {
                continue;
            }
            // During a change of several objects a flow may be dropped, and one to a server that is closed because
            // another flow would pass.
            if was && (!is_one || self.is_closed(probe.flow.destination, crossing)) {
                tally.closed += usize::from(is_one && reason.is_some());
                continue;
            }
            tally.crossing += usize::from(crosses(then, now));
            tally.judged += 1;
            *tally.between.entry((was, was)).or_default() += 1;
            let expected = if was { "to pass" } else { "to be dropped" };
            if reason.is_none() != was {
                let text = format!("between two writes: {reason:?}, expected {expected}");
                return Err(Failure::of_flow(probe, text));
            }
        }
        Ok(())
    }

    /// Both directions of all open flows.
    pub fn check_flows(
        &mut self,
        before: &World,
        rewritten: &BTreeSet<u32>,
        random: &mut Random,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        self.cut = false;
        for open in &self.flows {
            let expected = self.world.denied(open.probe.flow).reason();
            let was = before.denied(open.probe.flow).reason();
            let first = random.below(2) == 0;
            for is_reply in [first, !first] {
                let reason = open.send(self.maps.datapath, is_reply);
                if reason != expected {
                    let packet = if is_reply { "reply" } else { "packet" };
                    let text =
                        format!("{packet} of an open flow: {reason:?}, expected {expected:?}");
                    return Err(Failure::of_flow(open.probe, text));
                }
            }
            tally.judged += 1;
            *tally.open.entry((was.is_none(), expected.is_none())).or_default() += 1;
            let is_again = self.ends(open.probe).any(|index| rewritten.contains(&index));
            tally.again += usize::from(is_again && was.is_none() && expected.is_none());
            if let Some(judged) = open.judged(self.maps.datapath).filter(|_| expected.is_none()) {
                for index in self.ends(open.probe) {
                    if !self.maps.is_current(index, judged) {
                        let text = "judged again with each packet".to_owned();
                        return Err(Failure::of_flow(open.probe, text));
                    }
                }
            }
            self.cut |= was.is_none() && expected.is_some();
        }
        Ok(())
    }

    /// A new flow, which stays open if it is allowed.
    pub fn new_flow(&mut self, random: &mut Random, tally: &mut Tally) -> Result<(), Failure> {
        let Some(probe) = self.probe(random) else { return Ok(()) };
        let sport = self.next_port();
        let (open, reason) = OpenFlow::start(self.maps.datapath, &self.world, probe, sport);
        let expected = self.world.denied(probe.flow).reason();
        if reason != expected {
            let text = format!("new flow: {reason:?}, expected {expected:?}");
            return Err(Failure::of_flow(probe, text));
        }
        tally.judged += 1;
        if let Some(open) = open {
            while self.flows.len() >= OPEN {
                let at = random.below(self.flows.len());
                self.flows.swap_remove(at);
            }
            self.flows.push(open);
        }
        Ok(())
    }
}
