//! What becomes of flows while Services and their endpoints change.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use std::collections::BTreeSet;
use std::time::Duration;

use cluster_tests::{
    Namespace, client, client_on, eventually, replicas, server_on, service, workers,
};

const WEB: (&str, &str, u16, &str) = ("web", "TCP", 80, "8080");
const DATAGRAM: (&str, &str, u16, &str) = ("datagram", "UDP", 80, "8080");

/// Asks on one connection twice, the second time when /tmp/go is there. (The image has Python's
/// smallest library: no http.)
const TWO_REQUESTS: &str = r#"
import os, socket, sys, time
s = socket.create_connection((sys.argv[1], 80), 10)
for wait in (False, True):
    while wait and not os.path.exists("/tmp/go"):
        time.sleep(0.1)
    s.send(b"GET /hostname HTTP/1.1\r\nHost: web\r\n\r\n")
    print(s.recv(4000).decode().split("\r\n\r\n")[1].strip(), flush=True)
"#;

/// Answers every request on port 9000 with the file /tmp/body.
const FILE_SERVER: &str = r#"
import socket
body = open("/tmp/body", "rb").read()
server = socket.create_server(("", 9000))
while True:
    s, _ = server.accept()
    try:
        s.recv(4000)
        s.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    except OSError:
        pass
    s.close()
"#;

/// Asks the same connected socket over and over; an error makes a new socket, silence does not.
const UDP_CLIENT: &str = r#"
import socket, sys, time
def connect():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(0.5)
    s.connect((sys.argv[1], 80))
    return s
s = connect()
while True:
    try:
        s.send(b"hostname")
        print(s.recv(200).decode().strip(), flush=True)
    except socket.timeout:
        print("SILENCE", flush=True)
    except OSError as e:
        print("ERROR", e.errno, flush=True)
        s = connect()
    time.sleep(0.1)
"#;

/// Starts a Python program in a pod; what it prints goes to /tmp/out.
fn start_python(ns: &Namespace, pod: &str, program: &str, argument: &str) {
    let line = format!(
        "cat > /tmp/program.py <<'END'\n{program}\nEND\n\
         nohup python3 /tmp/program.py {argument} > /tmp/out 2>&1 < /dev/null &"
    );
    ns.sh(pod, &line).unwrap();
}

