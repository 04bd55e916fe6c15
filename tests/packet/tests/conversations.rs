//! One test per conversation in `cases/`.

use std::collections::BTreeSet;
use std::path::Path;

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cases");

macro_rules! conversations {
    ($($name:ident,)+) => {
        const LISTED: &[&str] = &[$(stringify!($name),)+];

        $(
            #[test]
            fn $name() {
                let file = concat!(stringify!($name), ".conv");
                packet_tests::conversation::play(&Path::new(CASES).join(file));
            }
        )+
    };
}

conversations! {
    direct_after_service,
    evicted_forward_entry,
    evicted_masquerade_entries,
    evicted_reply_entry,
    contract_10_6_external_address_of_a_host,
    external_client_of_pod,
    contract_3_11_external_ip,
    fragments_interleaved,
    fragments_masquerade,
    contract_10_2_fragments_service,
    free_pod_address,
    frontend_of_another_service,
    contract_3_7_hairpin,
    hop_limit,
    host_port,
    icmp_error_about_replies,
    icmp_error_forged,
    icmp_error_masquerade,
    contract_10_1_icmp_error_service,
    icmp_error_unknown,
    longer_than_mtu,
    longer_than_mtu_of_node_address,
    masquerade_at_uplink,
    masquerade_echo,
    masquerade_off,
    masquerade_other_protocol,
    masquerade_other_protocol_unanswered,
    masquerade_tcp,
    masquerade_udp,
    multicast,
    node_port_and_direct,
    contract_3_9_node_port_cluster,
    node_port_fragments,
    node_port_from_pod,
    node_port_icmp_errors,
    node_port_local,
    node_port_of_node_backend,
    node_port_precedence,
    node_port_without_endpoint,
    not_ready,
    pod_to_loopback,
    pod_to_node,
    pod_to_pod,
    pod_to_remote_pod,
    replies_before_a_frontend_moves,
    reset_ends_flow,
    service_backend_id_reused,
    service_backend_removed,
    service_backend_removed_port_reused,
    service_backend_removed_sctp,
    service_closed_flow,
    contract_5_2_service_created_later,
    service_free_address,
    contract_3_10_service_from_external,
    service_from_node,
    service_from_node_to_node,
    service_ip_options,
    service_local_policy,
    contract_5_9_service_mid_stream,
    service_on_node,
    contract_10_3_service_port_clash,
    service_sctp,
    contract_3_8_service_tcp,
    service_udp,
    service_unknown_port,
    service_without_endpoint,
    shadow_direct_first,
    shadow_service_first,
    short_datagrams,
    snat_port_tcp_lifetime,
    snat_port_udp_lifetime,
    snat_port_unanswered_tcp_lifetime,
    source_ranges,
    spoofed_source,
    syn_ack_without_entry,
    table_incomplete,
    ttl_expires,
    unknown_reply,
    uplink_to_loopback,
    via_stack,
}

#[test]
fn every_conversation_is_listed() {
    let files = std::fs::read_dir(CASES).expect("the folder of the conversations");
    let found: BTreeSet<String> = files
        .map(|file| file.expect("a file of the folder").path())
        .map(|path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned())
        .collect();
    let listed: BTreeSet<String> = LISTED.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(found, listed);
}
