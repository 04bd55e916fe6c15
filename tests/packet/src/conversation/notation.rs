//! Packets as text: parsed and written.
//!
//! ```text
//! tcp A:PORT > B:PORT  [flags S|SA|A|PA|FA|R]
//! udp A:PORT > B:PORT  [checksum none]
//! sctp A:PORT > B:PORT [checksum none] [init]
//!     init: the verification tag is 0
//! echo-request A > B id N        echo-reply A > B id N
//! port-unreachable A > B [about [PACKET]]
//! host-unreachable, frag-needed:MTU, time-exceeded, icmp-error:TYPE/CODE/REST: likewise
//!     quote N: bytes of the quote after its IP header
//! proto:N A > B
//! for all: len N (payload bytes), ttl N, tos N, ip-id N, df, options N (bytes), frag BYTES@OFFSET
//! ```

use std::collections::BTreeMap;
use std::fmt::Write;

use super::words::{Names, Words, number, variable_or_number};
use crate::L4Checksum;

/// Captured ports and identifiers.
pub type Variables = BTreeMap<String, u16>;

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
    /// Sequence and acknowledgment number of a reset that a program creates.
    pub reset: Option<(u32, u32)>,
    /// Whether an SCTP packet opens an association.
    pub init: bool,
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
                Some(("icmp-error", numbers)) => {
                    let numbers: Vec<&str> = numbers.split('/').collect();
                    let [kind, code, rest] = numbers[..] else {
                        return Err("an ICMP error is TYPE/CODE/REST".to_owned());
                    };
                    Kind::Error(number(kind)?, number(code)?, number(rest)?)
                }
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
            reset: None,
            init: false,
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
            "init" => self.init = true,
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
        attribute(self.init != base.init, "init".to_owned());
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Spec {
        Spec::parse(&mut Words::new(text), &Names::default(), None).unwrap()
    }

    #[test]
    fn a_packet_is_written_as_it_is_read() {
        for text in [
            "tcp client:40000 > vip:80 flags SA len 3 ttl 7 df",
            "udp client:{p} > 203.0.113.1:53 checksum none options 8 frag 1480@2960",
            "sctp client:1 > server:2 init tos 192",
            "echo-request client > external id {i} ip-id 9",
            "proto:47 client > external",
            "frag-needed:1300 router > node quote 20 about [ tcp node:{p} > external:443 ttl 63 ]",
            "icmp-error:12/1/7 router > node",
        ] {
            let spec = parse(text);
            let mut base = Spec::new(spec.kind);
            base.about = spec.about.as_ref().map(|about| Box::new(Spec::new(about.kind)));
            assert_eq!(parse(&spec.text(&Names::default(), &base)), spec, "{text}");
        }
    }

    #[test]
    fn what_a_line_does_not_mention_is_inherited() {
        let input = parse("tcp client:1 > vip:80 flags S len 9 ttl 7 options 8");
        let mut words = Words::new("tcp client:1 > server:8080 ttl 6");
        let output = Spec::parse(&mut words, &Names::default(), Some(&input)).unwrap();
        assert_eq!((output.flags, output.len, output.ttl, output.options), (2, 9, 6, 8));
    }
}
