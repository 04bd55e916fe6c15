//! deploy/uninstall.sh, then kube-proxy and another CNI plugin on the same nodes, then Sluice again.
//! `cargo xtask test` runs this file last: it replaces the network of the cluster.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation ends the test")]

use std::process::Command;
use std::time::Duration;

use cluster_tests::{
    Namespace, Node, client_on, docker, eventually, host_server_on, kubectl, nodes, process,
    server_on, service, skip, sluice, try_kubectl, workers,
};
use sluice_bpf::prog_by_id;

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy");
const OTHER_CONF: &str = "/etc/cni/net.d/05-ptp.conflist";

fn shell(node: &Node, script: &str) -> Result<String, String> {
    docker(&["exec", &node.name, "sh", "-ec", script])
}

/// Everything of Sluice that a node shows: files, pins, devices, routes.
fn traces(node: &Node) -> String {
    let script = "ls -d /sys/fs/bpf/sluice /etc/cni/net.d/*sluice* /opt/cni/bin/sluice* \
                  /var/lib/sluice /run/sluice 2>/dev/null || true; \
                  ip -o link show | grep -o ' slc[0-9a-f]*' || true; \
                  ip route show table all proto 83";
    shell(node, script).unwrap()
}

/// Kernel ids of the programs of a node: its agent holds all of them open.
fn programs(node: &Node) -> Vec<u32> {
    let script = "cat /proc/$(pgrep -o -x sluice)/fdinfo/* | grep prog_id | grep -o '[0-9]*'";
    shell(node, script).unwrap().lines().map(|id| id.parse().unwrap()).collect()
}

/// Whether the nodes have the kernel of this process, which then may look for programs.
fn shares_kernel(node: &Node, program: u32) -> bool {
    let boot_id = "/proc/sys/kernel/random/boot_id";
    let own = std::fs::read_to_string(boot_id).unwrap_or_default();
    shell(node, &format!("cat {boot_id}")).unwrap() == own.trim() && prog_by_id(program).is_ok()
}

/// Port of the server on the host network.
const HOST_PORT: u16 = 8085;

/// A request from the node itself, which the socket programs translate.
fn request(node: &Node, address: &str) -> Result<String, String> {
    shell(node, &format!("curl -sf -m 3 http://{address}/hostname"))
}

fn uninstall() {
    let script = format!("{DEPLOY}/uninstall.sh");
    let finished = process::run(&mut Command::new(script), "", Duration::from_secs(400)).unwrap();
    assert_eq!(finished.code, Some(0), "{} {}", finished.stdout, finished.stderr);
}

/// The ptp plugin, which every node image has, with routes between the nodes.
fn install_other_cni() {
    let nodes = nodes();
    for node in &nodes {
        let subnet = node.pod_cidr.unwrap();
        for other in nodes.iter().filter(|other| other.name != node.name) {
            let range = other.pod_cidr.unwrap();
            shell(node, &format!("ip route replace {range} via {}", other.address)).unwrap();
        }
        let conf = format!(
            r#"{{"cniVersion": "0.4.0", "name": "ptp", "plugins": [{{"type": "ptp", "ipam":
               {{"type": "host-local", "ranges": [[{{"subnet": "{subnet}"}}]],
               "routes": [{{"dst": "0.0.0.0/0"}}]}}}}]}}"#
        );
        let file = format!("{OTHER_CONF}.new");
        shell(node, &format!("printf %s '{conf}' > {file} && mv {file} {OTHER_CONF}")).unwrap();
    }
}

fn remove_other_cni() {
    for node in nodes() {
        let script = format!(
            "rm -f {OTHER_CONF}; for r in $(ip route show | grep ' via ' | grep -v default | cut -d' ' -f1); \
             do ip route del $r; done; \
             for d in $(ip -o link show type veth | grep -o ' veth[0-9a-f]*' ); do ip link del $d; done"
        );
        shell(&node, &script).unwrap();
    }
}

