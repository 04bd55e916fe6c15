//! The socket, its limits and the comparison of the folder.

use std::fs;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use sluice_pod::NoticeVerb;
use tokio::time::{Instant, timeout};

use super::*;

const LONG: Duration = Duration::from_secs(20);

fn notice(verb: NoticeVerb, code: u32) -> Notice {
    Notice {
        verb,
        code,
        microseconds: 3_000,
        container_id: "c1".into(),
        pod_uid: None,
        index: Some(1),
        generation: Some(2),
    }
}

struct Setup {
    dir: tempfile::TempDir,
    stats: CniStats,
    events: mpsc::Receiver<Event>,
}

impl Setup {
    fn new() -> Setup {
        let dir = tempfile::tempdir().unwrap();
        let leases = dir.path().join("cni/leases");
        fs::create_dir_all(&leases).unwrap();
        // The clock of a file system is coarse: the next change has to have another time.
        fs::File::open(leases).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        let (sender, events) = mpsc::channel(4);
        let stats = CniStats::default();
        spawn(Store::new(dir.path().join("cni")), stats.clone(), sender).unwrap();
        Setup { dir, stats, events }
    }

    fn send(&self, notice: &Notice) -> io::Result<()> {
        notice.send(&self.dir.path().join("cni"))
    }

    fn send_bytes(&self, bytes: &[u8]) {
        let socket = StdDatagram::unbound().unwrap();
        socket.send_to(bytes, self.dir.path().join("cni.sock")).unwrap();
    }

    /// Waits until the metrics have this line.
    async fn has_line(&self, line: &str) {
        let mut registry = Registry::default();
        registry.register("duration", "d", self.stats.duration.clone());
        registry.register("errors", "e", self.stats.errors.clone());
        registry.register("ignored", "i", self.stats.ignored.clone());
        let deadline = Instant::now() + LONG;
        loop {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            if text.lines().any(|l| l == line) {
                return;
            }
            assert!(Instant::now() < deadline, "{line} is not in\n{text}");
            tokio::task::yield_now().await;
        }
    }

    async fn event(&mut self) {
        let event = timeout(LONG, self.events.recv()).await.unwrap();
        assert!(matches!(event, Some(Event::Leases)), "{event:?}");
    }
}

#[tokio::test]
async fn add_and_del_cause_an_event_and_every_verb_is_measured() {
    let mut setup = Setup::new();
    assert_eq!(
        fs::metadata(setup.dir.path().join("cni.sock")).unwrap().permissions().mode() & 0o777,
        0o600
    );
    setup.send(&notice(NoticeVerb::Add, 0)).unwrap();
    setup.event().await;
    setup.has_line("duration_bucket{le=\"0.004\",verb=\"ADD\"} 1").await;
    setup.send(&notice(NoticeVerb::Status, 50)).unwrap();
    setup.send(&notice(NoticeVerb::Check, 999)).unwrap();
    setup.has_line("errors_total{verb=\"STATUS\",code=\"50\"} 1").await;
    setup.has_line("errors_total{verb=\"CHECK\",code=\"4294967295\"} 1").await;
    assert!(setup.events.try_recv().is_err());
    setup.send(&notice(NoticeVerb::Del, 0)).unwrap();
    setup.event().await;
}

#[tokio::test]
async fn malformed_datagrams_are_counted_and_ignored() {
    let mut setup = Setup::new();
    let long = notice(NoticeVerb::Add, 0);
    let long =
        serde_json::to_vec(&Notice { container_id: "c".repeat(NOTICE_MAX), ..long }).unwrap();
    for (count, bytes) in [(1, &b""[..]), (2, b"{"), (3, b"{\"verb\":\"ADD\"}"), (4, &long)] {
        setup.send_bytes(bytes);
        setup.has_line(&format!("ignored_total{{reason=\"malformed\"}} {count}")).await;
    }
    assert!(setup.events.try_recv().is_err());
}

#[tokio::test]
async fn a_change_of_the_leases_without_a_datagram_is_found() {
    let mut setup = Setup::new();
    fs::write(setup.dir.path().join("cni/leases/10.244.1.7+0+slc00000000000"), "{}").unwrap();
    setup.event().await;
}

/// Thousands of datagrams: events are merged, and senders are refused instead of queued.
#[tokio::test]
async fn a_flood_is_merged_and_does_not_block_senders() {
    let mut setup = Setup::new();
    let state = setup.dir.path().join("cni");
    let flood = tokio::task::spawn_blocking(move || {
        let start = std::time::Instant::now();
        let refused =
            (0..5_000).filter(|_| notice(NoticeVerb::Add, 0).send(&state).is_err()).count();
        (refused, start.elapsed())
    });
    let mut received = 0;
    while !flood.is_finished() {
        if timeout(PAUSE, setup.events.recv()).await.is_ok() {
            received += 1;
        }
    }
    let (refused, took) = flood.await.unwrap();
    let pauses = took.as_millis() / PAUSE.as_millis();
    let queue = fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").unwrap();
    let queue: u128 = queue.trim().parse().unwrap();
    let accepted = 5_000 - refused as u128;
    assert!(accepted <= (pauses + 2) * BURST as u128 + queue + 1, "{accepted} in {took:?}");
    assert!((1..=pauses + 2).contains(&received), "{received} events in {took:?}");
}

#[tokio::test]
async fn datagrams_of_other_users_are_counted_and_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("cni");
    let socket = open(&notice_socket(&state)).unwrap();
    let own = nix::unistd::geteuid().as_raw();
    let stats = CniStats::default();
    for (user, is_read) in [(own + 1, false), (own, true)] {
        notice(NoticeVerb::Add, 0).send(&state).unwrap();
        let changed = timeout(LONG, burst(&socket, user, &stats)).await.unwrap().unwrap();
        assert_eq!(changed, is_read, "{user}");
    }
    let mut registry = Registry::default();
    registry.register("ignored", "i", stats.ignored.clone());
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    assert!(text.contains("ignored_total{reason=\"other_user\"} 1"), "{text}");
}
