//! etcd is restored from a backup: the API servers start again with an older state.

use api_server::Request;

use super::*;

/// Requests for the version of the server.
fn comparisons(server: &ApiServer) -> usize {
    let is_comparison = |request: &Request| request.query.ends_with("limit=1");
    server.requests().iter().filter(|request| is_comparison(request)).count()
}

/// Lists as `kube` requests them.
fn lists(server: &ApiServer) -> usize {
    let all = server.requests().iter().filter(|request| !request.is_watch()).count();
    all - comparisons(server)
}

/// Waits until every watch has resumed since there were so many requests of watches.
async fn resumed(server: &ApiServer, before: usize) {
    let requests = || server.requests().iter().filter(|request| request.is_watch()).count();
    eventually("watches that resume", || {
        requests() >= before + WATCHES && server.watches() == WATCHES
    })
    .await;
}

#[tokio::test]
async fn watches_that_are_ahead_of_a_restored_server_list_again() {
    let server = ApiServer::start();
    service(&server, "kept");
    let backup = server.backup();
    for lost in 0..20 {
        service(&server, &format!("lost-{lost}"));
    }
    let mut node = Node::watch_silent(&server, Duration::ZERO).await;
    node.lists(Instant::now() + DEADLINE, KINDS).await;
    eventually("all watches", || server.watches() == WATCHES).await;
    // Data: this watch resumes without a comparison, at a version that the server does not reach again.
    service(&server, "lost");
    node.service("lost", Instant::now() + DEADLINE).await;
    let before = server.requests().iter().filter(|request| request.is_watch()).count();
    server.restore(&backup);
    service(&server, "new");
    resumed(&server, before).await;
    server.end_watches();
    let deadline = Instant::now() + DEADLINE;
    let names = loop {
        match node.next(deadline, "list of Services").await {
            Change::Retain(Kind::Service, names) if names.len() == 2 => break names,
            Change::Retain(Kind::Service, names) => panic!("{names:?}"),
            _ => {}
        }
    };
    let mut names: Vec<&str> = names.iter().map(|name| &*name.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["kept", "new"]);
    // From then on as usual.
    service(&server, "newer");
    node.service("newer", Instant::now() + DEADLINE).await;
}

#[tokio::test]
async fn silent_watch_of_a_server_that_went_on_costs_one_request_and_resumes() {
    let server = ApiServer::start();
    let mut node = Node::watch_silent(&server, Duration::ZERO).await;
    node.lists(Instant::now() + DEADLINE, KINDS).await;
    eventually("all watches", || server.watches() == WATCHES).await;
    let (listed, before) = (lists(&server), WATCHES);
    server.end_watches();
    resumed(&server, before).await;
    assert_eq!((lists(&server), comparisons(&server)), (listed, WATCHES));
    service(&server, "new");
    node.service("new", Instant::now() + DEADLINE).await;
}