fn output(ns: &Namespace, pod: &str) -> Vec<String> {
    ns.sh(pod, "cat /tmp/out").unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Names that answered on TCP, or FAILED, for `count` requests.
fn answers(ns: &Namespace, from: &str, address: &str, count: usize) -> BTreeSet<String> {
    let line = format!(
        "for i in $(seq {count}); do curl -sf -m 2 http://{address}/hostname || echo FAILED; echo; done"
    );
    ns.sh(from, &line).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

fn await_answers(ns: &Namespace, from: &str, address: &str, expect: &[&str]) {
    let expect: BTreeSet<String> = expect.iter().map(|e| (*e).to_owned()).collect();
    eventually(&format!("{expect:?} to answer"), Duration::from_secs(30), || {
        let seen = answers(ns, from, address, 20);
        if seen == expect { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

#[test]
fn an_open_connection_outlives_changes_of_the_service() {
    let ns = Namespace::new("open");
    let workers = workers();
    ns.apply(
        &(client("client")
            + &server_on("one", "web", &workers[0].name)
            + &service("web", "web", &[WEB])),
    );
    ns.ready("client", 1);
    ns.ready("web", 1);
    let ip = ns.cluster_ip("web");
    await_answers(&ns, "client", &ip, &["one"]);
    start_python(&ns, "client", TWO_REQUESTS, &ip);
    eventually("the first answer", Duration::from_secs(10), || match output(&ns, "client") {
        lines if lines == ["one"] => Ok(()),
        lines => Err(format!("{lines:?}")),
    });
    // Another endpoint comes, and the one in use leaves the Service but lives on.
    ns.apply(&server_on("two", "web", &workers[1].name));
    ns.ready("web", 2);
    ns.kubectl(&["label", "pod", "one", "app=retired", "--overwrite"]);
    await_answers(&ns, "client", &ip, &["two"]);
    ns.sh("client", "touch /tmp/go").unwrap();
    eventually("the second answer", Duration::from_secs(10), || match output(&ns, "client") {
        lines if lines == ["one", "one"] => Ok(()),
        lines => Err(format!("{lines:?}")),
    });
}

#[test]
fn a_connected_udp_client_moves_on_when_its_backend_goes() {
    let ns = Namespace::new("udp");
    let workers = workers();
    ns.apply(
        &(client_on("client", &workers[0].name, false)
            + &server_on("one", "web", &workers[1].name)
            + &service("web", "web", &[DATAGRAM])),
    );
    ns.ready("client", 1);
    ns.ready("web", 1);
    ns.sh_eventually(
        "client",
        &format!("echo hostname | nc -u -w 1 {} 80 | grep one", ns.cluster_ip("web")),
    );
    start_python(&ns, "client", UDP_CLIENT, &ns.cluster_ip("web"));
    let last = |name: &'static str| {
        move |lines: Vec<String>| match lines.last() {
            Some(line) if line == name => Ok(()),
            other => Err(format!("{other:?}")),
        }
    };
    let one = last("one");
    eventually("an answer of one", Duration::from_secs(10), || one(output(&ns, "client")));
    ns.apply(&server_on("two", "web", &workers[1].name));
    ns.ready("web", 2);
    ns.kubectl(&["delete", "pod", "one", "--wait=true"]);
    let two = last("two");
    eventually("an answer of two", Duration::from_secs(20), || two(output(&ns, "client")));
}

#[test]
fn headless_names_lead_to_the_pods_themselves() {
    let ns = Namespace::new("headless");
    let workers = workers();
    let headless = service("web", "web", &[WEB]).replace("spec:\n", "spec:\n  clusterIP: None\n");
    ns.apply(
        &(client("client")
            + &server_on("one", "web", &workers[0].name)
            + &server_on("two", "web", &workers[1].name)
            + &headless),
    );
    ns.ready("client", 1);
    let mut addresses = ns.ready("web", 2);
    addresses.sort();
    eventually("both addresses by name", Duration::from_secs(40), || {
        let name = format!("web.{}.svc.cluster.local", ns.name);
        let text = ns.sh("client", &format!("dig +short +time=2 {name} @10.96.0.10"))?;
        let mut found: Vec<&str> = text.lines().collect();
        found.sort_unstable();
        if found == addresses { Ok(()) } else { Err(text) }
    });
    // The Service's port means nothing there: the pods are asked at their own.
    ns.sh_eventually("client", "curl -sf -m 3 http://web:8080/hostname");
}

#[test]
fn one_of_two_services_on_the_same_pods_goes() {
    let ns = Namespace::new("two");
    let workers = workers();
    ns.apply(
        &(client("client")
            + &server_on("one", "web", &workers[0].name)
            + &service("stays", "web", &[WEB, DATAGRAM])
            + &service("goes", "web", &[WEB, DATAGRAM])),
    );
    ns.ready("client", 1);
    ns.ready("web", 1);
    let (stays, goes) = (ns.cluster_ip("stays"), ns.cluster_ip("goes"));
    await_answers(&ns, "client", &stays, &["one"]);
    await_answers(&ns, "client", &goes, &["one"]);
    ns.kubectl(&["delete", "service", "goes"]);
    await_answers(&ns, "client", &goes, &["FAILED"]);
    await_answers(&ns, "client", &stays, &["one"]);
    ns.sh_eventually("client", &format!("echo hostname | nc -u -w 1 {stays} 80 | grep one"));
}

#[test]
fn internal_traffic_policy_local_stays_on_the_node() {
    let ns = Namespace::new("local");
    let workers = workers();
    let local =
        service("web", "web", &[WEB]).replace("spec:\n", "spec:\n  internalTrafficPolicy: Local\n");
    ns.apply(
        &(client_on("client", &workers[0].name, false)
            + &server_on("near", "web", &workers[0].name)
            + &server_on("far", "web", &workers[1].name)
            + &local),
    );
    ns.ready("client", 1);
    ns.ready("web", 2);
    let ip = ns.cluster_ip("web");
    await_answers(&ns, "client", &ip, &["near"]);
    ns.kubectl(&["delete", "pod", "near", "--wait=true"]);
    // Endpoints elsewhere only: dropped, not refused (28 is curl's time-out, 7 a refusal).
    eventually("packets to be dropped", Duration::from_secs(30), || {
        let text = ns.sh("client", &format!("curl -s -m 2 http://{ip}/; echo code=$?"))?;
        if text.contains("code=28") { Ok(()) } else { Err(text) }
    });
}

#[test]
fn large_bodies_arrive_whole() {
    let ns = Namespace::new("large");
    let workers = workers();
    ns.apply(
        &(client_on("near", &workers[0].name, false)
            + &client_on("far", &workers[1].name, false)
            + &client_on("files", &workers[0].name, false)
            + &service("files", "files", &[("web", "TCP", 80, "9000")])),
    );
    for app in ["near", "far", "files"] {
        ns.ready(app, 1);
    }
    let sum = ns.sh("files", "head -c 30000000 /dev/urandom > /tmp/body && sha256sum < /tmp/body");
    let sum = sum.unwrap();
    start_python(&ns, "files", FILE_SERVER, "");
    let direct = format!("http://{}:9000/body", ns.address("files"));
    let service = format!("http://{}/body", ns.cluster_ip("files"));
    for url in [direct, service] {
        for client in ["near", "far"] {
            let line = format!("curl -sf -m 20 {url} | sha256sum");
            eventually(&format!("{url} from {client}"), Duration::from_secs(40), || {
                let seen = ns.sh(client, &line)?;
                if seen == sum { Ok(()) } else { Err(seen) }
            });
        }
    }
}

#[test]
fn a_rolling_update_loses_nothing() {
    let ns = Namespace::new("rolling");
    ns.apply(&(client("client") + &replicas("web", 2) + &service("web", "web", &[WEB])));
    ns.kubectl(&[
        "patch",
        "deployment",
        "web",
        "-p",
        r#"{"spec": {"strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {"spec": {"terminationGracePeriodSeconds": 20, "containers": [
              {"name": "main", "lifecycle": {"preStop": {"exec": {"command": ["sleep", "5"]}}}}]}}}}"#,
    ]);
    ns.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);
    ns.ready("client", 1);
    let ip = ns.cluster_ip("web");
    ns.sh_eventually("client", &format!("curl -sf -m 3 http://{ip}/hostname"));
    let load = format!(
        "(while [ ! -e /tmp/stop ]; do \
         curl -sf -m 3 -o /dev/null http://{ip}/hostname && echo ok || echo FAILED; done) \
         > /tmp/out 2>&1 < /dev/null &"
    );
    ns.sh("client", &load).unwrap();
    ns.kubectl(&["rollout", "restart", "deployment/web"]);
    ns.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);
    ns.sh("client", "touch /tmp/stop").unwrap();
    let lines = output(&ns, "client");
    assert!(lines.len() > 50, "too few requests to show anything: {}", lines.len());
    let failed = lines.iter().filter(|l| *l != "ok").count();
    assert_eq!(failed, 0, "of {} requests", lines.len());
}
