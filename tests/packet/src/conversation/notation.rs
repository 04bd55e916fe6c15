//! Packets as text: parsed, built, matched against frames, and written.
//!
//! ```text
//! tcp A:PORT > B:PORT  [flags S|SA|A|PA|FA|R]
//! udp A:PORT > B:PORT  [checksum none]
//! sctp A:PORT > B:PORT [checksum none]
//! echo-request A > B id N        echo-reply A > B id N
//! port-unreachable A > B [about [PACKET]]
//! host-unreachable, frag-needed:MTU, time-exceeded: likewise; quote N: bytes after the quoted header
//! proto:N A > B
//! for all: len N (payload bytes), ttl N, tos N, ip-id N, df, options N (bytes), frag BYTES@OFFSET
//! ```

use std::collections::BTreeMap;
use std::fmt::Write;

use sluice_abi::proto;

use crate::topology::NAMES;
use crate::{L4Checksum, Packet};

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// ICMP echo request or reply.
    Echo {
        /// Whether it is a reply.
        reply: bool,
    },
    /// ICMP error with its type, code and the four bytes after the checksum.
    Error(u8, u8, u32),
    /// Another protocol.
    Other(u8),
}

/// A port or identifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Number {
    /// Written as a number.
    Known(u16),
    /// Captured under this name.
    Variable(String),
}

/// A packet as the notation describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Protocol or ICMP type.
    pub kind: Kind,
    /// Source and destination address.
    pub addresses: [[u8; 4]; 2],
    /// Source and destination port; the first one is the identifier of an echo.
    pub numbers: [Number; 2],
    /// TCP flags.
    pub flags: u8,
    /// Payload bytes.
    pub len: usize,
    /// Time to live.
    pub ttl: u8,
    /// Type of service.
    pub tos: u8,
    /// IP identification.
    pub ip_id: u16,
    /// Don't fragment.
    pub dont_fragment: bool,
    /// Bytes of IP options.
    pub options: usize,
    /// Offset and length of a fragment.
    pub fragment: Option<(u16, usize)>,
    /// Layer 4 checksum.
    pub checksum: L4Checksum,
    /// The packet that an ICMP error quotes.
    pub about: Option<Box<Spec>>,
    /// Bytes of that packet after its IP header.
    pub quote: usize,
}

/// Addresses by name.
#[derive(Clone, Debug)]
pub struct Names(BTreeMap<String, [u8; 4]>);

/// Captured ports and identifiers.
pub type Variables = BTreeMap<String, u16>;

/// Words of a line, one after the other.
pub struct Words<'a>(std::iter::Peekable<std::vec::IntoIter<&'a str>>);

impl Default for Names {
    fn default() -> Names {
        Names(NAMES.iter().map(|(name, address)| ((*name).to_owned(), *address)).collect())
    }
}

impl Names {
    /// Adds a name.
    pub fn insert(&mut self, name: &str, address: [u8; 4]) {
        self.0.insert(name.to_owned(), address);
    }

    /// The address with this name, or the address that the text is.
    pub fn address(&self, text: &str) -> Result<[u8; 4], String> {
        if let Some(address) = self.0.get(text) {
            return Ok(*address);
        }
        let address: Result<std::net::Ipv4Addr, _> = text.parse();
        address.map(|a| a.octets()).map_err(|_| format!("no address {text:?}"))
    }

    /// The name of an address, or its numbers.
    pub fn name(&self, address: [u8; 4]) -> String {
        let found = self.0.iter().find(|(_, a)| **a == address);
        found.map_or_else(|| std::net::Ipv4Addr::from(address).to_string(), |(n, _)| n.clone())
    }

    /// `ADDRESS:PORT`.
    pub fn endpoint(&self, text: &str) -> Result<([u8; 4], u16), String> {
        let (address, port) = text.split_once(':').ok_or_else(|| format!("no port in {text:?}"))?;
        Ok((self.address(address)?, number(port)?))
    }
}

impl<'a> Words<'a> {
    /// The words of a line; brackets must stand alone.
    pub fn new(line: &'a str) -> Words<'a> {
        Words(line.split_whitespace().collect::<Vec<_>>().into_iter().peekable())
    }

    /// The next word.
    pub fn next(&mut self) -> Result<&'a str, String> {
        self.0.next().ok_or_else(|| "the line is too short".to_owned())
    }

