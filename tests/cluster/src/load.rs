//! Requests without pause, while a test changes the cluster.

use crate::Namespace;

/// Number of requests below which a load shows nothing.
const ENOUGH: usize = 50;

/// One request after the other from a pod, each with a new connection.
pub struct Load<'a> {
    namespace: &'a Namespace,
    pod: &'a str,
}

impl<'a> Load<'a> {
    /// Waits until `url` responds, then starts the requests.
    #[track_caller]
    pub fn start(namespace: &'a Namespace, pod: &'a str, url: &str) -> Load<'a> {
        namespace.sh_eventually(pod, &format!("curl -sf -m 3 {url}"));
        let script = format!(
            "rm -f /tmp/stop /tmp/log /tmp/done; (while [ ! -e /tmp/stop ]; do \
             curl -sf -m 3 -o /dev/null {url} && echo ok || echo FAILED; \
             done > /tmp/log 2>&1; touch /tmp/done) > /dev/null 2>&1 < /dev/null &"
        );
        namespace.sh(pod, &script).unwrap();
        Load { namespace, pod }
    }

    /// Ends the requests and fails the test if one of them failed or there were too few.
    #[track_caller]
    pub fn expect_no_failure(self) {
        let Load { namespace, pod } = self;
        namespace.sh(pod, "touch /tmp/stop").unwrap();
        namespace.sh_eventually(pod, "test -e /tmp/done");
        let log = namespace.sh(pod, "cat /tmp/log").unwrap();
        let (ok, failed): (Vec<&str>, Vec<&str>) = log.lines().partition(|line| *line == "ok");
        assert!(ok.len() > ENOUGH, "{} requests are too few", ok.len());
        assert!(failed.is_empty(), "{} of {} failed", failed.len(), ok.len() + failed.len());
    }
}
