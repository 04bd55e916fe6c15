//! Packets of the notation as frames: built, captured from, and described.

use sluice_abi::proto;

use super::notation::{Kind, Number, Spec, Variables};
use crate::Packet;

impl Spec {
    /// The packet.
    pub fn build(&self, variables: &Variables) -> Result<Packet, String> {
        let number = |n: &Number| match n {
            Number::Known(n) => Ok(*n),
            Number::Variable(name) => {
                variables.get(name).copied().ok_or_else(|| format!("{{{name}}} is not captured"))
            }
        };
        let [src, dst] = self.addresses;
        let (first, second) = (number(&self.numbers[0])?, number(&self.numbers[1])?);
        let payload: Vec<u8> = (0..self.len).map(|n| n as u8).collect();
        let mut packet = match self.kind {
            Kind::Tcp => Packet::tcp((src, first), (dst, second), self.flags, &payload),
            Kind::Udp => Packet::udp((src, first), (dst, second), &payload),
            Kind::Sctp => Packet::sctp((src, first), (dst, second), &payload),
            Kind::Echo { reply } => {
                Packet::echo(src, dst, if reply { 0 } else { 8 }, first, &payload)
            }
            Kind::Error(kind, code, rest) => {
                let about = self.about.as_ref().ok_or("an ICMP error needs `about [ PACKET ]`")?;
                let quoted = about.build(variables)?;
                Packet::icmp_error(src, dst, (kind, code, rest), &quoted, self.quote)
            }
            Kind::Other(proto) => Packet::new(src, dst, proto, payload),
        };
        if let Some((seq, ack)) = self.reset {
            packet.body[4..8].copy_from_slice(&seq.to_be_bytes());
            packet.body[8..12].copy_from_slice(&ack.to_be_bytes());
            packet.body[14..16].fill(0);
        }
        if self.init {
            packet.body[4..8].fill(0);
        }
        packet.ttl = self.ttl;
        packet.tos = self.tos;
        packet.id = self.ip_id;
        packet.dont_fragment = self.dont_fragment;
        packet.checksum = self.checksum;
        if self.options > 0 {
            packet.options = vec![1; self.options - 1];
            packet.options.push(0);
        }
        Ok(match self.fragment {
            Some((offset, bytes)) => packet.fragment(offset, bytes),
            None => packet,
        })
    }

    /// The numbers of a packet of this kind, from its bytes after the IP header.
    fn numbers_in(&self, body: &[u8]) -> Option<[u16; 2]> {
        if self.fragment.is_some_and(|(offset, _)| offset > 0) {
            return None;
        }
        let at =
            |offset: usize| Some(u16::from_be_bytes([*body.get(offset)?, *body.get(offset + 1)?]));
        match self.kind {
            Kind::Tcp | Kind::Udp | Kind::Sctp => Some([at(0)?, at(2)?]),
            Kind::Echo { .. } => Some([at(4)?, 0]),
            Kind::Error(..) | Kind::Other(_) => None,
        }
    }

    /// Captures variables that have no value yet from the packet that came out.
    pub fn capture(&self, body: &[u8], variables: &mut Variables) {
        if let Some(actual) = self.numbers_in(body) {
            for (number, actual) in self.numbers.iter().zip(actual) {
                if let Number::Variable(name) = number {
                    variables.entry(name.clone()).or_insert(actual);
                }
            }
        }
        if let (Kind::Error(..), Some(about)) = (self.kind, &self.about)
            && let Some(inner) = quoted_body(body)
        {
            about.capture(inner, variables);
        }
    }

    /// What a packet is in this notation. What a fragment or a quote does not show is as in `self`,
    /// the packet that was expected.
    pub fn describe(&self, packet: &Packet, variables: &Variables) -> Spec {
        let body = &packet.body;
        let reply = body.first() == Some(&0);
        let kind = match packet.proto {
            proto::TCP => Kind::Tcp,
            proto::UDP => Kind::Udp,
            proto::SCTP => Kind::Sctp,
            proto::ICMP if matches!(body.first(), Some(0 | 8)) => Kind::Echo { reply },
            proto::ICMP if packet.fragment_offset > 0 => self.kind,
            proto::ICMP if body.len() >= 8 => {
                let rest = u32::from_be_bytes([body[4], body[5], body[6], body[7]]);
                Kind::Error(body[0], body[1], rest)
            }
            other => Kind::Other(other),
        };
        let mut spec = Spec {
            kind,
            addresses: [packet.src, packet.dst],
            ttl: packet.ttl,
            tos: packet.tos,
            ip_id: packet.id,
            dont_fragment: packet.dont_fragment,
            options: packet.options.len(),
            checksum: packet.checksum,
            fragment: packet.is_fragment().then_some((packet.fragment_offset, packet.body.len())),
            ..self.clone()
        };
        if let Some(numbers) = spec.numbers_in(body) {
            for (n, actual) in numbers.into_iter().enumerate() {
                spec.numbers[n] = self.name_number(n, actual, variables);
            }
        }
        if spec.fragment.is_none() {
            match kind {
                Kind::Tcp => (spec.flags, spec.len) = (body[13], body.len() - 20),
                Kind::Udp | Kind::Echo { .. } => spec.len = body.len() - 8,
                Kind::Sctp => (spec.init, spec.len) = (body[4..8] == [0; 4], body.len() - 12),
                Kind::Other(_) => spec.len = body.len(),
                Kind::Error(..) => {}
            }
        }
        if let (Kind::Error(..), Some(about), Some(inner)) = (kind, &self.about, body.get(8..28)) {
            let quoted = quoted_body(body).unwrap_or_default();
            let mut about = about.clone();
            about.addresses = [
                [inner[12], inner[13], inner[14], inner[15]],
                [inner[16], inner[17], inner[18], inner[19]],
            ];
            about.ttl = inner[8];
            if let Some(numbers) = about.numbers_in(quoted) {
                for (n, actual) in numbers.into_iter().enumerate() {
                    about.numbers[n] = about.name_number(n, actual, variables);
                }
            }
            spec.about = Some(about);
            spec.quote = quoted.len();
        }
        spec
    }

    /// A variable where one was expected or has this value, else the number.
    fn name_number(&self, n: usize, actual: u16, variables: &Variables) -> Number {
        if let Number::Variable(name) = &self.numbers[n]
            && variables.get(name).is_none_or(|value| *value == actual)
        {
            return self.numbers[n].clone();
        }
        let captured = variables.iter().find(|(_, value)| **value == actual);
        captured.map_or(Number::Known(actual), |(name, _)| Number::Variable(name.clone()))
    }
}

/// The bytes after the quoted IP header, from the bytes of an ICMP error.
fn quoted_body(icmp: &[u8]) -> Option<&[u8]> {
    let header = usize::from(icmp.get(8)? & 15) * 4;
    icmp.get(8 + header..)
}