    /// The next word, if it is this one.
    pub fn take(&mut self, word: &str) -> bool {
        self.0.next_if_eq(&word).is_some()
    }

    /// Fails unless this word is next.
    pub fn expect(&mut self, word: &str) -> Result<(), String> {
        if self.take(word) {
            Ok(())
        } else {
            Err(format!("expected {word:?}, not {:?}", self.0.peek()))
        }
    }

    /// Whether there are no more words.
    pub fn is_empty(&mut self) -> bool {
        self.0.peek().is_none()
    }

    fn ends_packet(&mut self) -> bool {
        self.0.peek().is_none_or(|word| *word == "]")
    }
}

/// A number in decimal.
pub fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number in range"))
}

/// The number of a protocol.
pub fn protocol(text: &str) -> Result<u8, String> {
    match text {
        "tcp" => Ok(proto::TCP),
        "udp" => Ok(proto::UDP),
        "sctp" => Ok(proto::SCTP),
        "icmp" => Ok(proto::ICMP),
        other => number(other),
    }
}

fn variable_or_number(text: &str) -> Result<Number, String> {
    match text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
        Some(name) => Ok(Number::Variable(name.to_owned())),
        None => number(text).map(Number::Known),
    }
}

const FLAGS: [(char, u8); 5] = [('F', 1), ('S', 2), ('R', 4), ('P', 8), ('A', 16)];

impl Kind {
    fn parse(word: &str) -> Result<Kind, String> {
        Ok(match word {
            "tcp" => Kind::Tcp,
            "udp" => Kind::Udp,
            "sctp" => Kind::Sctp,
            "echo-request" => Kind::Echo { reply: false },
            "echo-reply" => Kind::Echo { reply: true },
            "host-unreachable" => Kind::Error(3, 1, 0),
            "port-unreachable" => Kind::Error(3, 3, 0),
            "time-exceeded" => Kind::Error(11, 0, 0),
            _ => match word.split_once(':') {
                Some(("frag-needed", mtu)) => Kind::Error(3, 4, number(mtu)?),
                Some(("proto", n)) => Kind::Other(number(n)?),
                _ => return Err(format!("no packet begins with {word:?}")),
            },
        })
    }

    fn text(self) -> String {
        match self {
            Kind::Tcp => "tcp".to_owned(),
            Kind::Udp => "udp".to_owned(),
            Kind::Sctp => "sctp".to_owned(),
            Kind::Echo { reply } => format!("echo-{}", if reply { "reply" } else { "request" }),
            Kind::Error(3, 1, 0) => "host-unreachable".to_owned(),
            Kind::Error(3, 3, 0) => "port-unreachable".to_owned(),
            Kind::Error(3, 4, mtu) => format!("frag-needed:{mtu}"),
            Kind::Error(11, 0, 0) => "time-exceeded".to_owned(),
            Kind::Error(kind, code, rest) => format!("icmp-error:{kind}/{code}/{rest}"),
            Kind::Other(n) => format!("proto:{n}"),
        }
    }

    fn has_ports(self) -> bool {
        matches!(self, Kind::Tcp | Kind::Udp | Kind::Sctp)
    }
}

impl Spec {
    /// A packet of this kind with everything at its default.
    pub fn new(kind: Kind) -> Spec {
        Spec {
            kind,
            addresses: [[0; 4]; 2],
            numbers: [Number::Known(0), Number::Known(0)],
            flags: 16,
            len: 0,
            ttl: 64,
            tos: 0,
            ip_id: 0x1234,
            dont_fragment: false,
            options: 0,
            fragment: None,
            checksum: L4Checksum::Computed,
            about: None,
            quote: 8,
        }
    }

    /// Parses a packet; what the words do not mention is as in `base`.
    pub fn parse(
        words: &mut Words<'_>,
        names: &Names,
        base: Option<&Spec>,
    ) -> Result<Spec, String> {
        let kind = Kind::parse(words.next()?)?;
        let mut spec = base.cloned().unwrap_or_else(|| Spec::new(kind));
        spec.kind = kind;
        for side in 0..2 {
            let text = words.next()?;
            let (address, port) = text.split_once(':').unwrap_or((text, ""));
            spec.addresses[side] = names.address(address)?;
            if kind.has_ports() {
                spec.numbers[side] = variable_or_number(port)?;
            }
            if side == 0 {
                words.expect(">")?;
            }
        }
        while !words.ends_packet() {
            spec.attribute(words, names)?;
        }
        Ok(spec)
    }

