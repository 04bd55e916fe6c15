//! ClusterIP Services as users write them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cluster_tests::{
    Namespace, client, client_on, eventually, replicas, server_on, service, workers,
};

const WEB: (&str, &str, u16, &str) = ("web", "TCP", 80, "web");

/// Names of the replicas that answered `count` requests, each on a connection of its own.
fn ask(ns: &Namespace, from: &str, url: &str, count: usize) -> BTreeMap<String, usize> {
    let line = format!(
        "for i in $(seq {count}); do curl -sf -m 3 {url}/hostname || echo FAILED; echo; done"
    );
    let mut answers = BTreeMap::new();
    for name in ns.sh(from, &line).unwrap().split_whitespace() {
        *answers.entry(name.to_owned()).or_default() += 1;
    }
    answers
}

#[test]
fn names_resolve_and_requests_spread_over_replicas() {
    let ns = Namespace::new("spread");
    ns.apply(&(client("client") + &replicas("orders", 3) + &service("orders", "orders", &[WEB])));
    ns.ready("client", 1);
    ns.ready("orders", 3);
    ns.sh_eventually("client", "curl -sf -m 3 http://orders/hostname");
    let answers = ask(&ns, "client", "http://orders", 90);
    assert_eq!(answers.values().sum::<usize>(), 90, "{answers:?}");
    assert_eq!(answers.len(), 3, "{answers:?}");
    // Binomial(90, 1/3): fewer than 10 has a chance of one in a million.
    assert!(answers.values().all(|&n| n >= 10), "{answers:?}");
}

#[test]
fn udp_tcp_and_named_target_ports_on_one_service() {
    let ns = Namespace::new("ports");
    let ports = [WEB, ("other", "TCP", 8888, "8080"), ("datagram", "UDP", 80, "web-udp")];
    ns.apply(&(client("client") + &replicas("multi", 2) + &service("multi", "multi", &ports)));
    ns.ready("client", 1);
    ns.ready("multi", 2);
    let ip = ns.cluster_ip("multi");
    for line in [
        format!("curl -sf -m 3 http://{ip}/hostname"),
        format!("curl -sf -m 3 http://{ip}:8888/hostname"),
        format!("echo hostname | nc -u -w 2 {ip} 80 | grep multi"),
    ] {
        let answer = ns.sh_eventually("client", &line);
        assert!(answer.starts_with("multi-"), "{line}: {answer}");
    }
}

#[test]
fn without_an_endpoint_the_client_is_refused_at_once() {
    let ns = Namespace::new("empty");
    ns.apply(&(client("client") + &service("empty", "nobody", &[WEB])));
    ns.ready("client", 1);
    let ip = ns.cluster_ip("empty");
    let refused = || {
        let start = Instant::now();
        // curl: exit code 7 is "failed to connect", 28 a time-out.
        let text = ns.sh("client", &format!("curl -s -m 5 http://{ip}/; echo code=$?"))?;
        if text.contains("code=7") && start.elapsed() < Duration::from_secs(3) {
            Ok(())
        } else {
            Err(format!("{text} after {:?}", start.elapsed()))
        }
    };
    eventually("connection refused", Duration::from_secs(20), refused);
}

#[test]
fn a_port_that_the_service_does_not_have_is_refused() {
    let ns = Namespace::new("unknown");
    ns.apply(&(client("client") + &replicas("web", 1) + &service("web", "web", &[WEB])));
    ns.ready("client", 1);
    ns.ready("web", 1);
    let ip = ns.cluster_ip("web");
    ns.sh_eventually("client", &format!("curl -sf -m 3 http://{ip}/hostname"));
    let text = ns.sh("client", &format!("curl -s -m 5 http://{ip}:81/; echo code=$?")).unwrap();
    assert!(text.contains("code=7"), "{text}");
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let ns = Namespace::new("hairpin");
    ns.apply(&(replicas("self", 1) + &service("self", "self", &[WEB])));
    ns.ready("self", 1);
    let pod = ns.pods("self")[0]["metadata"]["name"].as_str().unwrap().to_owned();
    assert_eq!(ns.sh_eventually(&pod, "curl -sf -m 3 http://self/hostname"), pod);
}

