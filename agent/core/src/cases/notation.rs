//! One line of text per change:
//!
//! ```text
//! node NAME [ip=ADDRESS,...] [external-ip=ADDRESS,...] [pods=CIDR,...] [zone=ZONE]
//! service NAMESPACE/NAME ADDRESS,... PORT... [created=SECONDS] [policy=Local] [affinity=SECONDS]
//!     [hidden] [external-name] [publish-not-ready] [external=ADDRESS,...] [lb=ADDRESS,...]
//!     [ranges=CIDR,...] [external-policy=Local]
//! slice NAMESPACE/NAME of=SERVICE ports=PORT,... [type=IPv6|FQDN] [hidden] ENDPOINT...
//! pod NAMESPACE/NAME [uid=N] [ip=ADDRESS,...] [terminating] [over] [failed] [host-network]
//! service-cidr NAME CIDR,...
//! delete node|service|slice|pod|service-cidr NAME
//! ```
//! PORT is `name/PROTOCOL:number`, in a Service optionally with `@nodeport`; in a slice, `-` in place
//! of the number leaves it out. ENDPOINT is `address[@node]` followed by any of `?unready`,
//! `?unserving`, `?terminating`, `?zone=ZONE`, `?node=NODE` and `?pod=UID`. The ClusterIP of a headless
//! Service is `None`.

use crate::model::*;

/// Parses one line. An error names the part that is not understood.
pub fn change(line: &str) -> Result<Change, String> {
    let mut words = line.split_whitespace();
    let kind = words.next().unwrap_or_default();
    let name = words.next().ok_or("a name is missing")?;
    let rest: Vec<&str> = words.collect();
    let object = match kind {
        "node" => Object::Node(node(name, &rest)?),
        "service" => Object::Service(service(name, &rest)?),
        "slice" => Object::EndpointSlice(slice(name, &rest)?),
        "pod" => Object::Pod(pod(name, &rest)?),
        "service-cidr" => {
            let list = rest.first().ok_or("ranges are missing")?;
            let cidrs = parsed(list, parse_cidr)?.into();
            Object::ServiceCidr(ServiceCidr { name: name.into(), cidrs })
        }
        "delete" => {
            let kind = match name {
                "node" => Kind::Node,
                "service" => Kind::Service,
                "slice" => Kind::EndpointSlice,
                "service-cidr" => Kind::ServiceCidr,
                "pod" => Kind::Pod,
                other => return Err(format!("unknown kind {other}")),
            };
            return Ok(Change::Delete(kind, object_name(rest.first().ok_or("a name is missing")?)));
        }
        other => return Err(format!("unknown kind {other}")),
    };
    Ok(Change::Apply(object))
}

fn node(name: &str, words: &[&str]) -> Result<Node, String> {
    let mut node = Node { name: name.into(), ..Node::default() };
    for word in words {
        match word.split_once('=') {
            Some(("ip", list)) => node.internal_ips = parsed(list, parse_ip)?,
            Some(("external-ip", list)) => node.external_ips = parsed(list, parse_ip)?,
            Some(("pods", list)) => node.pod_cidrs = parsed(list, parse_cidr)?,
            Some(("zone", zone)) => node.zone = Some(zone.into()),
            _ => return Err(format!("unknown field {word}")),
        }
    }
    Ok(node)
}

fn service(name: &str, words: &[&str]) -> Result<Service, String> {
    let (addresses, words) = words.split_first().ok_or("an address is missing")?;
    let mut service = Service {
        name: object_name(name),
        cluster_ips: addresses.split(',').filter_map(parse_ip).collect(),
        ..Service::default()
    };
    let mut ports = Vec::new();
    for word in words {
        match word.split_once('=') {
            Some(("created", n)) => service.created = number(n)?,
            Some(("affinity", n)) => service.session_affinity = Some(number(n)?),
            Some(("external-policy", word)) => {
                let external = service.external.get_or_insert_default();
                external.traffic_policy = TrafficPolicy::from_api(Some(word));
            }
            Some(("external", list)) => {
                service.external.get_or_insert_default().ips = parsed(list, parse_ip)?.into();
            }
            Some(("lb", list)) => {
                let addresses = parsed(list, parse_ip)?.into();
                service.external.get_or_insert_default().load_balancer_ips = addresses;
            }
            Some(("ranges", list)) => {
                let ranges = parsed(list, parse_cidr)?.into();
                service.external.get_or_insert_default().source_ranges = ranges;
            }
            Some(("policy", word)) => {
                service.internal_traffic_policy = TrafficPolicy::from_api(Some(word));
            }
            None if *word == "hidden" => service.hidden = true,
            None if *word == "publish-not-ready" => service.publish_not_ready = true,
            None if *word == "external-name" => service.external_name = true,
            _ => ports.push(service_port(word)?),
        }
    }
    service.ports = ports.into();
    Ok(service)
}

