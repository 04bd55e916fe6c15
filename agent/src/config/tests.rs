//! Flags, their defaults and their errors.

use super::of_flags as config;
use super::*;

#[test]
fn node_name_alone_is_a_complete_configuration() {
    let c = config(&[]).unwrap();
    assert_eq!(c.node_name, "n1");
    assert_eq!(c.snat_ports, SourcePorts::default());
    assert!(c.masquerade);
    assert_eq!(c.watch_pods, WatchedPods::All);
    assert_eq!(c.xdp, XdpChoice::Auto);
    assert_eq!((c.uplink, c.mtu), (UplinkChoice::Auto, None));
    assert_eq!(c.devices, DeviceChoice::Routes);
    assert_eq!(c.health_bind.unwrap().to_string(), "0.0.0.0:10256");
    assert_eq!(c.metrics_bind.unwrap().to_string(), "127.0.0.1:10249");
    assert_eq!(c.cni_bin_dir.unwrap().to_str(), Some("/opt/cni/bin"));
    assert_eq!(c.cni_conf_dir.unwrap().to_str(), Some("/etc/cni/net.d"));
    assert!(matches!(c.source, Source::Api(ApiAccess { kubeconfig: None, server: None, .. })));
}

#[test]
fn empty_value_disables_a_part() {
    let c = config(&[
        "--metrics-bind=",
        "--health-bind=",
        "--cni-conf-dir=",
        "--cni-bin-dir=",
        "--masquerade=false",
    ])
    .unwrap();
    assert_eq!((c.metrics_bind, c.health_bind), (None, None));
    assert_eq!((c.cni_conf_dir, c.cni_bin_dir), (None, None));
    assert!(!c.masquerade);
}

#[test]
fn flags_reach_the_configuration() {
    let c = config(&[
        "--source=/m",
        "--watch-pods=node",
        "--uplink=eth1",
        "--devices=eth*,wg0",
        "--mtu=576",
        "--service-cidrs=10.96.0.0/16,fd00::/112",
        "--nodeport-addresses=192.168.0.0/16",
        "--nodeport-addresses=127.0.0.0/8",
        "--snat-ports=1024-32767",
        "--flows=50000",
        "--flows-per-pod=1000",
    ])
    .unwrap();
    assert_eq!(c.source.to_string(), "folder /m");
    assert_eq!(c.watch_pods, WatchedPods::Node);
    assert_eq!(c.uplink, UplinkChoice::Named("eth1".into()));
    assert_eq!(c.devices, DeviceChoice::Named(vec!["eth*".into(), "wg0".into()]));
    assert_eq!((c.mtu, c.service_cidrs.len()), (Some(576), 2));
    let ranges = ["192.168.0.0/16", "127.0.0.0/8"].map(|net| net.parse().unwrap());
    assert_eq!(c.node_ports, NodePortAddresses::Ranges(ranges.into()));
    assert_eq!(c.snat_ports, "1024-32767".parse().unwrap());
    assert_eq!((c.flows, c.flows_per_pod, c.flows_without_pod), (50_000, 1000, 25_000));
    let c = config(&["--nodeport-addresses=primary"]).unwrap();
    assert_eq!(c.node_ports, NodePortAddresses::Primary);
    let c = config(&["--kubeconfig=/k", "--mtu=65535"]).unwrap();
    assert_eq!(c.node_ports, NodePortAddresses::All);
    assert_eq!((c.flows, c.flows_per_pod), (map::FLOWS_MAX, map::FLOWS_MAX / 2));
    assert!(matches!(c.source, Source::Api(ApiAccess { kubeconfig: Some(_), .. })));
    assert_eq!((c.source.to_string().as_str(), c.mtu), ("API server", Some(65_535)));
    let c = config(&["--api-server=https://[fd00::1]:6443"]).unwrap();
    let Source::Api(access) = c.source else { panic!("{:?}", c.source) };
    assert_eq!(access.server.unwrap().host(), Some("[fd00::1]"));
}

#[test]
fn invalid_value_is_reported_with_its_flag() {
    for (flags, want) in [
        (&["--snat-ports=1023-2000"][..], "--snat-ports: 1023-2000 is not FIRST-LAST"),
        (&["--flows-per-pod=1"], "--flows-per-pod"),
        (&["--flows=1000"], "--flows"),
        (&["--snat-ports=all"], "--snat-ports: all is not FIRST-LAST"),
        (&["--devices=eth0,,eth1"], "--devices: \"\" is not the name of a device"),
        (&["--devices=a b"], "--devices: \"a b\" is not the name of a device"),
        (
            &["--nodeport-addresses=primary,10.0.0.0/8"],
            "--nodeport-addresses: primary is not a CIDR, nor primary alone",
        ),
        (&["--nodeport-addresses=eth0"], "--nodeport-addresses: eth0 is not a CIDR"),
        (&["--mtu=575"], "--mtu: 575 is not between"),
        (&["--mtu=65536"], "--mtu: 65536 is not between"),
        (&["--health-bind=nowhere"], "--health-bind: nowhere is not ADDRESS:PORT"),
        (&["--metrics-bind=:1"], "--metrics-bind: :1 is not ADDRESS:PORT"),
        (&["--node-name="], "--node-name: required"),
        (&["--source=/a", "--kubeconfig=/b"], "cannot be used with"),
        (&["--source=/a", "--api-server=https://b"], "cannot be used with"),
        (&["--api-server=192.0.2.1:6443"], "--api-server: 192.0.2.1:6443 is not a URL"),
        (&["--api-server=ftp://a"], "--api-server: ftp://a is not a URL"),
    ] {
        let e = config(flags).unwrap_err();
        assert!(e.contains(want), "{flags:?}: {e}");
    }
}
