//! Addresses in the forms that the API server accepts.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

/// Parses an address as Kubernetes does: IPv4 numbers may have leading zeros and are decimal (the
/// standard library rejects them), surrounding white space is ignored, v4-mapped IPv6 is IPv4.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if text.contains(':') {
        return text.parse::<IpAddr>().ok().map(|a| a.to_canonical());
    }
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        *octet = parse_number(parts.next()?)?;
    }
    parts.next().is_none().then_some(IpAddr::V4(Ipv4Addr::from(octets)))
}

/// Parses a CIDR as leniently as [`parse_ip`]; host bits are cleared.
pub fn parse_cidr(text: &str) -> Option<IpNet> {
    let (address, length) = text.trim().split_once('/')?;
    let mapped = address.contains(':') && address.contains('.');
    let length = parse_number(length)?;
    let address = parse_ip(address)?;
    let length = if mapped && address.is_ipv4() { length.checked_sub(96)? } else { length };
    IpNet::new(address, length).ok().map(|net| net.trunc())
}

/// Decimal digits only, any number of leading zeros, at most 255.
fn parse_number(text: &str) -> Option<u8> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits = text.trim_start_matches('0');
    if digits.is_empty() { Some(0) } else { digits.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_as_kubernetes_does() {
        for (text, expect) in [
            ("10.0.0.1", Some("10.0.0.1")),
            ("010.000.00.01", Some("10.0.0.1")),
            (" 10.0.0.1\n", Some("10.0.0.1")),
            ("::1", Some("::1")),
            ("2001:DB8:0:0::0001", Some("2001:db8::1")),
            ("::ffff:10.0.0.1", Some("10.0.0.1")),
            ("10.0.0.08", Some("10.0.0.8")),
            ("10.0.0", None),
            ("10.0.0.1.2", None),
            ("10.0.0.256", None),
            ("10.0.0.+1", None),
            ("None", None),
            ("", None),
        ] {
            assert_eq!(parse_ip(text), expect.map(|e| e.parse().expect("address")), "{text:?}");
        }
    }

    #[test]
    fn cidrs_are_parsed_as_kubernetes_does() {
        for (text, expect) in [
            ("10.244.1.0/24", Some("10.244.1.0/24")),
            ("010.244.001.7/024", Some("10.244.1.0/24")),
            ("2001:db8::5/64", Some("2001:db8::/64")),
            ("::ffff:10.1.2.3/120", Some("10.1.2.0/24")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("10.0.0.0/33", None),
            ("10.0.0.0", None),
            ("10.0.0.0/", None),
        ] {
            assert_eq!(parse_cidr(text), expect.map(|e| e.parse().expect("cidr")), "{text:?}");
        }
    }
}
