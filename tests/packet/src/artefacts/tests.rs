use super::*;
use crate::{CLIENT, CLIENT_IFINDEX, PORT, Packet, SERVER, hex};

/// A packet in a datapath of its own, on a thread with the name of a test.
fn run_on_thread(name: &str, fails: bool) -> thread::Result<()> {
    let test = move || {
        let datapath = Datapath::node();
        datapath.from_pod(CLIENT_IFINDEX, &packet()).to_pod(&[]);
        assert!(!fails, "an example of a failed test");
    };
    thread::Builder::new().name(name.to_owned()).spawn(test).unwrap().join()
}

fn packet() -> Packet {
    Packet::udp((CLIENT, PORT), (SERVER, 80), b"x")
}

#[test]
fn panicking_test_leaves_its_runs_and_maps() {
    const NAME: &str = "artefacts::example_of_a_failed_test";
    let folder = folder_of(NAME);
    let _ = fs::remove_dir_all(&folder);
    assert!(run_on_thread(NAME, true).is_err());
    let frame = packet().bytes_from_pod(CLIENT_IFINDEX);
    let read = |file: &str| {
        fs::read(folder.join(file)).unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
    };
    let line = format!("  in        {}\n", hex::encode(&frame));
    for (file, words) in [
        ("runs.txt", &["run 1: from_pod, device 101", &line, "Redirect", "to_pod (1 packets"][..]),
        ("maps.txt", &["# NODE_CONFIG\n0 -> NodeConfig {", "FlowEntry {", "to_pod: 1 packets"]),
    ] {
        let text = String::from_utf8(read(file)).unwrap();
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {file}:\n{text}");
        }
    }
    let capture = read("runs.pcap");
    assert_eq!(capture[..4], 0xa1b2_c3d4_u32.to_ne_bytes());
    assert_eq!(capture[40..40 + frame.len()], frame, "the first frame of the capture");
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn passing_test_leaves_nothing() {
    const NAME: &str = "artefacts::example_of_a_passed_test";
    let folder = folder_of(NAME);
    let _ = fs::remove_dir_all(&folder);
    assert!(run_on_thread(NAME, false).is_ok());
    assert!(!folder.exists());
}
