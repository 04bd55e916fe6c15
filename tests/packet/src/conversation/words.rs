//! Words of a line: addresses by name, numbers, protocols.

use std::collections::BTreeMap;

use sluice_abi::proto;

use super::notation::Number;
use crate::topology::NAMES;

/// Addresses by name.
#[derive(Clone, Debug)]
pub struct Names(BTreeMap<String, [u8; 4]>);

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
    /// The words of a line; brackets are words of their own.
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

    /// Whether the words of a packet end here.
    pub fn ends_packet(&mut self) -> bool {
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

/// A number, or a variable in braces.
pub fn variable_or_number(text: &str) -> Result<Number, String> {
    match text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
        Some(name) => Ok(Number::Variable(name.to_owned())),
        None => number(text).map(Number::Known),
    }
}