#[test]
fn endpoints_that_come_and_go_are_followed() {
    let ns = Namespace::new("scale");
    ns.apply(&(client("client") + &replicas("web", 1) + &service("web", "web", &[WEB])));
    ns.ready("client", 1);
    ns.ready("web", 1);
    let url = format!("http://{}", ns.cluster_ip("web"));
    for count in [3, 1, 2] {
        ns.kubectl(&["scale", "deployment", "web", &format!("--replicas={count}")]);
        ns.ready("web", count);
        eventually(&format!("{count} replicas to answer"), Duration::from_secs(30), || {
            let answers = ask(&ns, "client", &url, 30);
            if answers.len() == count && !answers.contains_key("FAILED") {
                Ok(())
            } else {
                Err(format!("{answers:?}"))
            }
        });
    }
}

#[test]
fn the_api_server_answers_on_its_cluster_ip() {
    let ns = Namespace::new("api");
    for (n, worker) in workers().iter().enumerate() {
        let name = format!("client-{n}");
        ns.apply(&client_on(&name, &worker.name, false));
        ns.ready(&name, 1);
        let line = "curl -skf -m 5 https://$KUBERNETES_SERVICE_HOST/livez";
        assert_eq!(ns.sh_eventually(&name, line), "ok");
    }
}

#[test]
fn a_host_network_pod_reaches_a_cluster_ip() {
    let ns = Namespace::new("host");
    let workers = workers();
    ns.apply(&client_on("host", &workers[0].name, true));
    ns.apply(&server_on("near", "web", &workers[0].name));
    ns.apply(&server_on("far", "web", &workers[1].name));
    ns.apply(&service("web", "web", &[("web", "TCP", 80, "8080")]));
    ns.ready("host", 1);
    ns.ready("web", 2);
    let url = format!("http://{}", ns.cluster_ip("web"));
    eventually("both to answer", Duration::from_secs(30), || {
        let answers = ask(&ns, "host", &url, 30);
        if answers.len() == 2 && !answers.contains_key("FAILED") {
            Ok(())
        } else {
            Err(format!("{answers:?}"))
        }
    });
}

#[test]
fn dns_over_udp_and_tcp_through_the_cluster_ip() {
    let ns = Namespace::new("dns");
    ns.apply(&client("client"));
    ns.ready("client", 1);
    for how in ["", "+tcp"] {
        let line =
            format!("dig +short +time=3 {how} kubernetes.default.svc.cluster.local @10.96.0.10");
        assert_eq!(ns.sh_eventually("client", &line), "10.96.0.1");
    }
}

#[test]
fn hand_made_slices_work_and_several_add_up() {
    let ns = Namespace::new("slices");
    let workers = workers();
    ns.apply(
        &(client("client")
            + &server_on("one", "one", &workers[0].name)
            + &server_on("two", "two", &workers[1].name)),
    );
    ns.ready("client", 1);
    let addresses = [ns.ready("one", 1).remove(0), ns.ready("two", 1).remove(0)];
    ns.apply("apiVersion: v1\nkind: Service\nmetadata: {name: manual}\nspec:\n  ports: [{name: web, port: 80}]\n");
    for (n, address) in addresses.iter().enumerate() {
        ns.apply(&format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: manual-{n}\n  labels: {{kubernetes.io/service-name: manual}}\naddressType: IPv4\nports: [{{name: web, port: 8080, protocol: TCP}}]\nendpoints: [{{addresses: [{address}]}}]\n"
        ));
    }
    let url = format!("http://{}", ns.cluster_ip("manual"));
    eventually("both slices to answer", Duration::from_secs(30), || {
        let answers = ask(&ns, "client", &url, 20);
        if answers.contains_key("one") && answers.contains_key("two") {
            Ok(())
        } else {
            Err(format!("{answers:?}"))
        }
    });
}
