//! hostPort by the portmap plugin behind Sluice: its rules and our programs share a packet.

use netns_tests::{Call, Node, Sandbox, plugin};
use serde_json::{Value, json};

use crate::two;

/// ADD by Sluice and then by portmap.
fn add_with_port(node: &Node, sandbox: &Sandbox) -> Value {
    let ours = node.cni("ADD", sandbox).ok();
    let config = json!({
        "cniVersion": ours["cniVersion"], "name": "sluice", "type": "portmap",
        "prevResult": ours,
        "runtimeConfig": {
            "portMappings": [{"hostPort": 9080, "containerPort": 80, "protocol": "tcp"}]
        },
    });
    let call = Call::for_sandbox("ADD", &config, sandbox).with_binary(&plugin("portmap"));
    call.run(&node.spaces).ok()
}

#[test]
fn a_host_port_leads_to_its_pod() {
    let t = two();
    let sandbox = t.a.sandbox("default/web");
    let result = add_with_port(&t.a, &sandbox);
    let web = t.a.wired(&sandbox, result);
    let (near, far) = (t.a.pod("default/near"), t.b.pod("default/far"));
    let _server = web.serve("web", &["tcp:80"]);
    let port = format!("{}:9080", t.a.address);
    for (what, client) in [
        ("outside", &t.world.outside),
        ("another node", &*t.b),
        ("a pod elsewhere", &far.place),
        ("a pod on its node", &near.place),
        ("the node", &*t.a),
    ] {
        let asked = client.ask("tcp", &port);
        let (answer, from) = asked.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!((answer.who.as_str(), from.to_string()), ("web", port.clone()), "{what}");
    }
    assert_eq!(t.world.outside.download(&port, 4 << 20), Ok(4 << 20));
    assert!(t.world.outside.ask("tcp", &format!("{}:9081", t.a.address)).is_err());
}
