//! Services.

use std::net::IpAddr;

use sluice_core::model::{
    ExternalAccess, Kind, Object, Port, Protocol, Service, ServicePort, TrafficPolicy, parse_cidr,
    parse_ip,
};

use super::{ConvertError, api_types, hidden, is_routable, is_unicast, list_or_single, namespaced};

/// Default of the API for the timeout of session affinity.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;
/// Longest timeout of session affinity that the API accepts.
const MAX_AFFINITY_SECONDS: u32 = 86_400;

/// Converts a Service.
pub fn service(o: api_types::Service) -> Result<Object, ConvertError> {
    let name = namespaced(Kind::Service, &o.metadata)?;
    let hidden = hidden(&o.metadata);
    let external = external(&o.spec, &o.status);
    let spec = o.spec;
    let cluster_ips: Box<[IpAddr]> = list_or_single(spec.cluster_ips, spec.cluster_ip)
        .iter()
        .filter_map(|ip| parse_ip(ip))
        .collect();
    let ports = spec
        .ports
        .into_iter()
        .filter_map(|p| {
            Some(ServicePort {
                protocol: Protocol::from_api(p.protocol.as_deref())?,
                port: Port::new(p.port)?,
                node_port: p.node_port.and_then(Port::new),
                name: p.name.unwrap_or_default().into(),
            })
        })
        .collect();
    let session_affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        spec.session_affinity_config
            .and_then(|c| c.client_ip)
            .and_then(|c| c.timeout_seconds)
            .and_then(|s| u32::try_from(s).ok())
            .filter(|s| (1..=MAX_AFFINITY_SECONDS).contains(s))
            .unwrap_or(DEFAULT_AFFINITY_SECONDS)
    });
    Ok(Object::Service(Service {
        created: o.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second()),
        hidden,
        external_name: spec.kind.as_deref() == Some("ExternalName"),
        cluster_ips,
        ports,
        session_affinity,
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        internal_traffic_policy: TrafficPolicy::from_api(spec.internal_traffic_policy.as_deref()),
        external: external.map(Box::new),
        name,
    }))
}

/// Access from outside, if the Service has any. The addresses of a load balancer are those in the
/// status, whatever the type of the Service; `loadBalancerClass` is not read.
fn external(
    spec: &api_types::ServiceSpec,
    status: &api_types::ServiceStatus,
) -> Option<ExternalAccess> {
    let address = |text: &str| parse_ip(text).filter(is_routable);
    // The API checks those of the status for their syntax only.
    let of_status = |text: &str| parse_ip(text).filter(is_unicast);
    let ips: Box<[IpAddr]> = spec.external_ips.iter().filter_map(|ip| address(ip)).collect();
    let ingress = status.load_balancer.ingress.iter();
    let vips = ingress.filter(|i| matches!(i.ip_mode.as_deref(), None | Some("" | "VIP")));
    let load_balancer_ips = vips.filter_map(|i| of_status(i.ip.as_deref()?)).collect();
    let is_load_balancer = spec.kind.as_deref() == Some("LoadBalancer");
    let is_accessible =
        is_load_balancer || spec.kind.as_deref() == Some("NodePort") || !ips.is_empty();
    let traffic_policy = match spec.external_traffic_policy.as_deref() {
        policy if is_accessible => TrafficPolicy::from_api(policy),
        _ => TrafficPolicy::Cluster,
    };
    let needs_health_check = is_load_balancer && traffic_policy == TrafficPolicy::Local;
    let external = ExternalAccess {
        ips,
        load_balancer_ips,
        source_ranges: spec
            .load_balancer_source_ranges
            .iter()
            .filter_map(|c| parse_cidr(c))
            .collect(),
        traffic_policy,
        health_check_node_port: spec
            .health_check_node_port
            .filter(|_| needs_health_check)
            .and_then(Port::new),
    };
    (external != ExternalAccess::default()).then_some(external)
}