    fn attribute(&mut self, words: &mut Words<'_>, names: &Names) -> Result<(), String> {
        match words.next()? {
            "flags" => {
                let letters = words.next()?;
                self.flags = 0;
                for letter in letters.chars() {
                    let flag = FLAGS.iter().find(|(l, _)| *l == letter);
                    self.flags |= flag.ok_or_else(|| format!("no TCP flag {letter}"))?.1;
                }
            }
            "id" => self.numbers[0] = variable_or_number(words.next()?)?,
            "len" => self.len = number(words.next()?)?,
            "ttl" => self.ttl = number(words.next()?)?,
            "tos" => self.tos = number(words.next()?)?,
            "ip-id" => self.ip_id = number(words.next()?)?,
            "options" => self.options = number(words.next()?)?,
            "quote" => self.quote = number(words.next()?)?,
            "df" => self.dont_fragment = true,
            "checksum" => {
                words.expect("none")?;
                self.checksum = L4Checksum::Zero;
            }
            "frag" => {
                let (bytes, offset) =
                    words.next()?.split_once('@').ok_or("a fragment is BYTES@OFFSET")?;
                self.fragment = Some((number(offset)?, number(bytes)?));
            }
            "about" => {
                words.expect("[")?;
                let inner = Spec::parse(words, names, self.about.as_deref())?;
                words.expect("]")?;
                self.about = Some(Box::new(inner));
            }
            other => return Err(format!("no attribute {other:?}")),
        }
        Ok(())
    }

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
                Kind::Sctp => spec.len = body.len() - 12,
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

    /// The text that [`Spec::parse`] with the same `base` reads.
    pub fn text(&self, names: &Names, base: &Spec) -> String {
        let number = |n: &Number| match n {
            Number::Known(n) => n.to_string(),
            Number::Variable(name) => format!("{{{name}}}"),
        };
        let side = |n: usize| {
            let name = names.name(self.addresses[n]);
            if self.kind.has_ports() {
                format!("{name}:{}", number(&self.numbers[n]))
            } else {
                name
            }
        };
        let mut text = format!("{} {} > {}", self.kind.text(), side(0), side(1));
        if matches!(self.kind, Kind::Echo { .. }) {
            let _ = write!(text, " id {}", number(&self.numbers[0]));
        }
        let mut attribute = |differs: bool, words: String| {
            if differs {
                let _ = write!(text, " {words}");
            }
        };
        let letters: String =
            FLAGS.iter().filter(|(_, bit)| self.flags & bit != 0).map(|(l, _)| *l).collect();
        attribute(self.flags != base.flags, format!("flags {letters}"));
        attribute(self.len != base.len, format!("len {}", self.len));
        attribute(self.ttl != base.ttl, format!("ttl {}", self.ttl));
        attribute(self.tos != base.tos, format!("tos {}", self.tos));
        attribute(self.ip_id != base.ip_id, format!("ip-id {}", self.ip_id));
        attribute(self.dont_fragment != base.dont_fragment, "df".to_owned());
        attribute(self.options != base.options, format!("options {}", self.options));
        attribute(self.checksum != base.checksum, "checksum none".to_owned());
        attribute(self.quote != base.quote, format!("quote {}", self.quote));
        if let Some((offset, bytes)) = self.fragment {
            attribute(self.fragment != base.fragment, format!("frag {bytes}@{offset}"));
        }
        if let (Some(about), Some(base)) = (&self.about, &base.about) {
            attribute(about != base, format!("about [ {} ]", about.text(names, base)));
        }
        text
    }
}

/// The bytes after the quoted IP header, from the bytes of an ICMP error.
fn quoted_body(icmp: &[u8]) -> Option<&[u8]> {
    let header = usize::from(icmp.get(8)? & 15) * 4;
    icmp.get(8 + header..)
}
