use super::*;

fn series(policies: usize, rate: f64) -> Series {
    let case = Case { policies, load: Load::Connect, same_node: true };
    Series { case, samples: vec![Some(rate); 6] }
}

fn figures() -> Figures {
    Figures {
        packets: vec![json!({
            "case": "first packet", "program": "p", "median_ns": 480.0, "low_ns": 470.0, "high_ns": 490.0,
        })],
        adds: vec![Add {
            policies: 100,
            add_ms: vec![5.0],
            near_ms: vec![1.0, 2.0],
            far_ms: vec![3.0, 60.0],
        }],
        rows: vec![
            Rows { policies: 0, tables: vec![("policy_peers".to_owned(), 0)] },
            Rows { policies: 100, tables: vec![("policy_peers".to_owned(), 77)] },
        ],
        series: vec![series(0, 5000.0), series(1, 4950.0), series(100, 4000.0)],
        drops: vec![120.0, 580.0],
        changes: vec![Change {
            what: "policy".to_owned(),
            since_request_ms: vec![12.0],
            since_answer_ms: vec![7.0],
        }],
        memory: vec![Memory {
            name: "no policies".to_owned(),
            agent_kib: 15_360,
            maps_kib: 30_720,
        }],
        starts: Some(Starts {
            pods: 2,
            started_s: 30.0,
            answered_s: 31.26,
            own_ms: vec![0.5, 0.7],
            other_ms: vec![400.0, 900.0],
        }),
        failures: vec!["round 3".to_owned()],
    }
}

#[test]
fn figures_are_beside_their_aims() {
    let text = figures().markdown();
    for expected in [
        "| 0 | connect+request+response | same node | 5000/s | 1 |",
        "| 1 | connect+request+response | same node | 4950/s | 0.990 (0.990 to 0.990), aim 0.98: holds |",
        "| 4000/s | 0.800 (0.800 to 0.800), aim 0.98: does not hold |",
        "| policies of the pods | `policy_peers` |\n|---|---|\n| 0 | 0 |\n| 100 | 77 |\n",
        "| ADD, default deny and 100 policies | 5.0 | 5.0 | 5.0 | 1 | - |",
        "first answer, same node, default deny and 100 policies | 1.0 | 2.0 | 2.0 | 2 | p99 50: holds |",
        "other node, default deny and 100 policies | 3.0 | 60.0 | 60.0 | 2 | p99 50: does not hold |",
        "| dropped packet to its line in `sluice drops --follow` | 120.0 | 580.0 | 580.0 | 2 | p99 1000: holds |",
        "| change of a policy to its effect, since the request | 12.0 | 12.0 | 12.0 | 1 | - |",
        "since the answer | 7.0 | 7.0 | 7.0 | 1 | p99 20: holds |",
        "| 2 pods at once, first instruction to the first answer of the other node | 400.0 | 900.0 |",
        "the last container started after 30.0 s, the last pod had both answers after 31.3 s.",
        "| first packet | `p` | 480 | 470 to 490 |",
        "| no policies | 15.0 | 30.0 |",
        "Of 6 aims 4 hold, 2 do not hold, and 0 are not shown",
        "Not measured: round 3",
    ] {
        assert!(text.contains(expected), "{expected}\nis not in\n{text}");
    }
}

#[test]
fn json_has_every_sample_and_verdict() {
    let json = figures().json();
    assert_eq!(json["series"][2]["samples"][5], 4000.0);
    assert_eq!(json["drops_ms"], json!([120.0, 580.0]));
    assert_eq!(json["rows"][1]["rows"]["policy_peers"], 77);
    let verdicts: Vec<&str> = json["claims"]
        .as_array()
        .map_or(&[][..], Vec::as_slice)
        .iter()
        .filter_map(|claim| claim["verdict"].as_str())
        .collect();
    assert_eq!(verdicts, ["Holds", "Refuted", "Holds", "Refuted", "Holds", "Holds"]);
}

#[test]
fn a_run_that_ended_early_has_a_report() {
    let text = Figures::default().markdown();
    assert!(text.contains("Of 0 aims 0 hold"), "{text}");
}

#[test]
fn starts_are_measured_from_the_first_instruction_and_from_the_first_request() {
    let reports = [
        json!({"started_ns": 2_000_000_000_u64, "answered_ns": [2_001_000_000_u64, 2_500_000_000_u64]}),
        json!({"started_ns": 3_000_000_000_u64, "answered_ns": [3_002_000_000_u64, null]}),
    ];
    let starts = Starts::new(1_000_000_000, reports.into_iter());
    assert_eq!((starts.pods, starts.started_s, starts.answered_s), (2, 2.0, 2.002));
    assert_eq!((starts.own_ms, starts.other_ms), (vec![1.0, 2.0], vec![500.0]));
}