fn service_port(text: &str) -> Result<ServicePort, String> {
    let (text, node_port) = text.split_once('@').map_or((text, None), |(t, n)| (t, Some(n)));
    let node_port = node_port.map(|n| number::<i64>(n).map(Port::new)).transpose()?.flatten();
    match endpoint_port(text)? {
        EndpointPort { name, protocol, port: Some(port) } => {
            Ok(ServicePort { name, protocol, port, node_port })
        }
        _ => Err(format!("incomplete port {text}")),
    }
}

fn endpoint_port(text: &str) -> Result<EndpointPort, String> {
    let unknown = || format!("unknown port {text}");
    let (name, rest) = text.split_once('/').ok_or_else(unknown)?;
    let (protocol, port) = rest.split_once(':').ok_or_else(unknown)?;
    let number = |text: &str| {
        let port = number::<i64>(text).ok().and_then(Port::new);
        port.ok_or_else(unknown)
    };
    Ok(EndpointPort {
        name: name.into(),
        protocol: Protocol::from_api(Some(protocol)).ok_or_else(unknown)?,
        port: (port != "-").then(|| number(port)).transpose()?,
    })
}

fn slice(name: &str, words: &[&str]) -> Result<EndpointSlice, String> {
    let mut slice = EndpointSlice { name: object_name(name), ..EndpointSlice::default() };
    let (mut address_type, mut endpoints) = (None, Vec::new());
    for word in words {
        match word.split_once('=') {
            Some(("of", service)) => slice.service = Some(service.into()),
            Some(("ports", list)) => {
                slice.ports = list.split(',').map(endpoint_port).collect::<Result<_, _>>()?;
            }
            Some(("type", word)) => address_type = Some(AddressType::from_api(word)),
            None if *word == "hidden" => slice.hidden = true,
            _ => endpoints.push(endpoint(word)?),
        }
    }
    slice.endpoints = endpoints.into();
    slice.address_type = address_type.unwrap_or(match slice.endpoints.first() {
        Some(e) if e.address.is_ipv6() => AddressType::Ipv6,
        _ => AddressType::Ipv4,
    });
    Ok(slice)
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    let mut words = text.split('?');
    let at = words.next().unwrap_or_default();
    let (address, node) = at.split_once('@').map_or((at, None), |(a, node)| (a, Some(node)));
    let mut e = Endpoint {
        address: parse_ip(address).ok_or_else(|| format!("unknown address {address}"))?,
        ready: true,
        serving: true,
        terminating: false,
        node_name: node.map(Into::into),
        hints: None,
        target: None,
    };
    for word in words {
        match word.split_once('=') {
            Some(("zone", zone)) => e.hints.get_or_insert_default().zones.push(zone.into()),
            Some(("node", node)) => e.hints.get_or_insert_default().nodes.push(node.into()),
            Some(("pod", uid)) => e.target = Some(pod_uid(uid)?),
            None if word == "unready" => e.ready = false,
            None if word == "unserving" => e.serving = false,
            None if word == "terminating" => e.terminating = true,
            _ => return Err(format!("unknown condition {word}")),
        }
    }
    Ok(e)
}

/// `pod NAMESPACE/NAME [uid=N] [ip=ADDRESS,...] [terminating] [over] [failed] [host-network]`
fn pod(name: &str, words: &[&str]) -> Result<Pod, String> {
    let mut pod = Pod { name: object_name(name), ..Pod::default() };
    for word in words {
        match word.split_once('=') {
            Some(("uid", uid)) => pod.uid = Some(pod_uid(uid)?),
            Some(("ip", list)) => pod.ips = parsed(list, parse_ip)?.into_iter().collect(),
            None if *word == "terminating" => pod.terminating = true,
            None if *word == "over" => pod.phase = PodPhase::Succeeded,
            None if *word == "failed" => pod.phase = PodPhase::Failed,
            None if *word == "host-network" => pod.host_network = true,
            _ => return Err(format!("unknown field {word}")),
        }
    }
    Ok(pod)
}

/// The UID with this number.
fn pod_uid(text: &str) -> Result<Uid, String> {
    let text = format!("{:032x}", number::<u32>(text)?);
    Uid::from_api(&text).ok_or_else(|| format!("unknown UID {text}"))
}

fn object_name(text: &str) -> ObjectName {
    match text.split_once('/') {
        Some((namespace, name)) => ObjectName::new(namespace, name),
        None => ObjectName::cluster(text),
    }
}

/// Parses a list that is separated by commas.
fn parsed<T>(list: &str, parse: fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
    let parse = |word| parse(word).ok_or_else(|| format!("unknown value {word}"));
    list.split(',').map(parse).collect()
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is not a number"))
}