/// kube-proxy as kubeadm installs it.
fn install_kube_proxy() {
    let control_plane = nodes().into_iter().find(|node| node.control_plane).unwrap();
    let config = format!(
        "apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: $(cat /kind/version)
controlPlaneEndpoint: {}:6443
networking: {{podSubnet: 10.244.0.0/16, serviceSubnet: 10.96.0.0/16}}
---
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
oomScoreAdj: 0
conntrack: {{maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
",
        control_plane.name
    );
    let script = format!(
        "cat > /tmp/proxy.yaml <<END\n{config}END\n\
         kubeadm init phase addon kube-proxy --kubeconfig /etc/kubernetes/admin.conf --config /tmp/proxy.yaml"
    );
    shell(&control_plane, &script).unwrap();
    let rollout =
        ["-n", "kube-system", "rollout", "status", "daemonset/kube-proxy", "--timeout=120s"];
    kubectl(&rollout);
}

fn remove_kube_proxy() {
    let objects = ["daemonset/kube-proxy", "configmap/kube-proxy"];
    kubectl(
        &[&["-n", "kube-system", "delete", "--ignore-not-found", "--wait=true"], &objects[..]]
            .concat(),
    );
    for node in nodes() {
        shell(&node, "nft delete table ip kube-proxy; nft delete table ip6 kube-proxy || true")
            .unwrap();
    }
}

fn install() {
    kubectl(&["apply", "-k", DEPLOY]);
    let rollout =
        ["-n", "sluice-system", "rollout", "status", "daemonset/sluice", "--timeout=140s"];
    kubectl(&rollout);
}

fn nodes_ready(wanted: bool) {
    eventually(&format!("nodes with Ready {wanted}"), Duration::from_secs(120), || {
        let nodes = nodes();
        if nodes.iter().all(|node| node.ready == wanted) {
            Ok(())
        } else {
            Err(format!("{nodes:?}"))
        }
    });
}

/// Pods of the system that were created under another network have no connectivity.
fn recreate_dns() {
    kubectl(&["-n", "kube-system", "rollout", "restart", "deployment/coredns"]);
}

/// A Service with one endpoint on another node is reached from a pod.
fn network_works(subject: &str) {
    let ns = Namespace::new(subject);
    let workers = workers();
    ns.apply(&client_on("client", &workers[0].name, false));
    ns.apply(&server_on("server", "server", &workers[1].name));
    ns.apply(&service("web", "server", &[("web", "TCP", 80, "8080")]));
    ns.ready("client", 1);
    ns.ready("server", 1);
    let address = ns.cluster_ip("web");
    let answer = ns.sh_eventually("client", &format!("curl -sf -m 3 http://{address}/hostname"));
    assert_eq!(answer, "server");
}

/// `doctor` and `status` fail and name kube-proxy and the other CNI configuration.
fn problems_are_reported(node: &Node) {
    for (command, words) in [
        ("doctor", &["kube-proxy has rules", "port 10256", "05-ptp.conflist precedes"][..]),
        ("status", &["OtherNetworks", "kube-proxy --cleanup", "05-ptp.conflist precedes"]),
    ] {
        eventually(command, Duration::from_secs(120), || {
            let text = sluice(node, &[command]).err().ok_or("success")?;
            let missing = words.iter().find(|word| !text.contains(**word));
            missing.map_or(Ok(()), |word| Err(format!("no {word:?} in {text}")))
        });
    }
}

/// Restores the cluster for the next run, also when the test fails.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        let _ = try_kubectl(&["apply", "-k", DEPLOY], "");
    }
}

#[test]
fn uninstall_leaves_nothing_and_another_network_works_without_a_reboot() {
    let _restore = Restore;
    let ns = Namespace::new("uninstall");
    let node = workers().into_iter().next().unwrap();
    ns.apply(&server_on("server", "server", &node.name));
    ns.apply(&service("web", "server", &[("web", "TCP", 80, "8080")]));
    ns.ready("server", 1);
    // It needs no network of Sluice's, so that a request to it fails only by what Sluice does.
    ns.apply(&host_server_on("control", "control", &node.name, HOST_PORT));
    ns.apply(&service("control", "control", &[("web", "TCP", 80, &HOST_PORT.to_string())]));
    ns.ready("control", 1);
    let own = format!("{}:{HOST_PORT}", node.address);
    let addresses = [ns.cluster_ip("web"), ns.cluster_ip("control")];
    for address in addresses.iter().chain([&own]) {
        eventually(address, Duration::from_secs(30), || request(&node, address));
    }
    assert!(traces(&node).contains("/sys/fs/bpf/sluice"));
    let programs: Vec<u32> = nodes().iter().flat_map(programs).collect();
    assert!(programs.len() >= 10 * nodes().len(), "{programs:?}");
    let shares_kernel = shares_kernel(&node, programs[0]);

    uninstall();
    for node in nodes() {
        assert_eq!(traces(&node), "", "{}", node.name);
        request(&node, &own).unwrap_or_else(|e| panic!("{} from {}: {e}", own, node.name));
        for address in &addresses {
            let translated = request(&node, address);
            assert!(translated.is_err(), "a program of {} translates {address}", node.name);
        }
    }
    if shares_kernel {
        // Without pins, only devices and cgroups can refer to them.
        eventually("removal of all programs", Duration::from_secs(30), || {
            let left: Vec<_> = programs.iter().filter(|id| prog_by_id(**id).is_ok()).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("programs {left:?}")) }
        });
    }
    nodes_ready(false);
    // Without agents and objects it is repeatable.
    uninstall();

    install_other_cni();
    install_kube_proxy();
    nodes_ready(true);
    network_works("other");

    // Sluice beside the other network: found, with the remedy.
    kubectl(&["apply", "-k", DEPLOY]);
    problems_are_reported(&node);

    // Back: the rules and files of the other network first.
    remove_kube_proxy();
    remove_other_cni();
    install();
    nodes_ready(true);
    recreate_dns();
    network_works("again");
    if !shares_kernel {
        skip("the search for programs requires root and nodes with the kernel of the test");
    }
}
